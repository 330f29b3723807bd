"""Reptile as its code runs it: minibatches, a state that goes from task to task, agreement."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from support.battery import MODEL, assert_close, assert_same, double, sinusoids

import cml_jax
from cml_jax import gradient_agreement, meta_step, reptile_released, squared_error
from cml_jax.methods.reptile import minibatches

ADAM = optax.adam(0.02, b1=0.0)
OUTER = optax.adam(1e-2)  # Keeps a trace of every parameter it is given.


def released(optimizer=ADAM, num_steps=4, minibatch=2):
    return reptile_released(
        MODEL, squared_error, optimizer=optimizer, num_steps=num_steps, minibatch=minibatch
    )


def begin(method, outer=OUTER):
    init = jax.jit(partial(cml_jax.init, method, outer))
    return init(jax.random.key(0), jnp.zeros((5, 1), jnp.float32))


def inner_by_hand(theta, state, support, rows, optimizer):
    """The inner loop in Python: `(theta', state')`."""

    @jax.jit
    def step(theta, state, x, y):
        gradient = jax.grad(lambda p: jnp.mean((MODEL.apply(p, x)[0] - y) ** 2))(theta)
        updates, state = optimizer.update(gradient, state, theta)
        return optax.apply_updates(theta, updates), state

    for r in np.asarray(rows):
        theta, state = step(theta, state, support.inputs[r], support.targets[r])
    return theta, state


@pytest.mark.parametrize("size, minibatch, count", [(6, 2, 9), (5, 3, 4), (4, 4, 2), (3, 7, 2)])
def test_minibatches_walk_through_shuffled_passes(size, minibatch, count):
    rows = np.asarray(minibatches(jnp.int32(3), size, minibatch, count))
    assert rows.shape == (count, minibatch)
    walk = rows.reshape(-1)
    for begin in range(0, walk.size, size):
        once = walk[begin : begin + size]
        assert len(set(once)) == len(once) and set(once) <= set(range(size))
    assert (rows != minibatches(jnp.int32(4), size, minibatch, count)).any()


def test_one_task_a_step_is_the_released_code(x64):
    """Its sequential loop by hand: the optimiser's state goes from task to task."""
    method, eps = released(), 0.3
    outer = optax.sgd(eps)
    state = double(begin(method, outer))
    base = state.params["base"]
    moments = ADAM.init(base)
    step = jax.jit(partial(meta_step, method, outer))
    for t, tasks in enumerate(double(sinusoids(1, seed)) for seed in range(3)):
        state, _ = step(state, tasks)
        support = jax.tree.map(lambda x: x[0], tasks.support)
        theta, moments = inner_by_hand(base, moments, support, minibatches(t, 5, 2, 4), ADAM)
        base = jax.tree.map(lambda p, q: p + eps * (q - p), base, theta)
        assert_close(state.params["base"], base, 1e-12)
        assert_close(
            state.params["carried"], {"inner_state": moments, "step": jnp.int32(t + 1)}, 1e-12
        )
    assert optax.tree.get(moments, "count") == 12
    assert step._cache_size() == 1


def test_tasks_start_from_one_state_and_leave_the_mean(x64):
    method, outer = released(), optax.sgd(0.3)
    state = double(begin(method, outer))
    step = jax.jit(partial(meta_step, method, outer))
    state, _ = step(state, double(sinusoids(3)))
    tasks = double(sinusoids(3, seed=1))
    new, _ = step(state, tasks)
    ends = []
    for t in range(3):
        support = jax.tree.map(lambda x, t=t: x[t], tasks.support)
        start = state.params["base"], state.params["carried"]["inner_state"]
        ends.append(inner_by_hand(*start, support, minibatches(1, 5, 2, 4), ADAM))
    thetas, states = zip(*ends, strict=True)
    moved = jax.tree.map(lambda p, *q: p + 0.3 * (sum(q) / 3 - p), state.params["base"], *thetas)
    assert_close(new.params["base"], moved, 1e-12)
    second = [optax.tree.get(s, "nu") for s in (*states, new.params["carried"]["inner_state"])]
    assert_close(second[3], jax.tree.map(lambda *v: sum(v) / 3, *second[:3]), 1e-12)
    assert optax.tree.get(new.params["carried"], "count") == 8
    assert optax.tree.norm(jax.tree.map(jnp.subtract, second[0], second[1])) > 0


def test_the_outer_optimiser_does_not_see_what_is_carried():
    state = begin(released())
    assert_same(optax.tree.get(state.opt_state, "mu").keys(), {"base"})


def test_a_test_task_starts_from_the_carried_state():
    method, tasks = released(), sinusoids(2)
    params = begin(method).params
    run = jax.jit(partial(cml_jax.evaluate, method, metric=squared_error))
    carried = jax.tree.map(lambda x: x + 1, params["carried"])
    assert (run(params, tasks) != run(params | {"carried": carried}, tasks)).all()
    adapted = jax.jit(method.adapt)(params, jax.tree.map(lambda x: x[0], tasks.support))
    x, y = tasks.query.inputs[0], tasks.query.targets[0]
    outputs, _ = MODEL.apply(adapted.params, x)
    np.testing.assert_allclose(run(params, tasks)[0], squared_error(outputs, y), rtol=1e-5)


@pytest.mark.parametrize("weigh_on", ["displacements", "gradients"])
def test_gradient_agreement_weighs_the_sum_of_the_sub_batches_updates(x64, weigh_on):
    """theta + eps * sum_i w_i (theta_i - theta), with theta - theta_i = rate * sum_k g_i,k."""
    rate, eps, k = 0.05, 0.3, 5
    method, outer = released(optax.sgd(rate), k, minibatch=1), optax.sgd(eps)
    state, tasks = double(begin(method, outer)), double(sinusoids(4))
    rows = np.asarray(minibatches(0, 5, 1, k))
    assert sorted(rows.reshape(-1)) == [0, 1, 2, 3, 4]  # k disjoint sub-batches: all of the task

    @jax.jit
    def gradient(theta, x, y):
        return jax.grad(lambda p: jnp.mean((MODEL.apply(p, x)[0] - y) ** 2))(theta)

    displacements = []
    for t in range(4):
        theta, total = state.params["base"], None
        for r in rows:
            g = gradient(theta, tasks.support.inputs[t][r], tasks.support.targets[t][r])
            total = g if total is None else jax.tree.map(jnp.add, total, g)
            theta = jax.tree.map(lambda p, g: p - rate * g, theta, g)
        displacements.append(jax.tree.map(lambda g: rate * g, total))
    flat = np.array([ravel_pytree(d)[0] for d in displacements])
    products = (flat @ flat.T).sum(1)
    weights = products / np.abs(products).sum()
    expected = jax.tree.map(
        lambda p, *d: p - eps * np.tensordot(weights, np.array(d), 1),
        state.params["base"],
        *displacements,
    )
    run = jax.jit(partial(meta_step, method, outer, weigh=gradient_agreement, weigh_on=weigh_on))
    new, report = run(state, tasks)
    assert_close(new.params["base"], expected, 1e-12)
    np.testing.assert_allclose(report["weight_mean"], weights.mean(), rtol=1e-10)


def test_a_minibatch_without_examples_is_named():
    with pytest.raises(ValueError, match="minibatch=0"):
        released(minibatch=0)
