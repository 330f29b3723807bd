"""Sparse matrices against dense ones."""

import ast
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cml_jax
from cml_jax import graphs
from cml_jax.graphs import (
    count_entries,
    dense_rows,
    entries,
    feature_scale,
    graph,
    matmul,
    normalize_features,
    scale_features,
    sparse,
)


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


@pytest.mark.parametrize(
    "row, column, said",
    [(2, 0, "row 2"), (-1, 0, "row -1"), (0, 3, "column 3"), (1, -2, "column -2")],
)
def test_entries_outside_the_matrix_are_refused(row, column, said):
    with pytest.raises(ValueError, match=rf"an entry is in {said} of a matrix of shape \(2, 3\)"):
        sparse([0, row], [1, column], [1.0, 1.0], (2, 3))


@pytest.mark.parametrize("wrong", [4, -1])
def test_an_edge_to_no_node_is_refused(wrong):
    stored = sparse(np.arange(4), np.zeros(4, int), np.ones(4), (4, 1))
    with pytest.raises(
        ValueError, match=f"edges name node {wrong} but the nodes are 0 to 3: correct"
    ):
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


def stored_graph(features):
    """A path through the nodes, whose features are given dense."""
    features = np.asarray(features, np.float32)
    rows, columns = np.nonzero(features)
    n = len(features)
    edges = np.stack([np.arange(n - 1), np.arange(1, n)], 1)
    stored = sparse(rows, columns, features[rows, columns], features.shape)
    return graph(edges, stored, np.zeros(n, int))


FEATURES = {
    "counts": [[300, 0, 100], [0, 5, 0], [0, 0, 0], [1, 1, 2]],
    "zeros and ones": [[1, 1, 0], [0, 0, 1], [0, 0, 0]],
    "rows below one": [[0.25, 0.25, 0], [0, 0.5, 1.5], [0, 0, 0.01]],
    "negative": [[-1, 0, 2], [0.5, 0, 0], [0, 3, -0.25]],
    "none at zero": [[2, 3], [4, 2.5], [7, 2]],
    "all negative": [[-2, -3], [-4, -2.5]],
}


@pytest.mark.parametrize("dense", FEATURES.values(), ids=FEATURES)
@pytest.mark.parametrize("on_device", [False, True])
def test_rows_are_normalised_as_pytorch_geometric_does(dense, on_device):
    made = stored_graph(dense)
    made = jax.tree.map(jnp.asarray, made) if on_device else made
    normal = normalize_features(made)
    shifted = np.asarray(dense, np.float32) - np.float32(np.min(dense))
    expected = shifted / np.maximum(shifted.sum(1, keepdims=True), 1)
    np.testing.assert_allclose(
        dense_rows(normal.features, jnp.arange(len(dense))), expected, rtol=1e-6
    )
    adjacency = dense_rows(made.adjacency, jnp.arange(len(dense)))
    np.testing.assert_allclose(normal.smoothed, adjacency @ expected, rtol=1e-6)
    assert normal.smoothed.dtype == normal.features.values.dtype == np.float32
    assert feature_scale(normal)["max"] <= 1 and feature_scale(normal)["min"] == 0
    jax.tree.map(np.testing.assert_array_equal, normal.adjacency, made.adjacency)
    again = normalize_features(normal)
    np.testing.assert_allclose(again.features.values, normal.features.values, rtol=1e-6)


@pytest.mark.parametrize("dense", FEATURES.values(), ids=FEATURES)
def test_the_scale_of_features(dense):
    dense, scale = np.asarray(dense, np.float64), feature_scale(stored_graph(dense))
    stored = dense[dense != 0]
    assert (scale["min"], scale["max"]) == (np.float32(dense.min()), np.float32(dense.max()))
    np.testing.assert_allclose(scale["mean_row_sum"], dense.sum(1).mean(), rtol=1e-6)
    assert scale["integer_fraction"] == np.mean(stored % 1 == 0)
    assert {type(value) for value in scale.values()} == {float}


def test_the_scale_of_a_graph_without_features():
    scale = feature_scale(stored_graph(np.zeros((2, 3))))
    assert scale == {"min": 0.0, "max": 0.0, "mean_row_sum": 0.0, "integer_fraction": 1.0}


def test_normalised_rows_of_real_counts(data_dir):
    from cml_jax.data.graphs import load_graph

    made = load_graph("amazon_computer", data_dir)
    assert feature_scale(made)["mean_row_sum"] > 100  # words a node
    normal = normalize_features(made)
    sums = np.bincount(normal.features.rows, weights=normal.features.values, minlength=13752)
    np.testing.assert_allclose(sums[sums > 0], 1, rtol=1e-5)
    assert np.asarray(normal.smoothed).sum(1).max() < 1.00001


def test_what_is_exported_is_there_and_rooms_form_no_circle():
    assert all(hasattr(graphs, name) for name in graphs.__all__)
    root = Path(cml_jax.__file__).parent
    may_read = {"ops": {"ops"}, "graphs": {"graphs", "types", "labels"}}
    for room, allowed in may_read.items():
        files = list((root / room).glob("*.py"))
        assert len(files) > 4
        for path in files:
            for node in ast.walk(ast.parse(path.read_text())):
                names = []
                if isinstance(node, ast.ImportFrom):
                    names = [node.module]
                elif isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                ours = [name.split(".") for name in names if name.startswith("cml_jax")]
                assert {name[1] for name in ours} <= allowed, path


@pytest.mark.parametrize("dense", FEATURES.values(), ids=FEATURES)
def test_scaled_features_keep_their_proportions(dense):
    made = stored_graph(dense)
    mean = np.abs(np.asarray(dense, np.float64)).sum(1).mean()
    assert scale_features(made, largest=mean + 1) is made
    scaled = scale_features(made, largest=mean / 4)
    every = jnp.arange(len(dense))
    np.testing.assert_allclose(
        dense_rows(scaled.features, every), np.asarray(dense) / 4, rtol=1e-6, atol=1e-7
    )
    np.testing.assert_allclose(scaled.smoothed, np.asarray(made.smoothed) / 4, rtol=1e-5, atol=1e-6)
    assert scaled.smoothed.dtype == scaled.features.values.dtype == np.float32
    again = scale_features(scaled, largest=mean / 4)
    np.testing.assert_allclose(again.features.values, scaled.features.values, rtol=1e-6)


@pytest.mark.parametrize("name", ["citeseer", "cora"])
def test_citation_graphs_are_left_as_they_are(data_dir, name):
    from cml_jax.data.graphs import load_graph

    made = load_graph(name, data_dir)
    assert scale_features(made) is made


def test_scaled_rows_of_amazon(data_dir):
    from cml_jax.data.graphs import load_graph

    made = scale_features(load_graph("amazon_computer", data_dir))
    np.testing.assert_allclose(feature_scale(made)["mean_row_sum"], 32, rtol=1e-5)
