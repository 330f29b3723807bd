"""Pictures of one run for its report, as SVG in its folder; none without matplotlib."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cml_jax.types import Batch, Task
from experiments.report import plots
from experiments.report.episode import MOST_ROWS, draw_episode
from experiments.report.themed import themed
from experiments.run_folder.folder import REPORT_PICTURES, Row
from experiments.run_folder.results import Results

if TYPE_CHECKING:
    from experiments.build import Problem

_MOST_REPORTS = 2000  # of a curve
_MOST_PIXELS = 260_000  # of an episode: half a megabyte of photographs


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
        file = "curve_loss" if name == "loss" else "curve_metric"  # a metric may have any name
        with themed(path_of(workdir, file)) as path:
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

    from cml_jax.tasks import Gathered, ImagePool

    data = problem.data["test"]
    shapes = jax.eval_shape(problem.draw_test, key, data)
    shape = getattr(shapes.query.inputs, "shape", ())
    if len(shape) != 4 or shape[-1] not in (1, 3):
        return None
    if problem.draw is not None and isinstance(data, ImagePool):  # a pool may be too large to copy
        draw = jax.jit(problem.draw, static_argnames="split")
        drawn = draw(key, data.members, split="test")
        data = Gathered(data.pixels[np.asarray(drawn.ids)], drawn.copies)
    task = jax.jit(problem.draw_test)(key, data)  # at once, not op by op
    with themed(path_of(workdir, "episode")) as path:
        draw_episode(shrunk(task), path, "", names)
    return path


def shrunk(task: Task, most: int = _MOST_PIXELS) -> Task:
    """A task of images with few enough pixels for a page: means of squares of pixels.

    >>> part = Batch(np.ones((25, 84, 84, 3)), np.arange(25) % 5)
    >>> shrunk(Task(part, part)).query.inputs.shape
    (25, 42, 42, 3)

    Args:
      task: Inputs `[n, h, w, c]`, targets `[n]`.
      most: Pixels of all that `draw_episode` shows.
    """
    images = [np.asarray(part.inputs) for part in task]
    ways = int(np.asarray(task.query.targets).max()) + 1
    count = sum(min(len(each), MOST_ROWS * ways) for each in images)
    _, height, width, channels = images[0].shape
    side = 1
    while count * (height // side) * (width // side) > most:
        side += 1
    h, w = height // side, width // side
    means = [
        each[:, : h * side, : w * side].reshape(-1, h, side, w, side, channels).mean((2, 4))
        for each in images
    ]
    return Task(*(Batch(mean, part.targets) for mean, part in zip(means, task, strict=True)))


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
    every = max(1, len(rows) // _MOST_REPORTS)
    return [
        row
        for i, row in enumerate(rows)
        if i % every == 0 or any(name.startswith("validation/") for name in row)
    ]
