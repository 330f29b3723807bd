"""The co-learner: which gradients it sends where, and what it never touches."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.battery import (
    CO_LEARNER,
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
from cml_jax import Adapted, cml, meta_step, squared_error


@pytest.fixture
def task(x64):
    return double(first(sinusoids()))


def co_learner_loss(method, task):
    """`params -> the co-learner's part of the objective`."""

    def outer_loss(params):
        adapted = method.adapt(params, task.support)
        return method.objective(params, adapted, task.query)[1]["co_learner_loss"]

    return outer_loss


@pytest.mark.parametrize("name", METHODS)
def test_both_terms_and_the_scale(task, name):
    method, base = build(name + "+cml", scale=0.3), build(name)
    params = start(method, task.support.inputs)
    adapted = base.adapt(params, task.support)
    assert_same(method.adapt(params, task.support), adapted)

    loss, metrics = method.objective(params, adapted, task.query)
    base_loss, _ = base.objective(params, adapted, task.query)
    _, features = base.predict(adapted, task.query.inputs)
    outputs, _ = CO_LEARNER.apply(params["co_learner"], features)
    co_loss = jnp.mean((outputs - task.query.targets) ** 2)
    np.testing.assert_allclose(loss, base_loss + 0.3 * co_loss, rtol=1e-14)
    np.testing.assert_allclose(metrics["co_learner_loss"], co_loss, rtol=1e-14)
    np.testing.assert_allclose(metrics["loss"], base_loss, rtol=1e-14)


@pytest.mark.parametrize("name", ["maml", "boil"])
def test_second_order_lets_the_co_learner_reach_the_head(task, name):
    method = build(name + "+cml")
    params, loss = start(method, task.support.inputs), co_learner_loss(method, task)
    gradient = jax.jit(jax.grad(loss))(params)
    assert_close(gradient, finite_difference(loss, params), 1e-7)
    head, whole = optax.tree.norm(gradient["base"]["head"]), optax.tree.norm(gradient)
    assert head > 1e-3 * whole


@pytest.mark.parametrize("name", ["fomaml", "reptile"])
def test_first_order_does_not(task, name):
    method = build(name + "+cml")
    gradient = jax.jit(jax.grad(co_learner_loss(method, task)))(start(method, task.support.inputs))
    assert optax.tree.norm(gradient["base"]["head"]) == 0
    assert optax.tree.norm(gradient["base"]["body"]) > 0
    assert optax.tree.norm(gradient["co_learner"]) > 0


def test_reptile_gets_the_co_learners_gradient_at_the_adapted_body(task):
    method = build("reptile+cml", scale=0.3)
    params = start(method, task.support.inputs)
    adapted = method.adapt(params, task.support)

    def at(base):
        return method.objective(params, Adapted(base), task.query)[1]["co_learner_loss"]

    pull = jax.tree.map(jnp.subtract, params["base"], adapted.params)
    expected = jax.tree.map(lambda g, c: g + 0.3 * c, pull, jax.grad(at)(adapted.params))
    assert_close(jax.jit(jax.grad(after(method, task)))(params)["base"], expected, 1e-13)


@pytest.mark.parametrize("name", METHODS)
def test_the_inner_loop_does_not_see_the_co_learner(task, name):
    method = build(name + "+cml")
    params = start(method, task.support.inputs)
    poisoned = params | {"co_learner": jax.tree.map(lambda x: x * jnp.nan, params["co_learner"])}
    adapted = method.adapt(poisoned, task.support)
    assert_same(adapted, method.adapt(params, task.support))
    assert jax.tree.structure(adapted.params) == jax.tree.structure(params["base"])
    assert np.isfinite(method.predict(adapted, task.query.inputs)[0]).all()


def test_the_co_learner_reads_the_query_alone(task):
    seen = []

    def apply(params, features):
        seen.append(features.shape)
        return CO_LEARNER.apply(params, features)

    method = cml(build("maml"), CO_LEARNER._replace(apply=apply), squared_error, scale=0.5)
    jax.jit(jax.grad(after(method, task)))(start(method, task.support.inputs))
    assert seen == [(len(task.query.targets), 5)]
    assert len(task.query.targets) != len(task.support.targets)


def test_the_base_starts_as_without_a_co_learner():
    inputs = jnp.zeros((5, 1))
    method = build("maml+cml")
    params = method.init(jax.random.key(7), inputs)
    assert_same(params["base"], build("maml").init(jax.random.key(7), inputs)["base"])
    assert set(params) == {"base", "co_learner"}


def losses_of(members, features, targets):
    """Of co-learners one at a time, on given features."""
    count = len(jax.tree.leaves(members)[0])
    each = [jax.tree.map(lambda x, m=m: x[m], members) for m in range(count)]
    return [jnp.mean((CO_LEARNER.apply(phi, features)[0] - targets) ** 2) for phi in each]


def test_several_co_learners_count_with_the_mean_of_their_losses(task):
    base = build("maml")
    method = cml(base, CO_LEARNER, squared_error, scale=0.3, number=3)
    params = start(method, task.support.inputs)
    alone = start(base, task.support.inputs)
    assert_same(params["base"], alone["base"])
    first_kernels = jax.tree.leaves(params["co_learner"])[1]
    assert len(first_kernels) == 3 and (first_kernels[0] != first_kernels[1]).any()

    adapted = method.adapt(params, task.support)
    loss, metrics = method.objective(params, adapted, task.query)
    _, features = base.predict(adapted, task.query.inputs)
    each = losses_of(params["co_learner"], features, task.query.targets)
    np.testing.assert_allclose(metrics["co_learner_loss"], np.mean(each), rtol=1e-14)
    expected = base.objective(params, adapted, task.query)[0] + 0.3 * np.mean(each)
    np.testing.assert_allclose(loss, expected, rtol=1e-14)


def test_equal_co_learners_are_one(task):
    one, three = (
        cml(build("maml"), CO_LEARNER, squared_error, scale=0.3, number=number)
        for number in (None, 3)
    )
    params = start(one, task.support.inputs)
    phi = jax.tree.map(lambda x: jnp.stack([x] * 3), params["co_learner"])
    expected = jax.jit(jax.grad(after(one, task)))(params)
    found = jax.jit(jax.grad(after(three, task)))(params | {"co_learner": phi})
    assert_close(found["base"], expected["base"], 1e-13)
    summed = jax.tree.map(lambda g: g.sum(0), found["co_learner"])
    assert_close(summed, expected["co_learner"], 1e-13)


@pytest.mark.parametrize("dagger", ["paper", "released"])
def test_of_several_co_learners_the_mean_predicts(task, dagger):
    trained = cml(build("maml"), CO_LEARNER, squared_error, scale=0.3, number=3)
    params = start(trained, task.support.inputs)
    several = cml_jax.ensemble(CO_LEARNER, 3)
    method = {
        "paper": cml_jax.cml_dagger(MODEL, several, squared_error, learning_rate=0.1, num_steps=3),
        "released": cml_jax.cml_dagger_released(build("maml"), several),
    }[dagger]
    assert jax.tree.structure(start(method, task.support.inputs)) == jax.tree.structure(params)
    adapted = method.adapt(params, task.support)
    _, features = MODEL.apply(adapted.params, task.query.inputs)
    each = [
        CO_LEARNER.apply(jax.tree.map(lambda x, m=m: x[m], params["co_learner"]), features)[0]
        for m in range(3)
    ]
    outputs, _ = method.predict(adapted, task.query.inputs)
    np.testing.assert_allclose(outputs, np.mean(each, 0), rtol=1e-13)


def test_an_ensemble_has_members():
    with pytest.raises(ValueError, match="at least 1 member"):
        cml(build("maml"), CO_LEARNER, squared_error, scale=0.3, number=0)


@pytest.mark.parametrize("name", METHODS)
def test_a_co_learner_that_reads_the_support_too(task, name):
    base = build(name)
    method = cml(base, CO_LEARNER, squared_error, scale=0.3, on_support=True)
    params = start(method, task.support.inputs)
    adapted = method.adapt(params, task.support)
    assert_same(adapted.params, base.adapt(params, task.support).params)
    co_losses = []
    for inputs, targets in task:
        _, features = base.predict(adapted, inputs)
        outputs, _ = CO_LEARNER.apply(params["co_learner"], features)
        co_losses.append(jnp.mean((outputs - targets) ** 2))
    loss, metrics = method.objective(params, adapted, task.query)
    np.testing.assert_allclose(metrics["co_learner_loss"], np.mean(co_losses), rtol=1e-14)
    expected = base.objective(params, adapted, task.query)[0] + 0.3 * np.mean(co_losses)
    np.testing.assert_allclose(loss, expected, rtol=1e-14)


def test_the_gradient_of_several_co_learners_on_both_sets(task):
    method = cml(build("maml"), CO_LEARNER, squared_error, scale=0.3, number=2, on_support=True)
    params, loss = start(method, task.support.inputs), after(method, task)
    assert_close(jax.jit(jax.grad(loss))(params), finite_difference(loss, params), 1e-7)


@pytest.mark.parametrize("outer", [optax.sgd(0.1), optax.adam(1e-2)], ids=["sgd", "adam"])
def test_a_frozen_co_learner_keeps_its_random_start(outer):
    method = cml(build("maml"), CO_LEARNER, squared_error, scale=0.5, frozen=True)
    state = begin = cml_jax.init(method, outer, jax.random.key(0), jnp.zeros((5, 1)))
    step = jax.jit(partial(meta_step, method, outer))
    for seed in range(2):
        state, _ = step(state, sinusoids(4, seed))
    assert_same(state.params["co_learner"], begin.params["co_learner"])


def test_a_frozen_co_learner_pulls_on_the_base_all_the_same(task):
    learning = build("maml+cml")
    frozen = cml(build("maml"), CO_LEARNER, squared_error, scale=0.5, frozen=True)
    params = start(learning, task.support.inputs)
    gradient, expected = (jax.jit(jax.grad(after(m, task)))(params) for m in (frozen, learning))
    assert_close(gradient["base"], expected["base"], 1e-13)
    assert optax.tree.norm(gradient["co_learner"]) == 0 < optax.tree.norm(expected["co_learner"])


def test_the_scale_may_be_traced():
    task = first(sinusoids())

    @jax.jit
    @jax.vmap
    def losses(scale):
        method = cml(build("maml"), CO_LEARNER, squared_error, scale=scale)
        params = start(method, task.support.inputs)
        return after(method, task)(params)

    method = build("maml+cml", scale=2.0)
    params = start(method, task.support.inputs)
    np.testing.assert_allclose(losses(jnp.array([0.5, 2.0]))[1], after(method, task)(params), 1e-5)


def test_dagger_adapts_the_body_with_the_co_learners_loss(task):
    method = cml_jax.cml_dagger(MODEL, CO_LEARNER, squared_error, learning_rate=0.1, num_steps=3)
    params = start(build("maml+cml"), task.support.inputs)
    phi = params["co_learner"]

    def support_loss(body):
        _, features = MODEL.apply({"body": body, "head": params["base"]["head"]}, task.support[0])
        return jnp.mean((CO_LEARNER.apply(phi, features)[0] - task.support.targets) ** 2)

    body = params["base"]["body"]
    for _ in range(3):
        body = jax.tree.map(lambda p, g: p - 0.1 * g, body, jax.grad(support_loss)(body))
    adapted = method.adapt(params, task.support)
    assert_close(adapted.params["body"], body, 1e-13)
    assert_same(adapted.params["head"], params["base"]["head"])
    assert_same(adapted.extra, {"co_learner": phi})

    _, features = MODEL.apply(adapted.params, task.query.inputs)
    expected, _ = CO_LEARNER.apply(phi, features)
    outputs, read = method.predict(adapted, task.query.inputs)
    np.testing.assert_allclose(outputs, expected, rtol=1e-14)
    np.testing.assert_allclose(read, features, rtol=1e-14)


def test_dagger_does_not_read_the_head(task):
    method = cml_jax.cml_dagger(MODEL, CO_LEARNER, squared_error, learning_rate=0.1, num_steps=3)
    params = start(build("maml+cml"), task.support.inputs)
    nan = jax.tree.map(lambda x: x * jnp.nan, params["base"]["head"])
    poisoned = params | {"base": params["base"] | {"head": nan}}
    assert_same(
        method.predict(method.adapt(poisoned, task.support), task.query.inputs),
        method.predict(method.adapt(params, task.support), task.query.inputs),
    )


def test_dagger_takes_one_rate_a_part(task):
    rates = {"body": 0.1, "head": 0.5}
    params = start(build("maml+cml"), task.support.inputs)
    by_part, by_scalar = (
        cml_jax.cml_dagger(MODEL, CO_LEARNER, squared_error, learning_rate=rate, num_steps=2)
        for rate in (rates, 0.1)
    )
    assert_same(by_part.adapt(params, task.support), by_scalar.adapt(params, task.support))


def test_released_dagger_adapts_with_the_meta_learners_loss(task):
    base = build("maml")
    method = cml_jax.cml_dagger_released(base, CO_LEARNER)
    params = start(build("maml+cml"), task.support.inputs)
    adapted = method.adapt(params, task.support)
    assert_same(adapted.params, base.adapt(params, task.support).params)
    assert_same(adapted.extra, {"co_learner": params["co_learner"]})
    _, features = MODEL.apply(adapted.params, task.query.inputs)
    expected, _ = CO_LEARNER.apply(params["co_learner"], features)
    outputs, _ = method.predict(adapted, task.query.inputs)
    np.testing.assert_allclose(outputs, expected, rtol=1e-14)


@pytest.mark.parametrize(
    "dagger",
    [
        cml_jax.cml_dagger(MODEL, CO_LEARNER, squared_error, learning_rate=0.1, num_steps=3),
        cml_jax.cml_dagger_released(build("maml"), CO_LEARNER),
    ],
    ids=["paper", "released"],
)
def test_daggers_start_as_cml_and_evaluate_what_it_trained(dagger):
    tasks, key = sinusoids(), jax.random.key(3)
    params = build("maml+cml").init(key, tasks.support.inputs[0])
    assert_same(dagger.init(key, tasks.support.inputs[0]), params)
    values = jax.jit(partial(cml_jax.evaluate, dagger, metric=squared_error))(params, tasks)
    for t in range(2):
        task = jax.tree.map(lambda x, t=t: x[t], tasks)
        outputs, _ = dagger.predict(dagger.adapt(params, task.support), task.query.inputs)
        np.testing.assert_allclose(values[t], squared_error(outputs, task.query.targets), 1e-5)


def test_one_co_learner_a_method():
    twice = cml(build("maml+cml"), CO_LEARNER, squared_error, scale=1.0)
    with pytest.raises(ValueError, match="one co-learner"):
        twice.init(jax.random.key(0), jnp.zeros((3, 1)))
