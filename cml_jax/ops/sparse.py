"""Sparse matrices by rows: products with dense ones, and a few rows of a large one."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("rows", "columns", "values", "starts"),
    meta_fields=("shape", "longest"),
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
      longest: the number of entries of the longest row, static: the space that a row may need.
    """

    rows: jax.Array
    columns: jax.Array
    values: jax.Array
    starts: jax.Array
    shape: tuple[int, int]
    longest: int


def sparse(
    rows: np.ndarray, columns: np.ndarray, values: np.ndarray, shape: tuple[int, int]
) -> Sparse:
    """A `Sparse` of entries in any order, made on the host; entries at one place are not added up.

    Args:
      rows, columns: integers `[z]`.
      values: `[z]`.
      shape: (n, m).
    """
    order = np.lexsort((columns, rows))
    lengths = np.bincount(rows, minlength=shape[0])
    return Sparse(
        rows[order].astype(np.int32),
        columns[order].astype(np.int32),
        values[order].astype(np.float32),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
        tuple(shape),
        int(lengths.max()),
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


def entries(matrix: Sparse, rows: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The entries of a few rows, one row after the other, in space for any rows.

    Args:
      matrix: `[n, m]`.
      rows: int32 `[k]`; may repeat.

    Returns:
      (place, column, value, count): entry e is `value[e]` in column `column[e]` of the row
      `rows[place[e]]`; arrays `[k * matrix.longest]`, of which the first `count` hold, and behind
      them values are 0.
    """
    first = matrix.starts[rows]
    ends = jnp.cumsum(matrix.starts[rows + 1] - first)
    e = jnp.arange(len(rows) * matrix.longest, dtype=jnp.int32)
    place = jnp.searchsorted(ends, e, side="right", method="compare_all").astype(jnp.int32)
    place = jnp.minimum(place, len(rows) - 1)
    before = jnp.concatenate([jnp.zeros(1, ends.dtype), ends[:-1]])
    holds = e < ends[-1]
    entry = jnp.where(holds, first[place] + e - before[place], 0)
    value = jnp.where(holds, matrix.values[entry], 0)
    return place, matrix.columns[entry], value, ends[-1]


def dense_rows(matrix: Sparse, rows: jax.Array) -> jax.Array:
    """`matrix[rows]` as a dense `[k, m]`.

    Args:
      matrix: `[n, m]`.
      rows: int32 `[k]`.
    """
    place, column, value, _ = entries(matrix, rows)
    return jnp.zeros((len(rows), matrix.shape[1]), value.dtype).at[place, column].add(value)
