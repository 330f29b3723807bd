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
    """Draws the programs' times and, where measured, cml_jax's over inner steps and over tasks.

    Args:
      store: What docs/results/performance.json has.
      path: The picture; its suffix is the format.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 5) if "growth" in store else (6, 5), layout="constrained")
    if "growth" in store:
        left, middle, right = figure.subfigures(1, 3, width_ratios=(1.2, 1, 1))
        _inner_steps(middle.subplots(2, sharex=True), store["growth"])
        _tasks(right.subplots(), store["growth"])
    else:
        left = figure
    _programs(left.subplots(), store)
    for part in (figure, *figure.subfigs):
        for axes in part.axes:
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


def _inner_steps(both, growth):
    for axes, key, label in zip(
        both, ("ms_median", "compiled_mb"), ("ms a step", "MB, compiler's count"), strict=True
    ):
        for remat, style in (("off", "o-"), ("on", "s--")):
            values = [row[key] for row in growth["inner steps"][remat]]
            axes.plot(growth["steps"], values, style, label=f"remat {remat}", markersize=4)
        axes.set_ylim(bottom=0)
        axes.set_xticks(growth["steps"])
        axes.set_ylabel(label)
        axes.grid(alpha=0.25)
    both[0].legend(frameon=False, fontsize=8)
    both[1].set_xlabel("inner steps (W1, 4 tasks)")


def _tasks(axes, growth):
    counts = growth["counts"]
    values = [row["ms_median"] / t for t, row in zip(counts, growth["tasks"], strict=True)]
    axes.plot(counts, values, "o-", color=_COLORS["cml_jax"], markersize=4)
    axes.set_xscale("log", base=4)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("tasks in a meta-batch (W1)")
    axes.set_ylabel("ms a task")
    axes.grid(alpha=0.25)
