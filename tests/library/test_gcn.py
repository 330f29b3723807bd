"""Networks on a graph: by hand, and against a dense one."""

import importlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.battery import after, assert_close, double

import cml_jax
from cml_jax import Batch, Task, cross_entropy
from cml_jax.graphs.block_graph import block_graph
from cml_jax.graphs.graph import graph
from cml_jax.graphs.sparse import sparse
from cml_jax.models import gcn, node_co_learner, sgc
from cml_jax.tasks import nodes
from cml_jax.tasks.members import members
from cml_jax.types import Noisy

X = np.array([[2, 0], [0, 4], [4, 2], [1, 1], [3, -1]], np.float32)
HEAD = {"kernel": np.array([[1.0, 0], [0, 2]]), "bias": np.array([1.0, 0])}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Three neighbours at a time, so that the five-node graph has several blocks."""
    module = importlib.import_module("cml_jax.models.gcn")  # models.gcn is the function
    monkeypatch.setattr(module, "_BLOCK", 3)


def five_nodes():
    """0 - 1 - 2 and 3 - 4; A X = (1, 2), (2, 2), (2, 3), (2, 0), (2, 0)."""
    rows, columns = np.nonzero(np.ones_like(X))
    features = sparse(rows, columns, X.ravel(), X.shape)
    return graph(np.array([[0, 1], [1, 2], [3, 4]]), features, np.array([0, 0, 1, 1, 1]))


def float32(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


def gcn_params(model):
    body = {
        "kernel_1": np.array([[1.0, -1], [0, 1]]),
        "bias_1": np.array([0.0, 1]),
        "second": {"kernel": np.array([[2.0, 0], [1, 1]]), "bias": np.array([0.0, -1])},
    }
    params = float32({"body": body, "head": HEAD})
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(1, jnp.int32))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes)
    return params


def test_gcn_by_hand():
    model = gcn(five_nodes(), 2, hidden=2)
    # relu(A X W1 + b1) = (1, 2), (2, 1), (2, 2), (2, 0), (2, 0); then its means, W2 and b2
    outputs, features = model.apply(gcn_params(model), jnp.array([3, 0, 1, 2, 0]))
    expected = [[4, -1], [4.5, 0.5], [5, 2 / 3], [5.5, 0.5], [4.5, 0.5]]
    np.testing.assert_allclose(features, expected, rtol=1e-6)
    np.testing.assert_allclose(outputs, np.array(expected) * [1, 2] + [1, 0], rtol=1e-6)


@pytest.mark.parametrize(
    "hops, expected",
    [(1, [[2, -1], [1, 2], [2, 1], [2, 2]]), (2, [[2, -1], [1.5, 1.5], [5 / 3] * 2, [2, 1.5]])],
)
def test_sgc_by_hand(hops, expected):
    body = {"Dense_0": {"kernel": np.array([[1.0, -1], [0, 1]]), "bias": np.array([0.0, 1])}}
    params = float32({"body": body, "head": HEAD})
    model = sgc(five_nodes(), 2, hidden=2, hops=hops)
    outputs, features = model.apply(params, jnp.array([3, 0, 1, 2]))
    np.testing.assert_allclose(features, expected, rtol=1e-6)
    np.testing.assert_allclose(outputs, np.array(expected) * [1, 2] + [1, 0], rtol=1e-6)


def test_sgc_has_one_or_two_hops():
    with pytest.raises(ValueError, match="hops=3"):
        sgc(five_nodes(), 2, hops=3)


@pytest.mark.parametrize("build", [gcn, sgc])
def test_a_permutation_of_ids_changes_nothing(build):
    made = block_graph(0, nodes=40, classes=3, words=12, topical_words=12, words_per_class=4)
    new = np.random.default_rng(1).permutation(40)  # node i is now called new[i]
    edges = new[np.stack([made.adjacency.rows, made.adjacency.columns], 1)]
    f = made.features
    features = sparse(new[f.rows], f.columns, f.values, f.shape)
    renamed = graph(edges, features, made.labels[np.argsort(new)])
    ids = np.array([5, 17, 3, 39])
    params = build(made, 2).init(jax.random.key(0), ids)
    expected = build(made, 2).apply(params, ids)
    assert_close(build(renamed, 2).apply(params, new[ids]), expected, 1e-6)


def dense_gcn(made):
    """The GCN as a pass over the whole graph with dense matrices."""
    n = len(made.labels)
    adjacency = np.zeros((n, n))
    adjacency[made.adjacency.rows, made.adjacency.columns] = made.adjacency.values
    x = np.zeros((n, made.features.shape[1]))
    x[made.features.rows, made.features.columns] = made.features.values

    def apply(params, ids):
        body, head = params["body"], params["head"]
        hidden = adjacency @ (x @ body["kernel_1"]) + body["bias_1"][None]
        hidden = jax.nn.relu(hidden)
        features = adjacency @ (hidden @ body["second"]["kernel"]) + body["second"]["bias"][None]
        return features[ids] @ head["kernel"] + head["bias"][None], features[ids]

    return apply


@pytest.mark.parametrize("first_order", [False, True])
def test_meta_gradients_are_those_of_the_dense_network(x64, first_order):
    small = block_graph(0, nodes=30, classes=2, words=8, topical_words=8, words_per_class=3)
    sparse_gcn = gcn(double(jax.tree.map(jnp.asarray, small)), 2, hidden=3)
    start = gcn(small, 2, hidden=3).init
    # Tasks whose neighbourhoods differ in size: under vmap the longest sets how far all go.
    inputs = jnp.array([[0, 1, 2], [3, 4, 3]], jnp.int32)
    labels = jnp.array([[0, 1, 1], [1, 0, 1]], jnp.int32)
    tasks = Task(Batch(inputs, labels), Batch(inputs + 7, labels))

    def gradient(apply):
        model = cml_jax.Model(start, apply)
        method = cml_jax.maml(
            model, cross_entropy, learning_rate=0.5, num_steps=2, first_order=first_order
        )
        params = double(method.init(jax.random.key(1), inputs[0]))
        return jax.jit(jax.vmap(lambda task: jax.grad(after(method, task))(params)))(tasks)

    # Weights of edges are float32 in one and in the other.
    assert_close(gradient(sparse_gcn.apply), gradient(dense_gcn(small)), 1e-6)


def test_dropout_is_on_where_there_are_keys_and_one_mask_a_node():
    model = gcn(five_nodes(), 2, hidden=2, dropout=0.5)
    params = gcn_params(model)
    ids = jnp.array([0, 1, 0], jnp.int32)

    def dropped(seed, model=model):
        keys = jax.random.split(jax.random.key(seed), 3)
        return model.apply(params, Noisy(ids, keys))[1]

    many = jax.vmap(dropped)(jnp.arange(4000))
    np.testing.assert_array_equal(many[:, 0], many[:, 2])
    # The hidden units of node 0 and 1 are 0 or twice as large: features of node 0 before W2 are
    # means of {0, 2} and {0, 4}, and {0, 4} and {0, 2}.
    before = many[:, 0, 1] + 1
    np.testing.assert_allclose(np.unique(before), [0, 1, 2, 3], atol=1e-6)
    plain = model.apply(params, ids)[1]
    np.testing.assert_allclose(many.mean(0), plain, atol=0.15)
    np.testing.assert_array_equal(dropped(0, gcn(five_nodes(), 2, hidden=2, dropout=0.0)), plain)


@pytest.mark.parametrize("chunk", [None, 2])
def test_training_with_noise_and_the_graph_as_an_argument(chunk):
    made = block_graph(0, nodes=60, classes=3, words=12, topical_words=12, words_per_class=4)
    split = members(made.labels, np.arange(3), at_least=3)
    sample = partial(nodes, ways=2, shots=1, queries=2, noise=True)
    tasks = jax.vmap(sample, (0, None))(jax.random.split(jax.random.key(0), 4), split)

    def method(graph):
        base = cml_jax.fomaml(gcn(graph, 2), cross_entropy, learning_rate=0.1, num_steps=2)
        return cml_jax.cml(base, node_co_learner(2), cross_entropy, scale=0.2)

    @jax.jit
    def step(graph, state, tasks):
        return cml_jax.meta_step(method(graph), optimizer, state, tasks, chunk=chunk)

    optimizer = optax.adam(0.01)
    state = cml_jax.init(method(made), optimizer, jax.random.key(0), tasks.query.inputs[0])
    state, report = step(made, state, tasks)
    state, report = step(made, state, tasks)
    assert step._cache_size() == 1
    assert np.isfinite(report["loss"]) and 0 < report["gradient_norm"] < 100
