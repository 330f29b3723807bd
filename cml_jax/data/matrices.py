"""Sparse matrices and labels from outside, checked entry by entry."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cml_jax.data.types import DataError
from cml_jax.labels import check_labels

_MAX_SIZE = 1 << 27  # of a side: products of two stay within int64, ids within int32


class Entries(NamedTuple):
    """A checked matrix, given by its entries: the arguments of `graphs.sparse`."""

    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray
    shape: tuple[int, int]


def csr(path: Path, arrays: dict[str, Any], name: str) -> Entries:
    """Reads a matrix from its CSR parts.

    Args:
      path: The file that they come from, for errors.
      arrays: Has the parts as `arrays[name + "_data"]`, `_indices`, `_indptr` and `_shape`.
      name: The name of the matrix.

    Raises:
      DataError: The parts are not those of a matrix of finite numbers.
    """
    names = ("data", "indices", "indptr", "shape")
    parts: dict[str, Any] = {part: arrays.get(f"{name}_{part}") for part in names}
    for part, array in parts.items():
        if array is None:
            raise _bad(path, f"{name}_{part}", "is missing")
        if not isinstance(array, np.ndarray) or array.ndim != 1:
            raise _bad(path, f"{name}_{part}", "is not an array of one dimension")
        if array.dtype.kind not in ("biuf" if part == "data" else "iu"):
            raise _bad(path, f"{name}_{part}", f"is of {array.dtype}")
    data, indices, indptr, shape = parts.values()
    if shape.shape != (2,) or shape.min() < 1 or shape.max() > _MAX_SIZE:
        raise _bad(path, f"{name}_shape", f"is {shape[:3].tolist()}")
    n, m = map(int, shape)
    if len(indptr) != n + 1 or indptr[0] != 0 or (indptr[1:] < indptr[:-1]).any():
        raise _bad(path, f"{name}_indptr", f"does not rise from 0 in {n} steps")
    if not indptr[-1] == len(indices) == len(data):
        raise _bad(path, f"{name}_indptr", f"ends at {indptr[-1]} of {len(indices)} entries")
    if len(indices) and (indices.min() < 0 or indices.max() >= m):
        raise _bad(path, f"{name}_indices", f"leave 0, ..., {m - 1}")
    _check_values(path, f"{name}_data", data)
    rows = np.repeat(np.arange(n), np.diff(indptr.astype(np.int64)))
    # int64: with uint64, as files may have, NumPy adds in float64.
    return Entries(rows, indices.astype(np.int64), data, (n, m))


def summed(matrix: Entries) -> Entries:
    """The same matrix with at most one entry in each place: those of one place are added up."""
    m = matrix.shape[1]
    place = matrix.rows * m + matrix.columns
    if (place[1:] > place[:-1]).all():  # as SciPy writes it; sorting is slow
        return matrix
    place, which = np.unique(place, return_inverse=True)
    values = np.bincount(which, matrix.values.astype(np.float64), minlength=len(place))
    return Entries(place // m, place % m, values, matrix.shape)


def dense(path: Path, array: np.ndarray) -> Entries:
    """The entries of a dense matrix that are not 0.

    Raises:
      DataError: The array is not a matrix of finite numbers.
    """
    if array.ndim != 2 or array.dtype.kind not in "biuf" or 0 in array.shape:
        raise _bad(path, "attr_matrix", f"is {array.dtype} {array.shape}")
    _check_values(path, "attr_matrix", array)
    rows, columns = np.nonzero(array)
    return Entries(rows, columns, array[rows, columns], array.shape)


def stored_labels(path: Path, labels: Any) -> np.ndarray:
    """Makes sure that labels are integers `[n]` below n, where -1 stands for no class.

    Returns:
      The labels, int32.

    Raises:
      DataError: They are something else.
    """
    try:
        checked = check_labels(labels, of="node", below=np.size(labels))
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None
    if not len(checked):
        raise DataError(f"{path}: there are no labels: replace the file with a good copy")
    return checked


def _check_values(path, name, values):
    if not np.isfinite(values).all() or np.abs(values, dtype=np.float64).max(initial=0) > 1e30:
        raise _bad(path, name, "has values that are not finite in float32")


def _bad(path, name, what):
    return DataError(f"{path}: {name} {what}: replace the file with a good copy")
