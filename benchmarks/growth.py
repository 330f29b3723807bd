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
    """Draws two charts for each axis, time above memory, on logarithmic scales.

    The dashed line is what theory has: the arithmetic of a step, shared by the devices, at the pace
    of the last point.

    Args:
      stored: What growth.json has.
      path: The picture.
    """
    from matplotlib.figure import Figure

    columns = 4
    rows = 2 * -(-len(AXES) // columns)
    figure = Figure(figsize=(2.9 * columns, 2.3 * rows), layout="constrained")
    grid = figure.subplots(rows, columns)
    for axes in grid.flat:
        axes.set_axis_off()
    for i, axis in enumerate(AXES.values()):
        row, column = 2 * (i // columns), i % columns
        _chart(grid[row, column], grid[row + 1, column], axis, stored)
        if column == 0:
            grid[row, 0].set_ylabel("ms a step")
            grid[row + 1, 0].set_ylabel("MB, compiler's count")
    figure.savefig(path, dpi=110)


def _chart(time, memory, axis, stored):
    """Draws one axis: its time, with the arithmetic, and its memory, all on logarithmic scales."""
    for (name, shared), style in zip(axis.lines.items(), ("o-", "s-"), strict=False):
        keys = [" ".join((*shared, *own)) for own in axis.points.values()]
        points = zip(axis.points, keys, strict=True)
        known = [(at, stored[key]) for at, key in points if key in stored]
        if not known:
            continue
        places = [int(at) if at.isdigit() else at for at, _ in known]
        below = {"time": [r["ms"] for _, r in known], "memory": [r["mb"] for _, r in known]}
        for axes, values in zip((time, memory), below.values(), strict=True):
            [line] = axes.plot(places, values, style, markersize=4, label=name or "measured")
            # Of two lines `remat` is the upper one in time and the lower one in memory.
            lower = len(axis.lines) > 1 and bool(name) == (axes is memory)
            for at, value in zip(places, values, strict=True):
                text = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
                axes.annotate(
                    text,
                    (at, value),
                    (0, -11 if lower else 5),
                    textcoords="offset points",
                    fontsize=7,
                    color=line.get_color() if len(axis.lines) > 1 else "black",
                )
        if not name:
            time.plot(places, theory(known), "--", color="#888888", label="arithmetic")
    for axes in (time, memory):
        axes.set_axis_on()
        axes.set_yscale("log")
        if all(at.isdigit() for at in axis.points):
            axes.set_xscale("log")
            axes.set_xticks([int(at) for at in axis.points], list(axis.points))
        axes.minorticks_off()
        axes.margins(0.18)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    memory.set_xlabel(axis.label)
    if len(time.lines) > 2 or axis is AXES["tasks"]:
        time.legend(frameon=False, fontsize=7)


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
