"""UNICORN-MAML: the head of every class starts from one vector."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.battery import after, assert_close, assert_same, double, finite_difference

import cml_jax
from cml_jax import Batch, Model, Task, cross_entropy, maml, unicorn_maml
from cml_jax.models import mlp

MODEL = mlp(outputs=3, hidden=(6, 5), activation=jnp.tanh)


def task(seed=0, num=6):
    rng = np.random.default_rng(seed)

    def batch():
        labels = jnp.asarray(np.arange(num) % 3, jnp.int32)
        return Batch(jnp.asarray(rng.normal(size=(num, 2))), labels)

    return Task(batch(), batch())


def start(method, one):
    return double(method.init(jax.random.key(0), one.support.inputs.astype(jnp.float32)))


def columns(params):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(params["base"]["head"])]


def test_it_is_maml_from_one_vector(x64):
    one = task()
    inner = {"learning_rate": 0.1, "num_steps": 3}
    method, plain = unicorn_maml(MODEL, cross_entropy, **inner), maml(MODEL, cross_entropy, **inner)
    params = start(method, one)
    for leaf in columns(params):
        np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[..., :1], leaf.shape))
    assert_close(
        method.adapt(params, one.support).params, plain.adapt(params, one.support).params, 1e-14
    )


def test_meta_gradient_is_the_finite_difference_and_that_of_the_vector(x64):
    one = task()
    method = unicorn_maml(MODEL, cross_entropy, learning_rate=0.1, num_steps=2)
    params = start(method, one)
    outer_loss = after(method, one)
    gradient = jax.grad(outer_loss)(params)
    assert_close(gradient, finite_difference(outer_loss, params), 1e-7)

    def of_vector(vector):
        head = jax.tree.map(lambda v: jnp.broadcast_to(v, (*v.shape[:-1], 3)), vector)
        return outer_loss({"base": params["base"] | {"head": head}})

    vector = jax.tree.map(lambda leaf: leaf[..., :1], params["base"]["head"])
    summed = jax.tree.map(lambda g: g.sum(-1, keepdims=True), gradient["base"]["head"])
    assert_close(summed, jax.grad(of_vector)(vector), 1e-12)


def test_the_columns_stay_alike():
    method, optimizer = (
        unicorn_maml(MODEL, cross_entropy, learning_rate=0.1, num_steps=1),
        optax.adam(1e-2),
    )
    tasks = jax.tree.map(lambda *x: jnp.stack(x), *(task(seed) for seed in range(4)))
    state = cml_jax.init(method, optimizer, jax.random.key(0), jnp.zeros((6, 2), jnp.float32))
    for _ in range(3):
        state, _ = cml_jax.meta_step(method, optimizer, state, tasks)
    for leaf in columns(state.params):
        np.testing.assert_allclose(leaf, np.broadcast_to(leaf[..., :1], leaf.shape), rtol=1e-5)
    assert_same(state.step, jnp.int32(3))


def test_a_head_without_classes_as_its_last_axis_is_refused():
    def init(key, inputs):
        return {"body": jnp.ones(2), "head": {"kernel": jnp.ones((3, 2))}}

    model = Model(init, lambda p, x: ((x * p["body"][None]) @ p["head"]["kernel"].T, x))
    method = unicorn_maml(model, cross_entropy, learning_rate=0.1, num_steps=1)
    with pytest.raises(ValueError, match=r"head\['kernel'\] is \(3, 2\) but there are 3 classes"):
        method.init(jax.random.key(0), jnp.zeros((4, 2)))
