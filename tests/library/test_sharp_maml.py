"""Sharp-MAML against numpy on a quadratic, finite differences, and MAML."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from support.battery import (
    MODEL,
    QUADRATIC,
    after,
    assert_close,
    assert_same,
    double,
    finite_difference,
    first,
    quadratic_batch,
    quadratic_loss,
    sinusoids,
    start,
)

import cml_jax
from cml_jax import Batch, MetaState, Task, maml, meta_step, sharp_maml, squared_error

RATE, RADIUS = 0.15, 0.3


def quadratic_tasks():
    """Three; what would be the axis of examples is the first of A and of c."""
    support, query = (
        jax.tree.map(lambda *x: jnp.stack(x), *map(quadratic_batch, seeds))
        for seeds in ((0, 1, 2), (3, 4, 5))
    )
    return Task(support, query)


def climb(point, gradient, radius=RADIUS):
    return point + radius * gradient / np.linalg.norm(gradient)


@pytest.mark.parametrize(
    "adapts, mask", [(True, (1, 1, 1)), ({"body": False, "head": True}, (0, 0, 1))]
)
def test_three_steps_on_a_quadratic(x64, adapts, mask):
    method = sharp_maml(
        QUADRATIC, quadratic_loss, learning_rate=RATE, num_steps=3, radius=RADIUS, adapts=adapts
    )
    support = quadratic_batch(0)
    matrix, center, mask = *map(np.asarray, support), np.array(mask)
    params = method.init(None, None)
    theta = np.array([0.4, -0.2, 0.7])
    for _ in range(3):
        gradient = mask * (matrix @ (theta - center))
        theta = theta - RATE * (mask * (matrix @ (climb(theta, gradient) - center)))
    np.testing.assert_allclose(
        ravel_pytree(method.adapt(params, support).params)[0], theta, rtol=1e-13
    )


@pytest.mark.parametrize("remat", [False, True])
def test_the_meta_gradient_goes_through_the_perturbation(x64, remat):
    method = sharp_maml(
        MODEL, squared_error, learning_rate=0.1, num_steps=3, radius=0.3, remat=remat
    )
    task = double(first(sinusoids()))
    params = start(method, task.support.inputs)
    outer_loss = after(method, task)
    gradient = jax.jit(jax.grad(outer_loss))(params)
    assert_close(gradient, finite_difference(outer_loss, params), 1e-7)


def test_first_order_is_the_query_gradient_at_the_adapted_parameters(x64):
    method = partial(sharp_maml, MODEL, squared_error, learning_rate=0.1, num_steps=3, radius=0.3)
    task = double(first(sinusoids()))
    second, first_order = method(), method(first_order=True)
    params = start(second, task.support.inputs)
    adapted = second.adapt(params, task.support).params
    assert_same(first_order.adapt(params, task.support).params, adapted)

    def query_loss(base):
        return squared_error(MODEL.apply(base, task.query.inputs)[0], task.query.targets)

    gradient = jax.jit(jax.grad(after(first_order, task)))(params)
    assert_close(gradient["base"], jax.grad(query_loss)(adapted), 1e-13)


def test_radius_zero_is_maml(x64):
    tasks, outer = quadratic_tasks(), optax.sgd(0.5)
    plain = maml(QUADRATIC, quadratic_loss, learning_rate=RATE, num_steps=3)
    sharp = sharp_maml(QUADRATIC, quadratic_loss, learning_rate=RATE, num_steps=3, radius=0.0)
    params = plain.init(None, None)
    state = MetaState(params, outer.init(params), jnp.int32(0))
    assert_same(
        sharp.adapt(params, first(tasks).support), plain.adapt(params, first(tasks).support)
    )
    expected = meta_step(plain, outer, state, tasks)
    assert_same(meta_step(plain, outer, state, tasks, radius=0.0), expected)
    # The derivative of the perturbation adds zeros: the order of the sums is the compiler's.
    assert_close(meta_step(sharp, outer, state, tasks)[0].params, expected[0].params, 1e-15)


def test_a_flat_support_loss_moves_nothing_and_has_a_finite_gradient(x64):
    method = sharp_maml(QUADRATIC, quadratic_loss, learning_rate=RATE, num_steps=2, radius=RADIUS)
    params = method.init(None, None)
    support = Batch(jnp.zeros((3, 3)), jnp.zeros(3))
    assert_same(method.adapt(params, support).params, params["base"])
    gradient = jax.grad(after(method, Task(support, quadratic_batch(1))))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("weigh", [cml_jax.uniform, cml_jax.gradient_agreement])
def test_the_upper_loop_applies_the_gradient_at_the_perturbed_parameters(x64, weigh):
    method = maml(QUADRATIC, quadratic_loss, learning_rate=RATE, num_steps=1)
    tasks = quadratic_tasks()

    def weighted_gradient(theta):
        gradients, moved = [], []
        for a_s, c_s, a_q, c_q in zip(*tasks.support, *tasks.query, strict=True):
            jacobian = np.eye(3) - RATE * a_s
            adapted = c_s + jacobian @ (theta - c_s)
            gradients.append(jacobian @ a_q @ (adapted - c_q))
            moved.append(theta - adapted)
        weights = np.full(3, 1 / 3)
        if weigh is cml_jax.gradient_agreement:
            agreement = np.array(moved) @ np.sum(moved, 0)
            weights = agreement / np.abs(agreement).sum()
        return weights @ np.array(gradients), weights

    theta = np.array([0.4, -0.2, 0.7])
    gradient, weights = weighted_gradient(climb(theta, weighted_gradient(theta)[0]))
    params = method.init(None, None)
    state = MetaState(params, optax.sgd(0.5).init(params), jnp.int32(0))
    new, report = meta_step(method, optax.sgd(0.5), state, tasks, weigh=weigh, radius=RADIUS)
    np.testing.assert_allclose(ravel_pytree(new.params)[0], theta - 0.5 * gradient, rtol=1e-13)
    np.testing.assert_allclose(report["weight_min"], weights.min(), rtol=1e-12)
    np.testing.assert_allclose(report["gradient_norm"], np.linalg.norm(gradient), rtol=1e-13)
