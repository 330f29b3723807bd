"""Time and memory of a step against all that makes it larger, beside what theory says.

    python -m benchmarks.growth [--axes=tasks,size] [--draw]

Each point is `benchmarks.step` in a process of its own, stored in docs/results/growth.json as soon
as it has been measured: what is there is not measured again. Then docs/results/growth.png is drawn;
`--draw` does only that.
"""

import argparse
import tempfile
from pathlib import Path
from typing import NamedTuple

from benchmarks import programs
from experiments.run_folder import folder


class Axis(NamedTuple):
    """What grows in one chart.

    Attributes:
      label: Of the chart.
      lines: Name of a line to the flags of `benchmarks.step` that all of its points have.
      points: What stands below a point, to the flags that are its own.
    """

    label: str
    lines: dict[str, tuple[str, ...]]
    points: dict[str, tuple[str, ...]]


def _each(flag: str, *values: int) -> dict[str, tuple[str, ...]]:
    return {str(value): (f"--{flag}={value}",) for value in values}


_W1 = ("--workload=W1", "--tasks=4")
_W5 = ("--workload=W5",)
AXES = {
    "tasks": Axis("tasks (W1)", {"": _W1[:1]}, _each("tasks", 1, 4, 16, 64, 256)),
    "inner_steps": Axis(
        "inner steps (W1, 4 tasks)",
        {"": _W1, "remat": (*_W1, "--remat=on")},
        _each("inner_steps", 1, 2, 5, 10, 20),
    ),
    "ways": Axis(
        "ways (W1, 4 tasks)",
        {"": _W1},
        {f"{n}": (f"--ways={n}", f"--support={n}", f"--query={n}") for n in (5, 10, 15, 20)},
    ),
    "size": Axis("pixels (W5)", {"": _W5}, _each("size", 28, 42, 56, 84)),
    "network": Axis(
        "network (W5)",
        {"": ()},
        {
            "Conv4-32": (*_W5, "--filters=32"),
            "Conv4-64": (*_W5, "--filters=64"),
            "ResNet-12": ("--workload=W6",),
        },
    ),
    "seeds": Axis("seeds side by side (W4)", {"": ("--workload=W4",)}, _each("seeds", 1, 2, 4, 8)),
    "devices": Axis("devices (W1)", {"": _W1[:1]}, _each("devices", 1, 2)),
}


def main() -> None:
    """Measures what is missing, and draws."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--axes", default="", help=f"with commas between: {', '.join(AXES)}")
    parser.add_argument("--runs", type=int, default=5, help="timed steps of a point")
    parser.add_argument("--minutes", type=float, default=10.0, help="most minutes for one point")
    parser.add_argument("--draw", action="store_true", help="only draw what is stored")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="folder to write to")
    arguments = parser.parse_args()
    chosen = arguments.axes.split(",") if arguments.axes else list(AXES)
    if unknown := set(chosen) - set(AXES):
        parser.error(f"there is no axis {', '.join(unknown)}: choose from {', '.join(AXES)}")
    path = arguments.docs / "results" / "growth.json"
    stored = folder.read_json(path) if path.exists() else {}
    for name in chosen * (not arguments.draw):
        for shared in AXES[name].lines.values():
            for own in AXES[name].points.values():
                key = " ".join((*shared, *own))
                if key not in stored:
                    stored[key] = measure(
                        *shared, *own, f"--runs={arguments.runs}", seconds=60 * arguments.minutes
                    )
                    print(key, f"{stored[key]['ms']:.1f} ms", flush=True)
                    folder.write_json(path, stored)
    draw(stored, path.with_suffix(".png"))


def measure(*arguments: str, seconds: float) -> dict:
    """What a point of a chart has: milliseconds, MB, GFLOP, the plan and the versions."""
    with tempfile.TemporaryDirectory() as scratch:
        params = f"{scratch}/params.npz"
        row = programs.run("cml_jax", *arguments, params=params, seconds=seconds)
    names = {"ms": "ms_median", "mb": "compiled_mb", "gflop": "gflop", "plan": "plan"}
    return {name: row[key] for name, key in names.items()} | {"versions": row["versions"]}


def draw(stored: dict[str, dict], path: Path) -> None:
    """Draws a column for each axis: time above memory.

    The dashed line is what theory has: the arithmetic of a step, shared by the devices, at the pace
    of the last point; memory has none.

    Args:
      stored: What growth.json has.
      path: The picture.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * len(AXES), 5.5), layout="constrained")
    for (time, memory), axis in zip(figure.subplots(2, len(AXES)).T, AXES.values(), strict=True):
        for (name, shared), style in zip(axis.lines.items(), ("o-", "s-"), strict=False):
            keys = [" ".join((*shared, *own)) for own in axis.points.values()]
            points = zip(axis.points, keys, strict=True)
            known = [(at, stored[key]) for at, key in points if key in stored]
            if not known:
                continue
            labels = [at for at, _ in known]
            ms = [row["ms"] for _, row in known]
            time.plot(labels, ms, style, markersize=4, label=name or "measured")
            memory.plot(labels, [row["mb"] for _, row in known], style, markersize=4, label=name)
            for at, value in zip(labels, ms, strict=True):
                text = f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
                time.annotate(text, (at, value), (0, 5), textcoords="offset points", fontsize=7)
            if not name:
                time.plot(labels, theory(known), "--", color="#888888", label="arithmetic")
        time.set_yscale("log")
        time.margins(0.15)
        memory.set_ylim(bottom=0)
        memory.set_xlabel(axis.label)
        for axes in (time, memory):
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(alpha=0.25)
        if time.lines and (len(axis.lines) > 1 or axis is AXES["tasks"]):
            time.legend(frameon=False, fontsize=7)
    left = figure.axes[0], figure.axes[len(AXES)]
    for axes, label in zip(left, ("ms a step", "MB, compiler's count"), strict=True):
        axes.set_ylabel(label)
    figure.savefig(path, dpi=110)


def theory(known: list[tuple[str, dict]]) -> list[float]:
    """The milliseconds of each point, had all of them the last one's pace.

    >>> points = [("1", {"ms": 5.0, "gflop": 1.0}), ("2", {"ms": 8.0, "gflop": 2.0})]
    >>> theory(points)
    [4.0, 8.0]

    Args:
      known: Label and row of each point; where the arithmetic is the same, the label is the number
        of devices that share it.
    """
    cost = [row["gflop"] for _, row in known]
    if len(known) > 1 and min(cost) == max(cost):
        cost = [row["gflop"] / int(at) for at, row in known]
    return [known[-1][1]["ms"] * each / cost[-1] for each in cost]


if __name__ == "__main__":
    main()
