"""Sparse matrices against dense ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cml_jax.graphs.graph import graph
from cml_jax.graphs.sparse import count_entries, dense_rows, entries, matmul, sparse


@pytest.fixture
def matrix():
    """`[7, 5]`, with an empty row and an empty column, entries in no order."""
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(7, 5)).astype(np.float32) * (rng.random((7, 5)) < 0.4)
    dense[2], dense[:, 1] = 0, 0
    rows, columns = np.nonzero(dense)
    order = rng.permutation(len(rows))
    rows, columns = rows[order], columns[order]
    return dense, sparse(rows, columns, dense[rows, columns], dense.shape)


def test_product(matrix):
    dense, stored = matrix
    for shape in [(5,), (5, 3), (5, 3, 2)]:
        right = np.random.default_rng(1).normal(size=shape).astype(np.float32)
        expected = np.tensordot(dense, right, 1)
        np.testing.assert_allclose(matmul(stored, right), expected, rtol=1e-5, atol=1e-6)


def test_rows_that_repeat_and_an_empty_one(matrix):
    dense, stored = matrix
    rows = jnp.array([3, 2, 6, 3], jnp.int32)
    np.testing.assert_array_equal(dense_rows(stored, rows), dense[rows])
    count = int(count_entries(stored, rows))
    assert count == (dense[rows] != 0).sum()
    blocks = [entries(stored, rows, begin, 3) for begin in range(0, count + 3, 3)]
    place, column, value = (np.concatenate(part) for part in zip(*blocks, strict=True))
    np.testing.assert_array_equal(value[:count], dense[rows[place], column][:count])
    assert len(value) > count and not value[count:].any()


def test_entries_at_one_place_are_refused():
    with pytest.raises(ValueError, match=r"two entries are at \(1, 2\): add up"):
        sparse(np.array([1, 0, 1]), np.array([2, 0, 2]), np.ones(3), (2, 3))


@pytest.mark.parametrize("wrong", [4, -1])
def test_an_edge_to_no_node_is_refused(wrong):
    stored = sparse(np.arange(4), np.zeros(4, int), np.ones(4), (4, 1))
    with pytest.raises(ValueError, match=f"edges: {wrong} is no node of 0, ..., 3: correct"):
        graph(np.array([[0, 1], [wrong, 2]]), stored, np.arange(4))


def test_graph_by_hand():
    # 0 - 1 - 2, and 3 alone; one edge twice, one in both directions, one from a node to itself
    features = np.array([[6, 0], [0, 6], [3, 3], [1, 2]], np.float32)
    rows, columns = np.nonzero(features)
    stored = sparse(rows, columns, features[rows, columns], features.shape)
    made = graph(np.array([[0, 1], [0, 1], [1, 2], [2, 1], [1, 1]]), stored, np.arange(4))
    expected = np.array([[3, 3, 0, 0], [2, 2, 2, 0], [0, 3, 3, 0], [0, 0, 0, 6]]) / 6
    dense = dense_rows(made.adjacency, jnp.arange(4))
    np.testing.assert_allclose(dense, expected, rtol=1e-6)
    np.testing.assert_allclose(made.smoothed, expected @ features, rtol=1e-6)
    assert jax.tree.all(jax.tree.map(lambda x: x.dtype != np.float64, made))
