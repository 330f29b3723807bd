"""Collaborative learning: both heads, in both loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.battery import (
    CO_LEARNER,
    MODEL,
    after,
    assert_close,
    assert_same,
    build,
    double,
    finite_difference,
    first,
    sinusoids,
    start,
)


@pytest.fixture
def task(x64):
    return double(first(sinusoids()))


def by_hand(base, batch):
    """The two heads' losses, of parameters {"body", "head": {"meta_learner", "co_learner"}}."""
    own = {"body": base["body"], "head": base["head"]["meta_learner"]}
    outputs, features = MODEL.apply(own, batch.inputs)
    co_outputs, _ = CO_LEARNER.apply(base["head"]["co_learner"], features)
    return [jnp.mean((o - batch.targets) ** 2) for o in (outputs, co_outputs)]


def test_both_heads_adapt_on_the_sum_and_the_own_head_predicts(task):
    method = build("collaborative")
    params = start(method, task.support.inputs)
    base = params["base"]
    for _ in range(3):
        gradient = jax.grad(lambda base: sum(by_hand(base, task.support)))(base)
        base = jax.tree.map(lambda p, g: p - 0.1 * g, base, gradient)
    adapted = method.adapt(params, task.support)
    assert_close(adapted.params, base, 1e-13)
    loss, metrics = method.objective(params, adapted, task.query)
    expected = by_hand(base, task.query)
    np.testing.assert_allclose(metrics["loss"], sum(expected), rtol=1e-12)
    np.testing.assert_allclose(metrics["co_learner_loss"], expected[1], rtol=1e-12)
    np.testing.assert_allclose(loss, sum(expected), rtol=1e-12)
    outputs, features = method.predict(adapted, task.query.inputs)
    own = adapted.params | {"head": adapted.params["head"]["meta_learner"]}
    assert_same((outputs, features), MODEL.apply(own, task.query.inputs))


def test_the_meta_gradient_is_the_finite_difference_and_trains_both_heads(task):
    method = build("collaborative")
    params, outer_loss = start(method, task.support.inputs), after(method, task)
    gradient = jax.jit(jax.grad(outer_loss))(params)
    assert_close(gradient, finite_difference(outer_loss, params), 1e-7)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


def test_it_starts_as_maml_and_cml_do():
    inputs, key = jnp.zeros((5, 1)), jax.random.key(7)
    base = build("collaborative").init(key, inputs)["base"]
    expected = build("maml+cml").init(key, inputs)
    assert_same(base["body"], expected["base"]["body"])
    assert_same(base["head"]["meta_learner"], expected["base"]["head"])
    assert_same(base["head"]["co_learner"], expected["co_learner"])
