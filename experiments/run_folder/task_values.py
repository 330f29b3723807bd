"""What every test task got: one array for each test of results.json."""

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cml_jax.data.files import DataError, Limits
from cml_jax.data.formats import read_npz
from experiments.run_folder import folder
from experiments.run_folder.results import Results

_LIMITS = Limits(files=2**12, file_bytes=2**28, total_bytes=2**30)


def write_task_values(workdir: str | os.PathLike, values: Sequence[np.ndarray]) -> None:
    """Writes the file, whole or not at all.

    Args:
      workdir: The run's folder.
      values: For each of `Results.test_all`, the metric float32 `[seeds, tasks]`: tasks in their
        order, which is the same in every run with the same seed and data.

    Raises:
      OSError: It could not be written.
    """
    content = io.BytesIO()
    np.savez(content, **{f"test_{i}": array for i, array in enumerate(values)})
    folder.replace_file(Path(workdir, folder.TASK_VALUES), content.getvalue())


def read_task_values(workdir: str | os.PathLike, results: Results) -> list[np.ndarray]:
    """Reads the file.

    Args:
      workdir: The run's folder.
      results: The results in the folder.

    Returns:
      For each of `results.test_all`, the metric float32 `[seeds, tasks]`.

    Raises:
      ValueError: The file is missing, damaged, or not of these results.
    """
    path = Path(workdir, folder.TASK_VALUES)
    again = "run with --evaluate to have it made again"
    if not path.is_file():
        raise ValueError(f"{path} is missing: {again}")
    try:
        arrays = read_npz(path, r"(test_\d+)\.npy", _LIMITS)
    except DataError:
        raise ValueError(f"{path} is damaged: {again}") from None
    values = [arrays.get(f"test_{i}", np.zeros(0)) for i in range(len(results.test_all))]
    for array, test in zip(values, results.test_all, strict=True):
        mean = test[results.metric]
        shape = test.get("num_seeds", 1), test["num_tasks"]
        same = array.shape == shape and array.dtype == np.float32
        if not same or (mean is not None and not np.isclose(array.mean(dtype=float), mean)):
            raise ValueError(f"{path} is not of the results beside it: {again}")
    return values
