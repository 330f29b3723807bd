"""Pictures of one run for its report, as SVG in its folder; none without matplotlib."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.report import plots
from experiments.report.episode import draw_episode
from experiments.report.themed import themed
from experiments.run_folder.folder import REPORT_PICTURES, Row
from experiments.run_folder.results import Results

if TYPE_CHECKING:
    from experiments.build import Problem

_MOST_ROWS = 2000  # of a curve


def path_of(workdir: Path, name: str) -> Path:
    """Where a picture is."""
    return workdir / REPORT_PICTURES / f"{name}.svg"


def curves(
    rows: Sequence[Row], workdir: Path, results: Results, groups: Mapping[str, Sequence[int]] | None
) -> Iterator[tuple[str, Path]]:
    """Draws the metric and, where it is another number, the loss: each name with its picture.

    Args:
      rows: The rows of metrics.jsonl.
      workdir: The run's folder.
      results: What the run reached.
      groups: For several replicas, label to the numbers of its replicas.
    """
    metric = results.metric
    same = all(row.get("train/loss") == row.get(f"train/{metric}") for row in rows)
    for name in (metric,) if same else (metric, "loss"):
        with themed(path_of(workdir, f"curve_{name}")) as path:
            plots.learning_curve(thinned(rows), path, "", metric, results, groups, (name,))
        yield name, path


def histogram(values: np.ndarray, metric: str, workdir: Path) -> Path:
    """Draws how many test tasks got what.

    Args:
      values: What the tasks got, at least one number, all finite.
      metric: Name of the metric.
      workdir: The run's folder.
    """
    with themed(path_of(workdir, "tasks")) as path:
        plots.histogram(values, path, "", metric)
    return path


def episode(problem: "Problem", key: Any, workdir: Path, names: Sequence[str]) -> Path | None:
    """Draws a test task; None where its examples are no images.

    Args:
      problem: What is learned.
      key: The key of the task.
      workdir: The run's folder.
      names: Of the classes, or none.
    """
    import jax

    shapes = jax.eval_shape(problem.draw_test, key, problem.data["test"])
    shape = getattr(shapes.query.inputs, "shape", ())
    if len(shape) != 4 or shape[-1] not in (1, 3):
        return None
    task = jax.jit(problem.draw_test)(key, problem.data["test"])  # at once, not op by op
    with themed(path_of(workdir, "episode")) as path:
        draw_episode(task, path, "", names)
    return path


def fits(examples: Sequence[Mapping[str, Any]], workdir: Path) -> Path:
    """Draws regression tasks.

    Args:
      examples: As in `plots.fits`.
      workdir: The run's folder.
    """
    with themed(path_of(workdir, "fits")) as path:
        plots.fits(examples, path, "")
    return path


def thinned(rows: Sequence[Row]) -> list[Row]:
    """The rows with a validation, and as many others as a picture can show."""
    every = max(1, len(rows) // _MOST_ROWS)
    return [
        row
        for i, row in enumerate(rows)
        if i % every == 0 or any(name.startswith("validation/") for name in row)
    ]
