"""G-Meta's network against a slow dense one, and made-once inputs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.battery import assert_close
from support.graphs import by_hand, random_graph

from cml_jax import Batch, Task, cross_entropy, fomaml, maml
from cml_jax.graphs.graph import graph
from cml_jax.graphs.sparse import sparse
from cml_jax.graphs.subgraphs import subgraphs, subgraphs_of
from cml_jax.methods.prepared_inputs import with_prepared_inputs
from cml_jax.models.gmeta import gmeta
from cml_jax.types import Noisy

MODEL = gmeta(2, hidden=5)
IDS = jnp.array([0, 3, 7, 21], jnp.int32)


@pytest.fixture(scope="module")
def table():
    return subgraphs(random_graph()[0], nodes=None, neighbours=None)


def test_features_are_the_mean_over_the_subgraph(table):
    _, adjacency, features = random_graph()
    inputs = subgraphs_of(table, IDS)
    params = jax.tree.map(np.asarray, MODEL.init(jax.random.key(0), inputs))
    outputs, found = map(np.asarray, MODEL.apply(params, inputs))
    first, second = (params["body"][f"Dense_{i}"] for i in range(2))
    for v, feature in zip(IDS.tolist(), found, strict=True):
        rows, _ = by_hand(adjacency, features, v)
        reached = np.flatnonzero((adjacency @ adjacency)[v])
        own = adjacency[np.ix_(reached, reached)]
        hidden = np.maximum(rows @ first["kernel"] + first["bias"], 0)
        nodes = own @ (hidden @ second["kernel"]) + second["bias"]
        np.testing.assert_allclose(feature, nodes.mean(0), rtol=1e-4, atol=1e-6)
    head = params["head"]
    np.testing.assert_allclose(outputs, found @ head["kernel"] + head["bias"], rtol=1e-5)
    sizes = [leaf.shape for leaf in jax.tree.leaves(params["body"])]
    assert sizes == [(5,), (6, 5), (5,), (5, 5)]
    # +-1/sqrt(out), though the first layer reads 6
    assert 6**-0.5 < np.abs(first["kernel"]).max() < 5**-0.5


def test_a_permutation_of_the_ids_changes_nothing(table):
    made, _, _ = random_graph()
    new = np.random.default_rng(5).permutation(40)  # node v is now called new[v]
    edges = np.stack([new[made.adjacency.rows], new[made.adjacency.columns]], 1)
    stored = made.features
    features = sparse(new[stored.rows], stored.columns, stored.values, stored.shape)
    other = graph(edges, features, made.labels[np.argsort(new)])
    other = subgraphs(other, nodes=None, neighbours=None)
    inputs, permuted = subgraphs_of(table, IDS), subgraphs_of(other, jnp.asarray(new)[IDS])
    params = MODEL.init(jax.random.key(0), inputs)
    assert_close(MODEL.apply(params, permuted), MODEL.apply(params, inputs), 1e-5)


def test_dropout_is_by_key_and_keeps_the_expectation(table):
    inputs = subgraphs_of(table, IDS)
    params = MODEL.init(jax.random.key(0), inputs)
    keys = jax.random.split(jax.random.key(1), 4)
    drawn = jax.jit(jax.vmap(lambda k: MODEL.apply(params, Noisy(inputs, k))[1]))
    many = drawn(jax.vmap(partial(jax.random.split, num=4))(jax.random.split(keys[0], 2000)))
    plain = MODEL.apply(params, inputs)[1]
    assert np.abs(many[0] - plain).max() > 0.01
    assert (np.abs(many.mean(0) - plain) < 5 * many.std(0) / 2000**0.5 + 1e-6).all()
    np.testing.assert_array_equal(drawn(keys[None])[0], drawn(keys[None])[0])


def test_prepared_is_the_method_on_what_is_prepared(table):
    prepare = partial(subgraphs_of, table)
    inner = maml(MODEL, cross_entropy, learning_rate=0.1, num_steps=2)
    method = with_prepared_inputs(inner, prepare)
    targets = jnp.array([0, 1, 0, 1], jnp.int32)
    keys = jax.random.split(jax.random.key(4), 4)
    task = Task(Batch(Noisy(IDS, keys), targets), Batch(IDS + 2, targets))
    made = Task(Batch(Noisy(prepare(IDS), keys), targets), Batch(prepare(IDS + 2), targets))

    def loss(method, task, params):
        adapted = method.adapt(params, task.support)
        return method.objective(params, adapted, task.query)[0]

    params = method.init(jax.random.key(0), IDS)
    found = jax.jit(jax.value_and_grad(partial(loss, method, task)))(params)
    expected = jax.jit(jax.value_and_grad(partial(loss, inner, made)))(params)
    assert_close(found, expected, 1e-6)
    without = loss(method, task._replace(support=Batch(IDS, targets)), params)
    assert abs(without - found[0]) > 1e-5


def test_the_rows_are_made_once_and_not_in_every_inner_step(table):
    prepare = partial(subgraphs_of, table)
    method = with_prepared_inputs(
        fomaml(MODEL, cross_entropy, learning_rate=0.1, num_steps=3), prepare
    )
    params = method.init(jax.random.key(0), IDS)
    program = jax.make_jaxpr(method.adapt)(params, Batch(IDS, jnp.array([0, 1, 0, 1])))
    (loop,) = [e for e in program.eqns if e.primitive.name == "scan" and e.params["length"] == 3]
    assert table.neighbours.shape[2] != 3
    read = {v.aval.shape for v in loop.invars}
    assert (4, *table.weights.shape[1:], 6) in read and table.features.shape not in read
