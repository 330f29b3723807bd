"""Episodes of nodes, and graphs made up on the spot."""

from functools import partial

import jax
import numpy as np
import pytest
from support.battery import assert_same

from cml_jax.graphs.block_graph import block_graph
from cml_jax.tasks import nodes
from cml_jax.tasks.members import members
from cml_jax.types import Noisy

LABELS = np.array([0, 1, 2, 1, 0, 2, 2, 0, 1, 1, -1, 2, 0, 2, 3])  # 4, 4, 5 and 1 nodes
draw = partial(nodes, ways=2, shots=1, queries=3)


def test_members_are_the_nodes_of_each_class():
    found = members(LABELS, np.array([2, 0]), at_least=4)
    np.testing.assert_array_equal(found.counts, [5, 4])
    np.testing.assert_array_equal(found.ids, [[2, 5, 6, 11, 13], [0, 4, 7, 12, 0]])
    assert found.ids.dtype == found.counts.dtype == np.int32


def test_episodes_keep_what_they_promise():
    split = members(LABELS, np.array([0, 1, 2]), at_least=4)
    keys = jax.random.split(jax.random.key(0), 3000)
    tasks = jax.jit(jax.vmap(draw, (0, None)))(keys, split)
    support, query = np.asarray(tasks.support.inputs), np.asarray(tasks.query.inputs)
    assert support.shape == (3000, 2) and query.shape == (3000, 6) and query.dtype == np.int32
    everything = np.concatenate([support, query], 1)
    assert (np.diff(np.sort(everything)) > 0).all()  # nothing twice
    np.testing.assert_array_equal(tasks.support.targets[0], [0, 1])
    np.testing.assert_array_equal(tasks.query.targets[0], [0, 0, 0, 1, 1, 1])
    classes = LABELS[support]
    np.testing.assert_array_equal(LABELS[query], classes.repeat(3, 1))
    # Each of the 13 nodes is a support node of label 0 at the rate of its class: 1/3 of 3000.
    for c, size in ((0, 4), (1, 4), (2, 5)):
        hits = np.array([(support[:, 0] == node).sum() for node in np.flatnonzero(LABELS == c)])
        assert (abs(hits - 1000 / size) < 5 * np.sqrt(1000 / size)).all()


def test_noise_adds_keys_and_changes_nothing_else():
    split = members(LABELS, np.array([0, 1, 2]))
    plain, noisy = (draw(jax.random.key(1), split, noise=noise) for noise in (False, True))
    assert isinstance(noisy.support.inputs, Noisy)
    assert_same(noisy.support.inputs.inputs, plain.support.inputs)
    assert_same(noisy.query, plain.query)
    assert len(np.unique(jax.random.key_data(noisy.support.inputs.keys), axis=0)) == 2


@pytest.mark.parametrize(
    "wrong, message",
    [({"shots": 0}, "shots=0"), ({"ways": 4}, "3 classes"), ({"queries": 5}, "has 4 examples")],
)
def test_impossible_episodes_say_so_in_one_line(wrong, message):
    with pytest.raises(ValueError, match=message) as error:
        draw(jax.random.key(0), members(LABELS, np.array([0, 1, 2])), **wrong)
    assert "\n" not in str(error.value)


def test_a_class_that_is_too_small_is_named_before_anything_is_drawn():
    with pytest.raises(ValueError, match="class 3 has 1 examples"):
        members(LABELS, np.array([0, 3]), at_least=4)


def test_block_graph_has_the_statistics_it_was_asked_for():
    made = block_graph(
        0,
        nodes=4000,
        classes=5,
        degree=8,
        within=0.7,
        words=60,
        topical_words=60,
        words_per_class=6,
    )
    adjacency, features, labels = made.adjacency, made.features, made.labels
    assert (np.bincount(labels, minlength=5) > 650).all()
    edges = adjacency.rows != adjacency.columns
    assert edges.sum() / 4000 == pytest.approx(8, rel=0.01)  # few repetitions
    same = (labels[adjacency.rows] == labels[adjacency.columns])[edges].mean()
    assert same == pytest.approx(0.7 + 0.3 / 5, abs=0.015)
    dense = np.zeros((4000, 60))
    dense[features.rows, features.columns] = features.values
    assert set(np.unique(dense)) == {0, 1}
    # 10 draws, 1/4 of them from 6 words, the others from all 60
    topical, other = (1 - (1 - p) ** 10 for p in (0.25 / 6 + 0.75 / 60, 0.75 / 60))
    rates = np.sort(dense[labels == 0].mean(0))
    assert rates[-6:].mean() == pytest.approx(topical, abs=0.03)
    assert rates[:-6].mean() == pytest.approx(other, abs=0.01)


def test_block_graph_is_a_function_of_its_seed():
    small = partial(block_graph, nodes=50, classes=3, words=20, topical_words=20, words_per_class=4)
    assert_same(small(0), small(0))
    assert (small(0).labels != small(1).labels).any()
    with pytest.raises(ValueError, match="topical_words=20, words=3:"):
        small(0, words=3)


def test_words_that_are_not_topical_say_nothing():
    sizes = {"nodes": 4000, "classes": 4, "words": 60, "topical_words": 20, "words_per_class": 10}
    made = block_graph(0, **sizes)
    dense = np.zeros((4000, 60))
    dense[made.features.rows, made.features.columns] = 1
    rates = np.stack([dense[made.labels == c].mean(0) for c in range(4)])
    spread = rates.max(0) - rates.min(0)
    assert (spread > 0.1).sum() <= 20 and (spread < 0.06).sum() >= 40
