"""AMM-GNN: maps by hand, gradients by finite differences, and MAML where nothing is scaled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.battery import after, assert_close, assert_same, double, finite_difference
from support.graphs import random_graph

from cml_jax import Adapted, Batch, Task, cml, cross_entropy, maml
from cml_jax.methods.amm_gnn import Matched, amm_gnn, attribute_sets
from cml_jax.models import gcn, gmeta, node_co_learner, sgc
from cml_jax.types import Noisy

GRAPH, _, FEATURES = random_graph()
GRAPH = jax.tree.map(jnp.asarray, GRAPH)
SUPPORT, QUERY = jnp.array([0, 7, 21, 9], jnp.int32), jnp.array([5, 3, 30, 11, 2, 17], jnp.int32)
TASK = Task(Batch(SUPPORT, jnp.array([0, 0, 1, 1])), Batch(QUERY, jnp.array([0, 0, 0, 1, 1, 1])))
MATCHED = attribute_sets(jax.random.key(3), TASK, size=4)
SETS = np.asarray(MATCHED.support.inputs.sets[0])
INNER = dict(learning_rate=0.1, num_steps=3)


def build(graph=GRAPH, **options):
    return amm_gnn(gcn(graph, 2, hidden=3), graph, cross_entropy, **INNER | options)


def by_hand(maps):
    """alpha and beta `[2, F]`, node by node."""
    found = {}
    for name, m in maps.items():
        sums = [sum(m["kernel"][j] * FEATURES[s[j]] for j in range(4)) for s in SETS]
        found[name] = np.stack(sums) + np.asarray(m["bias"])
    return found


def cosine(a, b):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


def test_sets_are_of_the_tasks_own_nodes():
    own = set(SUPPORT.tolist()) | set(QUERY.tolist())
    draw = jax.jit(lambda key: attribute_sets(key, TASK, size=4))
    drawn = [np.asarray(draw(jax.random.key(s)).query.inputs.sets) for s in range(60)]
    assert drawn[0].shape == (6, 2, 4) and (drawn[0] == drawn[0][:1]).all()
    assert all(len(set(s)) == 4 and set(s) <= own for d in drawn for s in d[0].tolist())
    assert set(np.unique(drawn)) == own
    assert any(set(d[0, 0]) != set(d[0, 1]) for d in drawn)
    np.testing.assert_array_equal(MATCHED.support.inputs.inputs, SUPPORT)
    np.testing.assert_array_equal(MATCHED.support.inputs.sets[1], MATCHED.query.inputs.sets[2])
    noisy = Noisy(SUPPORT, jax.random.split(jax.random.key(0), 4))
    noisy = attribute_sets(
        jax.random.key(3), TASK._replace(support=Batch(noisy, TASK[0].targets)), 4
    )
    np.testing.assert_array_equal(noisy.query.inputs.sets, MATCHED.query.inputs.sets)
    with pytest.raises(ValueError, match="size=11 but the task has 10 nodes"):
        attribute_sets(jax.random.key(3), TASK, size=11)


def test_alpha_and_the_objective_by_hand():
    """The features are really scaled: a graph with scaled features and plain MAML do the same."""
    method = build(strength=0.3)
    params = method.init(jax.random.key(0), MATCHED.support.inputs)
    adapted = method.adapt(params, MATCHED.support)
    expected = by_hand(params["maps"])
    for name in ("alpha", "beta"):
        np.testing.assert_allclose(adapted.extra[name], expected[name], rtol=1e-5, atol=1e-6)

    scale = (1 + 0.3 * expected["alpha"].mean(0)).astype(np.float32)
    scaled = GRAPH._replace(smoothed=GRAPH.smoothed * scale[None])
    plain = maml(gcn(scaled, 2, hidden=3), cross_entropy, **INNER)
    assert_same(plain.init(jax.random.key(0), SUPPORT)["base"], params["base"])
    network = plain.adapt({"base": params["base"]}, TASK.support)
    assert_close(adapted.params, network.params, 1e-5)
    loss, report = method.objective(params, adapted, MATCHED.query)
    query_loss, _ = plain.objective(None, network, TASK.query)
    matching = sum(cosine(*v) for v in expected.values())
    np.testing.assert_allclose(report["loss"], query_loss, rtol=1e-5)
    np.testing.assert_allclose(report["matching"], matching, rtol=1e-5)
    np.testing.assert_allclose(loss, query_loss - 0.3 * matching, rtol=1e-5)


@pytest.mark.parametrize("first_order", [False, True], ids=["second order", "first order"])
def test_the_meta_gradient_is_the_finite_difference(x64, first_order):
    def wrapped(graph, first_order):
        method = build(graph, strength=0.3, first_order=first_order)
        return cml(method, node_co_learner(2, width=3), cross_entropy, scale=0.5)

    task, method = MATCHED, wrapped(double(GRAPH), False)
    params = double(wrapped(GRAPH, False).init(jax.random.key(0), task.support.inputs))
    exact = after(method, task)
    if not first_order:
        gradient = jax.jit(jax.grad(exact))(params)
        assert_close(gradient, finite_difference(exact, params), 1e-6)
        assert all(np.abs(m["kernel"]).max() > 1e-5 for m in gradient["maps"].values())
        return
    # First order: the adapted network moves with its start one to one, and not with the maps.
    first = wrapped(double(GRAPH), True)
    shift = jax.tree.map(jnp.subtract, method.adapt(params, task.support).params, params["base"])

    def outer_loss(params):
        vectors = method.adapt(params, task.support).extra
        moved = jax.tree.map(jnp.add, params["base"], shift)
        return method.objective(params, Adapted(moved, vectors), task.query)[0]

    gradient = jax.jit(jax.grad(after(first, task)))(params)
    assert_close(gradient, finite_difference(outer_loss, params), 1e-6)


def test_adapting_leaves_the_maps_and_what_is_frozen():
    method = build(adapts={"body": False, "head": True})
    params = method.init(jax.random.key(0), MATCHED.support.inputs)
    adapted = method.adapt(params, MATCHED.support)
    before, now = (jax.tree.leaves(p["body"]) for p in (params["base"], adapted.params))
    assert all(a is b for a, b in zip(before, now, strict=True))
    alpha = by_hand(params["maps"])["alpha"]
    np.testing.assert_allclose(adapted.extra["alpha"], alpha, rtol=1e-5, atol=1e-6)


def test_with_no_strength_it_is_maml():
    method, plain = build(strength=0.0), maml(gcn(GRAPH, 2, hidden=3), cross_entropy, **INNER)
    params = method.init(jax.random.key(0), MATCHED.support.inputs)
    gradient = jax.jit(jax.grad(after(method, MATCHED)))(params)
    expected = jax.jit(jax.grad(after(plain, TASK)))({"base": params["base"]})
    assert_close(gradient["base"], expected["base"], 1e-6)
    assert_same(gradient["maps"], jax.tree.map(jnp.zeros_like, params["maps"]))


def test_the_maps_start_within_their_bound():
    inputs = Matched(SUPPORT, jnp.zeros((4, 2, 100), jnp.int32))
    kernels = [m["kernel"] for m in build().init(jax.random.key(0), inputs)["maps"].values()]
    assert [k.shape for k in kernels] == [(100,)] * 2 and (kernels[0] != kernels[1]).any()
    assert all(0.9 < np.abs(k).max() <= 1 for k in kernels)


def test_dropout_is_where_the_support_has_keys():
    keys = jax.random.split(jax.random.key(1), 4)
    noisy = TASK._replace(support=TASK.support._replace(inputs=Noisy(SUPPORT, keys)))
    noisy = attribute_sets(jax.random.key(3), noisy, size=4)
    method = build()
    params = method.init(jax.random.key(0), MATCHED.support.inputs)
    found, plain = (jax.jit(after(method, task))(params) for task in (noisy, MATCHED))
    assert jnp.isfinite(found) and abs(found - plain) > 1e-4


@pytest.mark.parametrize(
    "model",
    [
        sgc(GRAPH, 2, hidden=3),
        gcn(GRAPH._replace(smoothed=GRAPH.smoothed[:, :4]), 2, hidden=3),
        gmeta(2)._replace(init=lambda key, inputs: {"body": jnp.ones(3), "head": jnp.ones(3)}),
    ],
    ids=["no such layer", "other features", "no layers"],
)
def test_a_network_whose_first_layer_it_cannot_scale_is_refused(model):
    method = amm_gnn(model, GRAPH, cross_entropy, **INNER)
    with pytest.raises(
        ValueError, match=r"kernel_1.* with its 6 rows.* cml_jax.models.gcn"
    ) as error:
        method.init(jax.random.key(0), MATCHED.support.inputs)
    assert "\n" not in str(error.value)
