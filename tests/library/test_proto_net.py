"""Prototypical networks against the definition, in NumPy, and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.battery import after, assert_close, assert_same, double, finite_difference

import cml_jax
from cml_jax import Batch, Task, cross_entropy, proto_net
from cml_jax.models import mlp, mlp_co_learner

MODEL = mlp(outputs=3, hidden=(6, 5), activation=jnp.tanh)


def task(seed=0):
    rng = np.random.default_rng(seed)

    def batch(labels):
        return Batch(jnp.asarray(rng.normal(size=(len(labels), 2))), jnp.array(labels))

    return Task(batch([0, 0, 1, 2, 2, 2]), batch([2, 1, 0, 1]))


def start(method, one):
    return double(method.init(jax.random.key(0), one.support.inputs.astype(jnp.float32)))


def test_it_is_the_nearest_mean(x64):
    method, one = proto_net(MODEL, cross_entropy), task()
    params = start(method, one)
    adapted = method.adapt(params, one.support)
    outputs, features = method.predict(adapted, one.query.inputs)

    def body(inputs):
        return np.asarray(MODEL.apply(params["base"], inputs)[1])

    means = [body(one.support.inputs)[np.array(one.support.targets) == k].mean(0) for k in range(3)]
    expected = [[-((f - mean) ** 2).sum() for mean in means] for f in body(one.query.inputs)]
    np.testing.assert_allclose(outputs, expected, rtol=1e-12)
    np.testing.assert_array_equal(features, body(one.query.inputs))
    assert adapted.params is params["base"]


@pytest.mark.parametrize("with_cml", [False, True])
def test_meta_gradient_is_the_finite_difference(x64, with_cml):
    method, one = proto_net(MODEL, cross_entropy), task()
    if with_cml:
        co_learner = mlp_co_learner(3, width=4, activation=jnp.tanh)
        method = cml_jax.cml(method, co_learner, cross_entropy, scale=0.5)
    params = start(method, one)
    outer_loss = after(method, one)
    gradient = jax.grad(outer_loss)(params)
    assert_close(gradient, finite_difference(outer_loss, params), 1e-7)
    assert_same(gradient["base"]["head"], jax.tree.map(jnp.zeros_like, params["base"]["head"]))


def test_classes_that_are_renamed_rename_the_outputs(x64):
    method, one = proto_net(MODEL, cross_entropy), task()
    params = start(method, one)
    order = jnp.array([2, 0, 1])
    renamed = one.support._replace(targets=order[one.support.targets])
    first, second = (
        method.predict(method.adapt(params, support), one.query.inputs)[0]
        for support in (one.support, renamed)
    )
    np.testing.assert_allclose(second[:, order], first, rtol=1e-12)


@pytest.mark.parametrize("labels", [[0, 0, 1, 2, 2, 3], [0, 0, 1, 2, 2, -1], [0, 0, 1, 1, 1, 1]])
def test_labels_that_are_wrong_are_not_counted(labels):
    """Known ones raise, traced ones and a class without examples make the loss NaN."""
    method, one = proto_net(MODEL, cross_entropy), jax.tree.map(jnp.float32, task())
    query = one.query._replace(targets=one.query.targets.astype(int))
    params = method.init(jax.random.key(0), one.support.inputs)
    support = one.support._replace(targets=jnp.array(labels))
    if not set(labels) <= {0, 1, 2}:
        with pytest.raises(ValueError, match="but outputs have 3 classes"):
            method.adapt(params, support)
    loss = jax.jit(lambda support: after(method, Task(support, query))(params))(support)
    assert np.isnan(loss)


def test_it_learns():
    """Points on a line whose class is the sign of the second coordinate."""
    import optax

    def draw(key):
        x = jax.random.normal(key, (24, 2))
        y = (x[:, 1] > 0).astype(jnp.int32).at[:2].set(jnp.array([0, 1]))
        x = x.at[:2, 1].set(jnp.array([-1.0, 1.0])) * jnp.array([[3.0, 1.0]])
        return Task(Batch(x[:8], y[:8]), Batch(x[8:], y[8:]))

    method, optimizer = proto_net(mlp(outputs=2), cross_entropy), optax.adam(1e-2)
    tasks = jax.vmap(draw)(jax.random.split(jax.random.key(0), 32))
    test = jax.vmap(draw)(jax.random.split(jax.random.key(1), 200))
    state = cml_jax.init(method, optimizer, jax.random.key(0), jnp.zeros((8, 2), jnp.float32))
    before = cml_jax.evaluate(method, state.params, test, cml_jax.accuracy).mean()
    step = jax.jit(lambda s: cml_jax.meta_step(method, optimizer, s, tasks)[0])
    for _ in range(100):
        state = step(state)
    after_training = cml_jax.evaluate(method, state.params, test, cml_jax.accuracy).mean()
    assert before < 0.8 and after_training > 0.9, (before, after_training)
