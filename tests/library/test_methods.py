"""The base methods against finite differences, each other, and what they must not touch."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.battery import (
    COMBINATIONS,
    METHODS,
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

import cml_jax
from cml_jax import Adapted, Batch, MetaState, Task, cross_entropy, squared_error
from cml_jax.models import ConvBlock, from_linen
from cml_jax.models.conv import ConvHead

SECOND_ORDER = [c for c in COMBINATIONS if c.startswith(("maml", "anil", "boil"))]


@pytest.mark.parametrize("name", SECOND_ORDER)
def test_meta_gradient_is_the_finite_difference(x64, name):
    method, task = build(name), double(first(sinusoids()))
    params = start(method, task.support.inputs)
    outer_loss = after(method, task)
    gradient = jax.jit(jax.grad(outer_loss))(params)
    assert_close(gradient, finite_difference(outer_loss, params), 1e-7)


def huber(outputs, targets):
    return jnp.mean(optax.losses.huber_loss(outputs, targets, delta=0.5))


@pytest.mark.parametrize(
    "method, optimizer",
    [
        (cml_jax.maml, optax.adam(0.05, eps_root=1e-8)),
        (cml_jax.boil, optax.sgd(0.1, momentum=0.9)),
        (cml_jax.anil, optax.rmsprop(0.05)),
    ],
    ids=["maml, adam", "boil, momentum", "anil, rmsprop"],
)
def test_own_inner_optimiser_and_own_loss(x64, method, optimizer):
    method, task = (
        method(MODEL, huber, optimizer=optimizer, num_steps=3),
        double(first(sinusoids())),
    )
    params = start(method, task.support.inputs)
    outer_loss = after(method, task)
    gradient = jax.jit(jax.grad(outer_loss))(params)
    assert_close(gradient, finite_difference(outer_loss, params), 1e-6)


@pytest.mark.parametrize("first_order", [False, True, "traced"])
def test_adam_without_eps_root_is_for_the_first_order(first_order):
    task = first(sinusoids())
    params = start(build("maml"), task.support.inputs)

    @jax.jit
    def gradient(rate, traced):
        method = cml_jax.maml(
            MODEL,
            squared_error,
            optimizer=optax.adam(rate),
            num_steps=2,
            first_order=traced if first_order == "traced" else first_order,
        )
        return jax.grad(after(method, task))(params)

    if first_order is True:
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient(0.1, True)))
    else:
        with pytest.raises(ValueError, match="optimizer: .* eps_root=1e-8"):
            gradient(0.1, True)


@pytest.mark.parametrize(
    "given, which",
    [({}, "neither"), ({"learning_rate": 0.1, "optimizer": optax.sgd(0.1)}, "both")],
)
def test_an_inner_loop_has_one_rule(given, which):
    with pytest.raises(ValueError, match=f"learning_rate and optimizer: {which} given") as error:
        cml_jax.maml(MODEL, squared_error, num_steps=1, **given)
    assert "\n" not in str(error.value)


# One convolution block, so that compiling stays quick; conv4 has three more of the same.
CONV = from_linen(ConvBlock(2, pool=True), ConvHead(ways=2, filters=2, depth=0, pool=True))
CONV_CO_LEARNER = from_linen(ConvHead(ways=2, filters=2, depth=1, pool=True))


@pytest.mark.parametrize("name", ["maml", "maml+cml"])
def test_meta_gradient_of_a_conv_net_is_the_finite_difference(x64, name):
    method = build(name, CONV, CONV_CO_LEARNER, cross_entropy)
    rng, targets = np.random.default_rng(0), jnp.array([0, 1, 0, 1])
    support, query = (Batch(jnp.asarray(rng.normal(size=(4, 8, 8, 1))), targets) for _ in range(2))
    params = start(method, support.inputs)
    outer_loss = after(method, Task(support, query))
    gradient = jax.jit(jax.grad(outer_loss))(params)
    assert_close(gradient, finite_difference(outer_loss, params), 1e-6)


def test_fomaml_is_the_query_gradient_at_the_adapted_parameters(x64):
    method, task = build("fomaml"), double(first(sinusoids()))
    params = start(method, task.support.inputs)
    adapted = method.adapt(params, task.support)

    def query_loss(base):
        return squared_error(
            method.predict(Adapted(base), task.query.inputs)[0], task.query.targets
        )

    gradient = jax.jit(jax.grad(after(method, task)))(params)
    assert_close(gradient["base"], finite_difference(query_loss, adapted.params), 1e-8)
    # ... which is not MAML's gradient, at the same adapted parameters.
    assert_same(build("maml").adapt(params, task.support), adapted)
    second = jax.jit(jax.grad(after(build("maml"), task)))(params)
    gap = optax.tree.norm(jax.tree.map(jnp.subtract, gradient, second))
    assert gap > 0.05 * optax.tree.norm(second)


@pytest.mark.parametrize("name, frozen", [("anil", "body"), ("boil", "head")])
def test_the_frozen_part_is_the_very_same(name, frozen):
    method, task = build(name), first(sinusoids())
    params = start(method, task.support.inputs)
    adapted = method.adapt(params, task.support).params
    for part in ("body", "head"):
        before, now = jax.tree.leaves(params["base"][part]), jax.tree.leaves(adapted[part])
        assert [b is a for b, a in zip(before, now, strict=True)] == [part == frozen] * len(now)


def test_anil_is_maml_with_rate_zero_on_the_body(x64):
    task = double(first(sinusoids()))
    rates = {"body": 0.0, "head": 0.1}
    anil = build("anil")
    slow = cml_jax.maml(MODEL, squared_error, learning_rate=rates, num_steps=3)
    params = start(anil, task.support.inputs)
    expected = jax.jit(jax.grad(after(slow, task)))(params)
    assert_close(jax.jit(jax.grad(after(anil, task)))(params), expected, 1e-12)


@pytest.mark.parametrize("name", ["reptile", "reptile_adam"])
def test_reptile_is_the_interpolation(x64, name):
    method, tasks, eps = build(name), double(sinusoids(3)), 0.3
    params = start(method, tasks.support.inputs[0])
    state = MetaState(params, optax.sgd(eps).init(params), jnp.int32(0))
    inner = METHODS[name].keywords["optimizer"]
    moved = []
    for t in range(3):
        x, y = tasks.support.inputs[t], tasks.support.targets[t]
        theta = params["base"]
        opt_state = inner.init(theta)
        for _ in range(3):
            gradient = jax.grad(lambda p, x=x, y=y: jnp.mean((MODEL.apply(p, x)[0] - y) ** 2))
            updates, opt_state = inner.update(gradient(theta), opt_state, theta)
            theta = jax.tree.map(jnp.add, theta, updates)
        moved.append(theta)
    expected = jax.tree.map(
        lambda start, *ends: start + eps * (sum(ends) / 3 - start), params["base"], *moved
    )
    new, _ = jax.jit(partial(cml_jax.meta_step, method, optax.sgd(eps)))(state, tasks)
    assert_close(new.params["base"], expected, 1e-13)


def test_reptile_does_not_read_the_query():
    method, tasks = build("reptile"), sinusoids()
    poisoned = tasks._replace(query=jax.tree.map(lambda x: x * jnp.nan, tasks.query))
    params = start(method, tasks.support.inputs[0])
    gradient = jax.jit(jax.grad(after(method, first(poisoned))))(params)
    assert_same(gradient, jax.jit(jax.grad(after(method, first(tasks))))(params))
    assert optax.tree.norm(gradient) > 0


@pytest.mark.parametrize("name", COMBINATIONS)
def test_prediction_in_hand_changes_nothing(name):
    method, task = build(name), first(sinusoids())
    params = start(method, task.support.inputs)

    @jax.jit
    def both(params):
        adapted = method.adapt(params, task.support)
        prediction = method.predict(adapted, task.query.inputs)
        in_hand = method.objective(params, adapted, task.query, prediction)
        return in_hand, method.objective(params, adapted, task.query)

    assert_close(*both(params), 1e-6)


@pytest.mark.parametrize("rate", [{"body": 0.1}, {"body": 0.1, "tail": 0.1}])
def test_a_rate_that_is_no_prefix_is_named(rate):
    method = cml_jax.maml(MODEL, squared_error, learning_rate=rate, num_steps=1)
    task = first(sinusoids())
    with pytest.raises(ValueError, match=r"learning_rate=.* lacks \['head'\].*give one rate"):
        method.adapt(start(method, task.support.inputs), task.support)
