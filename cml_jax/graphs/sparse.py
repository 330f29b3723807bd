"""Sparse matrices by rows: products with dense ones, and a few rows of a large one."""

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
    """A matrix `[n, m]` by its z entries, in the order of rows; entry e is
    (rows[e], columns[e], values[e]).

    Attributes:
      rows, columns: int32 `[z]`; `rows` is sorted.
      values: float32 `[z]`.
      starts: int32 `[n + 1]`; row i is the entries starts[i] to starts[i + 1].
      shape: (n, m), static.
    """

    rows: jax.Array | np.ndarray
    columns: jax.Array | np.ndarray
    values: jax.Array | np.ndarray
    starts: jax.Array | np.ndarray
    shape: tuple[int, int]


def sparse(
    rows: np.ndarray, columns: np.ndarray, values: np.ndarray, shape: tuple[int, int]
) -> Sparse:
    """A `Sparse` of entries in any order, made on the host.

    Args:
      rows, columns: integers `[z]`, each place at most once.
      values: `[z]`.
      shape: (n, m).

    Raises:
      ValueError: two entries are at one place.
    """
    place = np.asarray(rows, np.int64) * shape[1] + np.asarray(columns, np.int64)
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
    """`matrix @ dense`.

    Args:
      matrix: `[n, m]`.
      dense: `[m, ...]`.

    Returns:
      `[n, ...]`.
    """
    values = jnp.expand_dims(matrix.values, range(1, dense.ndim))
    return jax.ops.segment_sum(
        values * dense[matrix.columns], matrix.rows, matrix.shape[0], indices_are_sorted=True
    )


def count_entries(matrix: Sparse, rows: jax.Array) -> jax.Array:
    """How many entries the rows (int32 `[k]`, may repeat) have together."""
    return jnp.sum(matrix.starts[rows + 1] - matrix.starts[rows])


def entries(
    matrix: Sparse, rows: jax.Array, begin: jax.typing.ArrayLike, size: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A block of the entries of a few rows, which stand one row after the other.

    Args:
      matrix: `[n, m]`.
      rows: int32 `[k]`; may repeat.
      begin: the place of the block's first entry, may be traced.
      size: of the block, static.

    Returns:
      (place, column, value), `[size]` each: entry e is `value[e]` in column `column[e]` of the row
      `rows[place[e]]`. Behind the last entry of the last row values are 0.
    """
    matrix = jax.tree.map(jnp.asarray, matrix)  # NumPy's arrays take no traced index
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
    """`matrix[rows]` as a dense `[k, m]`.

    Args:
      matrix: `[n, m]`.
      rows: int32 `[k]`; may repeat.
    """

    def add(block, dense):
        place, column, value = entries(matrix, rows, block * _BLOCK, _BLOCK)
        return dense.at[place, column].add(value)

    blocks = -(-count_entries(matrix, rows) // _BLOCK)
    zeros = jnp.zeros((len(rows), matrix.shape[1]), matrix.values.dtype)
    return jax.lax.fori_loop(0, blocks, add, zeros)
