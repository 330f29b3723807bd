"""A picture of one task: the support above, the queries below, a column for each class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cml_jax.types import Task
from experiments.report.plots import new_figure

MOST_ROWS = 5  # of the support, and of the queries
_GAP = 2  # pixels between images
_BETWEEN = 8  # pixels between support and queries


def draw_episode(task: Task, path: Path, title: str, names: Sequence[str] = ()) -> bool:
    """Draws the images of a task, as the network is given them.

    Images with values outside of [0, 1], which are normalised, are stretched from the lowest value
    of the task to the highest.

    Args:
      task: Inputs `[examples, h, w, c]` with 1 or 3 channels, targets `[examples]` from 0.
      path: The picture; its suffix is the format.
      title: The text above it.
      names: Of the classes, by target; empty numbers them.

    Returns:
      False where matplotlib is missing, after a warning.

    Raises:
      ValueError: The inputs are not such images.
    """
    inputs = [getattr(part.inputs, "inputs", part.inputs) for part in task]  # without noise's keys
    images, targets = [np.asarray(x) for x in inputs], [np.asarray(part.targets) for part in task]
    if images[0].ndim != 4 or images[0].shape[-1] not in (1, 3):
        shape = list(images[0].shape[1:])
        raise ValueError(f"an example is {shape}, not an image [h, w, 1 or 3]: choose other data")
    low, high = min(x.min() for x in images), max(x.max() for x in images)
    if low < 0 or high > 1:
        images = [(x - low) / (high - low) for x in images]
        title += " (stretched)"
    ways = int(targets[0].max()) + 1
    blocks = [mosaic(x, y, ways) for x, y in zip(images, targets, strict=True)]
    line = np.ones((_BETWEEN, *blocks[0].shape[1:]))
    picture = np.concatenate([blocks[0], line, blocks[1]])
    width = max(5.0, 1.2 * ways)
    figure = new_figure(title, (width, width * len(picture) / picture.shape[1] + 1.4))
    if figure is None:
        return False
    axes = figure.subplots()
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="none")
    column = picture.shape[1] / ways
    labels = [name.replace("_", " ") for name in names] or [str(i) for i in range(ways)]
    axes.set_xticks([column * (i + 0.5) for i in range(ways)], labels, rotation=30, ha="left")
    axes.xaxis.tick_top()
    middles = [len(blocks[0]) / 2, len(blocks[0]) + _BETWEEN + len(blocks[1]) / 2]
    axes.set_yticks(middles, ["support", "queries"], rotation=90, va="center")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.savefig(path, dpi=150, bbox_inches="tight")
    return True


def mosaic(images: np.ndarray, targets: np.ndarray, ways: int) -> np.ndarray:
    """Images in columns by class: `[rows, columns, c]`, white between them.

    Args:
      images: `[n, h, w, c]` in [0, 1].
      targets: The class of each image.
      ways: How many classes there are.
    """
    _, height, width, channels = images.shape
    rows = min(MOST_ROWS, max(int((targets == c).sum()) for c in range(ways)))
    shape = (rows, height + _GAP, ways, width + _GAP, channels)
    picture = np.ones(shape, np.float32)
    for c in range(ways):
        for row, image in enumerate(images[targets == c][:rows]):
            picture[row, :height, c, :width] = image
    return picture.reshape(rows * (height + _GAP), ways * (width + _GAP), channels)
