"""The picture of docs/performance.md. Needs matplotlib."""

import os

import numpy as np

from benchmarks.workloads import WORKLOADS

# Okabe and Ito's colours, told apart by the colour-blind.
_COLORS = {
    "cml_jax": "#0072B2",
    "torch.func": "#D55E00",
    "torch.func, same allocator": "#E69F00",
    "torch loop": "#999999",
}
_LONGEST = 2.0  # bars end here: one slow program must not make the others invisible


def draw(store: dict, path: str | os.PathLike) -> None:
    """Draws the programs' times, relative to torch.func's.

    Args:
      store: What docs/results/performance.json has.
      path: The picture; its suffix is the format.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    _programs(axes, store)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def _programs(axes, store):
    """A bar for each program of each workload, relative to torch.func; the numbers are ms."""
    at, ticks, seen = 0.0, [], set()
    for name in WORKLOADS:
        rows = store.get(name, {"rows": {}})["rows"]
        if not rows:
            continue
        ms = {
            program: np.median([row["ms_median"] for row in done]) for program, done in rows.items()
        }
        ticks.append((at + (len(ms) - 1) / 2, name))
        for program, value in ms.items():
            length = min(value / ms["torch.func"], _LONGEST)
            label = None if program in seen else program
            axes.barh(at, length, height=0.85, color=_COLORS[program], label=label)
            cut = ", cut" if value / ms["torch.func"] > _LONGEST else ""
            digits = 1 if value < 100 else 0
            axes.text(length, at, f" {value:,.{digits}f} ms{cut}", va="center", fontsize=8)
            seen.add(program)
            at += 1
        at += 0.6
    axes.set_yticks([y for y, _ in ticks], [name for _, name in ticks])
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=0.6)
    axes.margins(x=0.22)
    axes.set_xlabel("time of a step, in parts of torch.func's")
    axes.legend(frameon=False, fontsize=8, loc="upper center", ncols=2, bbox_to_anchor=(0.5, 1.13))
