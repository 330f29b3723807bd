"""Two-hop subgraphs against a breadth-first search and dense matrices."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.graphs import by_hand, random_graph, two_hops

from cml_jax.graphs import subgraphs, subgraphs_of

# The function `subgraphs` hides the module of that name.
module = importlib.import_module("cml_jax.graphs.subgraphs")


@pytest.mark.parametrize("whole", [False, True], ids=["fractions", "whole numbers"])
def test_whole_subgraphs_are_those_of_a_breadth_first_search(whole):
    made, adjacency, features = random_graph(whole=whole)
    table = subgraphs(made, nodes=None, neighbours=None)
    assert table.features.dtype == (np.uint8 if whole else np.float32)
    sizes = [len(two_hops(adjacency, v)) for v in range(40)]
    assert sizes[3] == 1 and min(sizes) == 1 and table.weights.shape == (40, max(sizes))
    found = jax.jit(subgraphs_of)(table, jnp.arange(40))
    for v, size in enumerate(sizes):
        rows, weights = by_hand(adjacency, features, v)
        np.testing.assert_allclose(found.rows[v, :size], rows, rtol=1e-5)
        np.testing.assert_allclose(found.weights[v, :size], weights, rtol=1e-6)
        np.testing.assert_array_equal(found.weights[v, size:], 0)


def test_a_cap_keeps_the_expectation_of_the_mean_and_of_every_row():
    made, adjacency, features = random_graph(n=22, edges=10)
    v = int(np.argmax((adjacency > 0).sum(1)))
    rows, weights = by_hand(adjacency, features, v)
    assert len(rows) > 12 and (adjacency[v] > 0).sum() > 3
    function = np.tanh(features.sum(1).mean() - rows)  # not linear: weights alone must carry it
    drawn = [subgraphs(made, nodes=6, neighbours=None, seed=s) for s in range(100)]
    take = jax.jit(subgraphs_of)
    found = [take(table, jnp.array([v])) for table in drawn]
    assert found[0].rows.shape == (1, 6, 6)
    means = np.stack(
        [f.weights[0] @ np.tanh(features.sum(1).mean() - np.asarray(f.rows[0])) for f in found]
    )
    error = means.std(0) / np.sqrt(len(means))
    assert (error > 0).any()
    assert (np.abs(means.mean(0) - weights @ function) < 4 * error + 1e-6).all()
    # A row of a cap on its neighbours is an estimate of the row.
    drawn = [subgraphs(made, nodes=None, neighbours=3, seed=s) for s in range(100)]
    sums = np.stack([np.asarray(take(t, jnp.array([v])).rows[0]) for t in drawn])
    sums = sums[:, : len(rows)]
    error = sums.std(0) / np.sqrt(len(sums))
    assert (error > 0.01).any() and np.abs(sums[0] - rows).max() > 0.05
    assert (np.abs(sums.mean(0) - rows) < 5 * error + 1e-5).all()


def test_caps_that_cut_nothing_change_nothing():
    made, adjacency, features = random_graph()
    whole, capped = subgraphs(made, nodes=None, neighbours=None), subgraphs(made)
    jax.tree.map(np.testing.assert_array_equal, whole, capped)
    with pytest.raises(ValueError, match="nodes=0, neighbours=32: a subgraph needs at least 1"):
        subgraphs(made, nodes=0)


def test_a_table_that_would_not_fit_is_refused_before_the_work(monkeypatch):
    made, _, _ = random_graph()
    longest = int(np.diff(made.adjacency.starts).max())
    monkeypatch.setattr(module, "_MAX_ENTRIES", 40 * 5 * 3)
    assert subgraphs(made, nodes=5, neighbours=3).neighbours.size == 600
    monkeypatch.setattr(module, "_cut", None)
    with pytest.raises(ValueError, match=f"40 subgraphs of 5 rows of {longest} .* over 600 entr"):
        subgraphs(made, nodes=5, neighbours=None)
