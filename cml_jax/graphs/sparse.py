"""Sparse matrices stored by rows: products with dense arrays, and some rows of a large one."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

_BLOCK = 1024  # entries at a time


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("rows", "columns", "values", "starts"),
    meta_fields=("shape",),
)
@dataclass(frozen=True)
class Sparse:
    """A matrix `[n, m]`, stored by its z entries in the order of their rows.

    Attributes:
      rows: The row of each entry, int32 `[z]`, sorted.
      columns: The column of each entry, int32 `[z]`.
      values: The value of each entry, float32 `[z]`.
      starts: Where each row starts, int32 `[n + 1]`: row i has the entries from starts[i] up to
        starts[i + 1], the last one excluded.
      shape: The static (n, m).
    """

    rows: jax.Array | np.ndarray
    columns: jax.Array | np.ndarray
    values: jax.Array | np.ndarray
    starts: jax.Array | np.ndarray
    shape: tuple[int, int]


def sparse(
    rows: np.ndarray, columns: np.ndarray, values: np.ndarray, shape: tuple[int, int]
) -> Sparse:
    """Makes a `Sparse` of entries in any order, on the host.

    Args:
      rows: The row of each entry, integers `[z]` from 0 to n - 1.
      columns: The column of each entry, integers `[z]` from 0 to m - 1.
      values: The value of each entry, `[z]`.
      shape: The shape (n, m) of the matrix.

    Returns:
      The matrix, whose arrays are NumPy's.

    Raises:
      ValueError: When two entries are at the same place, or one is outside the matrix.

    >>> matrix = sparse([1, 0], [0, 2], [5.0, 7.0], (2, 3))
    >>> print(matrix.rows, matrix.columns, matrix.values, matrix.starts)
    [0 1] [2 0] [7. 5.] [0 1 2]
    >>> print(matmul(matrix, jnp.array([1.0, 2.0, 3.0])))
    [21.  5.]
    """
    rows, columns, values = np.asarray(rows), np.asarray(columns), np.asarray(values)
    for name, given, size in (("row", rows, shape[0]), ("column", columns, shape[1])):
        if len(outside := given[(given < 0) | (given >= size)]):
            raise ValueError(
                f"an entry is in {name} {outside[0]} of a matrix of shape {tuple(shape)}: correct "
                "the entry, or the shape"
            )
    place = rows.astype(np.int64) * shape[1] + columns
    # What comes from files is in order already, and sorting is slow.
    order = slice(None)
    if not (place[1:] > place[:-1]).all():
        order = np.argsort(place)
        place = place[order]
        if (twice := place[1:] == place[:-1]).any():
            where = divmod(int(place[1:][twice][0]), shape[1])
            raise ValueError(f"two entries are at {where}: add up those of one place first")
    lengths = np.bincount(rows, minlength=shape[0])
    return Sparse(
        rows[order].astype(np.int32),
        columns[order].astype(np.int32),
        values[order].astype(np.float32),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
        (shape[0], shape[1]),
    )


def matmul(matrix: Sparse, dense: jax.Array) -> jax.Array:
    """The product of a sparse matrix and a dense array, `matrix @ dense`.

    Args:
      matrix: The sparse matrix `[n, m]`.
      dense: The dense array `[m, ...]`.

    Returns:
      A dense array `[n, ...]`.
    """
    values = jnp.expand_dims(matrix.values, range(1, dense.ndim))
    return jax.ops.segment_sum(
        values * dense[matrix.columns], matrix.rows, matrix.shape[0], indices_are_sorted=True
    )


def count_entries(matrix: Sparse, rows: jax.Array) -> jax.Array:
    """The number of entries that some rows have together.

    Args:
      matrix: The sparse matrix `[n, m]`.
      rows: The rows, int32 `[k]`; a row that repeats counts as often.

    Returns:
      An int32 scalar.
    """
    return jnp.sum(matrix.starts[rows + 1] - matrix.starts[rows])


def entries(
    matrix: Sparse, rows: jax.Array, begin: jax.typing.ArrayLike, size: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A block of the entries of some rows, taken one row after the other.

    Args:
      matrix: The sparse matrix `[n, m]`.
      rows: The rows, int32 `[k]`; a row may repeat.
      begin: The number of entries before the block, an int32 that may be traced.
      size: The number of entries in the block, static.

    Returns:
      Three arrays `[size]`: place (int32), column (int32) and value (float32). Entry e of the block
      is `value[e]` in column `column[e]` of row `rows[place[e]]`. After the last entry of the last
      row the values are 0.
    """
    matrix = jax.tree.map(jnp.asarray, matrix)  # NumPy's arrays cannot take a traced index
    first = matrix.starts[rows]
    ends = jnp.cumsum(matrix.starts[rows + 1] - first)
    e = begin + jnp.arange(size, dtype=jnp.int32)
    place = jnp.sum(e[:, None] >= ends[None], 1, dtype=jnp.int32)
    holds = place < len(rows)
    place = jnp.minimum(place, len(rows) - 1)
    before = jnp.concatenate([jnp.zeros(1, ends.dtype), ends[:-1]])
    entry = jnp.where(holds, first[place] + e - before[place], 0)
    return place, matrix.columns[entry], jnp.where(holds, matrix.values[entry], 0)


def dense_rows(matrix: Sparse, rows: jax.Array) -> jax.Array:
    """Some rows of a sparse matrix as a dense array, `matrix[rows]`.

    Args:
      matrix: The sparse matrix `[n, m]`.
      rows: The rows, int32 `[k]`; a row may repeat.

    Returns:
      A dense array `[k, m]`, float32.
    """

    def add(block, dense):
        place, column, value = entries(matrix, rows, block * _BLOCK, _BLOCK)
        return dense.at[place, column].add(value)

    blocks = -(-count_entries(matrix, rows) // _BLOCK)
    zeros = jnp.zeros((len(rows), matrix.shape[1]), matrix.values.dtype)
    return jax.lax.fori_loop(0, blocks, add, zeros)
