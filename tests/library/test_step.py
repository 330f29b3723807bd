"""The outer step: one battery that every combination of methods goes through."""

import subprocess
import sys
from functools import cache, partial

import jax
import jax.numpy as jnp
import jaxlib.version
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from support.battery import (
    COMBINATIONS,
    METHODS,
    MODEL,
    after,
    assert_close,
    assert_same,
    build,
    sinusoids,
)
from support.battery import meta_gradient as gradient_of_task
from support.quick import quick

import cml_jax
from cml_jax import (
    Adapted,
    Batch,
    Task,
    evaluate,
    gradient_agreement,
    meta_gradient,
    meta_step,
    squared_error,
    task_gradients,
    uniform,
)
from cml_jax.models import mlp, mlp_co_learner
from cml_jax.tasks import sinusoid

OUTER = optax.sgd(0.05, momentum=0.9)
SCALE = 0.5
battery = pytest.mark.parametrize("name", COMBINATIONS)
# Methods of three kinds: the slow parts of the battery take only these in a plain run.
KINDS = ("maml+cml", "maml_plus_plus", "reptile_released+cml")


@cache
def begin(name, seed=0):
    return cml_jax.init(build(name), OUTER, jax.random.key(seed), jnp.zeros((5, 1)))


def one_step(name, chunk=None):
    """`(state, tasks, scale, agree) -> meta_step(...)`: one program for both weightings."""

    def step(state, tasks, scale, agree):
        def weigh(displacements):
            return jnp.where(agree, gradient_agreement(displacements), uniform(displacements))

        method = build(name, scale=scale)
        return meta_step(method, OUTER, state, tasks, weigh=weigh, chunk=chunk)

    return step


def both_weightings(step, *arguments):
    """`{weighting: step(*arguments, agree)}`."""
    return {"uniform": step(*arguments, False), "gradient_agreement": step(*arguments, True)}


@cache
def compiled(name, chunk=None):
    return jax.jit(one_step(name, chunk))


@cache
def unsharded(name):
    """The result that every other way to run the step must repeat."""
    return both_weightings(compiled(name), begin(name), sinusoids(), SCALE)


def assert_repeats(results, expected, tolerance=1e-5):
    """Parameters, gradients (the momentum) and metrics, each to its own scale."""
    for weigh, (state, metrics) in expected.items():
        actual, actual_metrics = results[weigh]
        assert_close(actual.params, state.params, tolerance)
        assert_close(actual.opt_state, state.opt_state, tolerance)
        assert_close(actual_metrics, metrics, tolerance)


@battery
def test_a_step_is_the_update_by_hand(name):
    method, state, tasks = build(name), begin(name), sinusoids()

    @jax.jit
    def one_task(params, task):
        gradient = gradient_of_task(method, params, task)
        adapted = method.adapt(params, task.support)
        moved = jax.tree.map(jnp.subtract, params["base"], adapted.params)
        return gradient, jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(moved)])

    gradients, displacements = [], []
    for t in range(8):
        task = jax.tree.map(lambda x, t=t: x[t], tasks)
        gradient, displacement = one_task(state.params, task)
        gradients.append(gradient)
        displacements.append(np.asarray(displacement, np.float64))
    products = np.array([[gi @ gj for gj in displacements] for gi in displacements])
    agreement = products.sum(1) / np.abs(products.sum(1)).sum()
    for weigh, weights in (("uniform", np.full(8, 1 / 8)), ("gradient_agreement", agreement)):
        expected = jax.tree.map(
            lambda *g, w=weights: np.tensordot(w, np.array(g, np.float64), 1), *gradients
        )
        new, metrics = unsharded(name)[weigh]
        # The first trace of the momentum is the gradient itself.
        assert_close(optax.tree.get(new.opt_state, "trace"), expected, 1e-5)
        step = jax.tree.map(
            lambda g, p: p - 0.05 * g, expected, {k: state.params[k] for k in expected}
        )
        assert_close({k: new.params[k] for k in expected}, step, 1e-6)
        assert new.step == 1
        np.testing.assert_allclose(metrics["weight_min"], weights.min(), rtol=1e-4)
        np.testing.assert_allclose(metrics["weight_negative"], (weights < 0).mean())
        np.testing.assert_allclose(metrics["weight_mean"], weights.mean(), rtol=1e-4)
        np.testing.assert_allclose(metrics["gradient_norm"], optax.tree.norm(expected), rtol=1e-5)


@battery
def test_the_second_call_does_not_compile(name):
    step, state = compiled(name), begin(name)
    for seed in range(3):
        state, _ = step(state, sinusoids(seed=seed), SCALE, True)
    assert step._cache_size() == 1
    assert state.step == 3
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


@pytest.mark.parametrize("name", quick(COMBINATIONS, *KINDS))
def test_seeds_are_an_axis_and_chunks_change_nothing(name):
    states = jax.tree.map(lambda *x: jnp.stack(x), begin(name, 0), begin(name, 1))
    tasks = jax.tree.map(lambda *x: jnp.stack(x), sinusoids(seed=0), sinusoids(seed=1))
    step = jax.vmap(one_step(name, chunk=2), in_axes=(0, 0, None, None))
    results = both_weightings(jax.jit(step), states, tasks, SCALE)
    for seed in range(2):
        expected = both_weightings(compiled(name), begin(name, seed), sinusoids(seed=seed), SCALE)
        assert_repeats(jax.tree.map(lambda x, s=seed: x[s], results), expected)


# How the tasks are cut does not depend on the method: the odd cuts are tried on two.
ODD_CUTS = ("maml+cml", "reptile_adam")


@pytest.mark.parametrize(
    "name, chunk",
    quick(
        [(name, None) for name in COMBINATIONS] + [(name, 4) for name in ODD_CUTS],
        *((name, None) for name in KINDS),
    ),
)
def test_four_devices_are_one(name, chunk, mesh):
    state = jax.device_put(begin(name), NamedSharding(mesh, PartitionSpec()))
    tasks = jax.device_put(sinusoids(), NamedSharding(mesh, PartitionSpec("task")))
    step = jax.jit(one_step(name, chunk)).lower(state, tasks, SCALE, True).compile()
    results = both_weightings(step, state, tasks, SCALE)
    assert_repeats(results, unsharded(name))
    for weigh in results:
        assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(results[weigh]))
    # The weighted sum is all that the devices tell each other.
    program = step.as_text()
    assert "all-reduce" in program
    for other in ("all-gather", "all-to-all", "collective-permute"):
        assert other not in program


@pytest.mark.parametrize("name", quick(ODD_CUTS, "maml+cml"))
@pytest.mark.parametrize("chunk", [1, 4, 8])
def test_other_chunks_change_nothing(name, chunk):
    results = both_weightings(compiled(name, chunk), begin(name), sinusoids(), SCALE)
    assert_repeats(results, unsharded(name))


# The code generator that users have: the other tests' may give two programs other last bits.
AS_USERS_DO = (
    {"xla_cpu_use_fusion_emitters": True}
    if jaxlib.version.__version__.startswith("0.10.")
    else None
)


@pytest.mark.parametrize("name", METHODS)
def test_cml_of_scale_zero_is_its_base_bit_for_bit(name):
    def run(name, scale):
        step = jax.jit(one_step(name), compiler_options=AS_USERS_DO)
        return both_weightings(step, begin(name), sinusoids(), scale)

    expected, actual = run(name, 0.0), run(name + "+cml", 0.0)
    for weigh, (state, _) in expected.items():
        params = actual[weigh][0].params
        assert_same({part: params[part] for part in state.params}, state.params)
        scaled = unsharded(name + "+cml")[weigh][0].params["base"]
        assert optax.tree.norm(jax.tree.map(jnp.subtract, scaled, params["base"])) > 0


@battery
def test_agreement_of_identical_tasks_is_the_mean(name):
    tasks = jax.tree.map(lambda x: jnp.broadcast_to(x[:1], x.shape), sinusoids())
    result = both_weightings(compiled(name), begin(name), tasks, SCALE)
    assert_close(result["gradient_agreement"], result["uniform"], 1e-5)


def test_metrics_are_means_over_tasks():
    method, state, tasks = build("maml+cml"), begin("maml+cml"), sinusoids()
    metrics = {"error": squared_error, "largest": lambda outputs, _: outputs.max()}
    new, report = jax.jit(partial(meta_step, method, OUTER, metrics=metrics))(state, tasks)
    plain, plain_report = unsharded("maml+cml")["uniform"]
    assert set(report) - set(plain_report) == {"error", "largest"}
    adapt = jax.jit(method.adapt)
    assert_close(new, plain, 1e-6)
    np.testing.assert_allclose(report["error"], report["loss"], rtol=1e-6)
    np.testing.assert_allclose(
        report["error"], evaluate(method, state.params, tasks, squared_error).mean(), rtol=1e-5
    )
    losses, co_losses = [], []
    for t in range(8):
        task = jax.tree.map(lambda x, t=t: x[t], tasks)
        adapted = adapt(state.params, task.support)
        _, parts = method.objective(state.params, adapted, task.query)
        losses.append(parts["loss"])
        co_losses.append(parts["co_learner_loss"])
    np.testing.assert_allclose(report["loss"], np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(report["co_learner_loss"], np.mean(co_losses), rtol=1e-5)
    assert all(np.shape(value) == () for value in report.values())


def test_weights_may_be_those_of_the_meta_gradients():
    method, state, tasks = build("anil+cml"), begin("anil+cml"), sinusoids()
    step = partial(meta_step, method, OUTER, weigh=gradient_agreement, weigh_on="gradients")
    new, metrics = jax.jit(step)(state, tasks)
    one_task = lambda task: jax.grad(after(method, task))(state.params)  # noqa: E731
    gradients = jax.jit(jax.vmap(one_task))(tasks)
    # All of the base, the part that does not adapt too; nothing of the co-learner.
    g = np.concatenate([x.reshape(8, -1) for x in jax.tree.leaves(gradients["base"])], 1)
    agreement = (g @ g.T).sum(1)
    weights = agreement / np.abs(agreement).sum()
    expected = jax.tree.map(lambda x: np.tensordot(weights, x, 1), gradients)
    assert_close(optax.tree.get(new.opt_state, "trace"), expected, 1e-4)
    np.testing.assert_allclose(metrics["weight_mean"], weights.mean(), rtol=1e-4)
    by_displacement = unsharded("anil+cml")["gradient_agreement"][1]["weight_mean"]
    assert abs(by_displacement - weights.mean()) > 1e-3


def test_an_unknown_choice_of_what_is_weighed_is_named():
    with pytest.raises(ValueError, match="weigh_on='losses' is unknown: use 'displacements'"):
        meta_step(build("maml"), OUTER, begin("maml"), sinusoids(), weigh_on="losses")


@pytest.mark.parametrize("name, frozen", [("anil", "body"), ("boil", "head"), ("maml", None)])
def test_only_what_adapts_has_a_displacement(name, frozen):
    seen = []

    def weigh(displacements):
        seen.append(displacements)
        return uniform(displacements)

    method = build(name + "+cml")
    for since in (None, method):
        step = partial(meta_step, method, OUTER, weigh=weigh, since=since)
        jax.eval_shape(step, begin(name + "+cml"), sinusoids())
    for displacements in seen:
        assert set(displacements) == {"body", "head"}
        for part in ("body", "head"):
            assert bool(jax.tree.leaves(displacements[part])) == (part != frozen)


@pytest.mark.parametrize("weigh", [uniform, gradient_agreement])
def test_no_inner_steps_are_joint_training(weigh):
    method = cml_jax.maml(MODEL, squared_error, learning_rate=0.1, num_steps=0)
    state, tasks = begin("maml"), sinusoids()
    new, _ = meta_step(
        method,
        optax.sgd(0.5),
        state._replace(opt_state=optax.sgd(0.5).init(state.params)),
        tasks,
        weigh=weigh,
    )

    def joint(base):
        outputs = jax.vmap(lambda x: MODEL.apply(base, x)[0])(tasks.query.inputs)
        return jnp.mean(jnp.square(outputs - tasks.query.targets))

    base = state.params["base"]
    expected = jax.tree.map(lambda p, g: p - 0.5 * g, base, jax.grad(joint)(base))
    assert_close(new.params["base"], expected, 1e-5)


def test_donated_state_is_reused():
    method, outer = build("maml+cml"), optax.adam(1e-3)
    state = cml_jax.init(method, outer, jax.random.key(0), jnp.zeros((5, 1)))
    step = jax.jit(partial(meta_step, method, outer), donate_argnums=0)
    new, _ = step(state, sinusoids())
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))
    new, _ = step(new, sinusoids())
    assert step._cache_size() == 1 and new.step == 2


def test_inputs_may_be_a_tree():
    tasks = sinusoids()
    pairs = Task(*(Batch({"x": b.inputs, "sign": b.inputs > 0}, b.targets) for b in tasks))
    model = MODEL._replace(
        init=lambda key, inputs: MODEL.init(key, inputs["x"]),
        apply=lambda params, inputs: MODEL.apply(params, inputs["x"]),
    )
    method = cml_jax.maml(model, squared_error, learning_rate=0.1, num_steps=3)
    params = begin("maml").params
    for transductive in (True, False):
        run = partial(evaluate, metric=squared_error, transductive=transductive)
        actual = jax.jit(partial(run, method))(params, pairs)
        expected = jax.jit(partial(run, build("maml")))(params, tasks)
        np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["maml+cml", "anil", "maml_plus_plus", "reptile_released"])
def test_task_gradients_are_what_the_step_sums(name):
    method, state, tasks = build(name), begin(name), sinusoids()
    metrics = {"error": squared_error}
    found = jax.jit(partial(task_gradients, method, metrics=metrics))(state.params, tasks)
    assert all(leaf.shape[:1] == (8,) for leaf in jax.tree.leaves(found))
    trained = {part: tree for part, tree in state.params.items() if part != "carried"}
    assert jax.tree.structure(found.gradients) == jax.tree.structure(trained)

    one = jax.jit(
        lambda params, task: (
            after(method, task)(params),
            gradient_of_task(method, params, task),
            method.adapt(params, task.support),
        )
    )
    for t in range(8):
        task = jax.tree.map(lambda x, t=t: x[t], tasks)
        loss, gradient, adapted = one(state.params, task)
        at = jax.tree.map(lambda x, t=t: x[t], found)
        np.testing.assert_allclose(at.losses, loss, rtol=1e-5)
        assert_close(at.gradients, gradient, 1e-5)
        outputs, _ = method.predict(adapted, task.query.inputs)
        error = squared_error(outputs, task.query.targets)
        np.testing.assert_allclose(at.reports["error"], error, rtol=1e-5)
        moved = jax.tree.map(
            lambda p, a, d: None if d is None else p - a,
            state.params["base"],
            adapted.params,
            at.displacements,
            is_leaf=lambda x: x is None,
        )
        assert_close(at.displacements, moved, 1e-5)
    assert set(found.carried) == ({"carried"} if "carried" in state.params else set())

    options = {"weigh": gradient_agreement, "metrics": metrics}
    whole = jax.jit(partial(meta_gradient, method, **options))(state.params, tasks)
    weights = gradient_agreement(found.displacements)
    expected = jax.tree.map(lambda g: np.tensordot(weights, g, 1), found.gradients)
    assert_close(whole.gradient, expected, 1e-5)
    np.testing.assert_allclose(whole.loss, found.losses.mean(), rtol=1e-6)
    new, report = jax.jit(partial(meta_step, method, OUTER, **options))(state, tasks)
    assert_close(report, whole.report, 1e-6)
    assert_close(optax.tree.get(new.opt_state, "trace"), whole.gradient, 1e-6)
    if whole.carried:
        assert_close(new.params["carried"], whole.carried["carried"], 1e-6)


@pytest.mark.parametrize("chunk", [1, 2, 8])
def test_task_gradients_come_in_chunks_too(chunk):
    method, params, tasks = build("anil"), begin("anil").params, sinusoids()
    whole, cut = (
        jax.jit(partial(task_gradients, method, chunk=c))(params, tasks) for c in (None, chunk)
    )
    assert_close(cut, whole, 1e-6)
    assert whole.displacements["body"]["Linear_0"]["Dense_0"]["kernel"] is None


def own_plateau():
    """An optimiser that keeps what it is told, whoever wraps it."""
    return optax.GradientTransformationExtraArgs(
        lambda params: jnp.zeros(()),
        lambda updates, state, params=None, *, value, **extra: (updates, value),
    )


PLATEAU = {"factor": 0.5, "patience": 1, "rtol": 0.5}


@pytest.mark.parametrize("weigh", [uniform, gradient_agreement])
@pytest.mark.parametrize("radius", [None, 0.1])
def test_the_outer_optimiser_is_told_the_mean_loss(weigh, radius):
    method, tasks = build("maml+cml"), sinusoids()
    optimizer = optax.chain(optax.sgd(0.1), own_plateau())
    state = cml_jax.init(method, optimizer, jax.random.key(0), jnp.zeros((5, 1)))
    step = partial(meta_step, method, optimizer, weigh=weigh, radius=radius)
    new, report = jax.jit(step)(state, tasks)
    expected = report["loss"] + SCALE * report["co_learner_loss"]
    np.testing.assert_allclose(new.opt_state[-1], expected, rtol=1e-5)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tx: tx,
        lambda tx: optax.multi_transform({"all": tx}, lambda params: dict.fromkeys(params, "all")),
        lambda tx: optax.apply_if_finite(tx, 3),
        lambda tx: optax.MultiSteps(tx, 1),
        lambda tx: optax.MultiSteps(tx, 1).gradient_transformation(),
    ],
    ids=["alone", "by part", "if finite", "in steps", "in steps, as a transformation"],
)
def test_a_plateau_lowers_the_outer_rate(wrap):
    """Under a rate of zero no loss improves, and every second step halves the scale."""
    method = build("maml")
    optimizer = wrap(optax.chain(optax.sgd(0.0), optax.contrib.reduce_on_plateau(**PLATEAU)))
    state = cml_jax.init(method, optimizer, jax.random.key(0), jnp.zeros((5, 1)))
    step = jax.jit(partial(meta_step, method, optimizer))
    scales = []
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for _ in range(3):
            state, report = step(state, sinusoids())
            scales.append(float(optax.tree.get(state.opt_state, "scale")))
    assert scales == [1.0, 0.5, 0.25]
    best = optax.tree.get(state.opt_state, "best_value")
    np.testing.assert_allclose(best, report["loss"], rtol=1e-6)


def test_a_polyak_step_reads_the_loss():
    method, tasks = build("maml"), sinusoids()
    optimizer = optax.polyak_sgd(max_learning_rate=1e9)
    state = cml_jax.init(method, optimizer, jax.random.key(0), jnp.zeros((5, 1)))
    new, report = jax.jit(partial(meta_step, method, optimizer))(state, tasks)
    gradient = jax.jit(partial(meta_gradient, method))(state.params, tasks).gradient
    rate = report["loss"] / optax.tree.norm(gradient, squared=True)
    expected = jax.tree.map(lambda p, g: p - rate * g, state.params, gradient)
    assert_close(new.params, expected, 1e-5)


def test_a_method_from_public_names_alone():
    """ANIL whose inner loss pulls the head to its start, with what it measured in `extra`."""

    def proximal(model, loss, *, learning_rate, num_steps, strength):
        adapts = {"body": False, "head": True}

        def init(key, inputs):
            return {"base": model.init(key, inputs), "pull": jnp.float32(strength)}

        def adapt(params, support):
            base = params["base"]

            def pulled(network, number):
                apart = jax.tree.map(jnp.subtract, network["head"], base["head"])
                distance = optax.tree.norm(apart, squared=True)
                support_loss = cml_jax.loss_on(model, loss, support)(network, number)
                return support_loss + params["pull"] * distance

            adapted = cml_jax.gradient_descent(
                pulled,
                base,
                cml_jax.inner.sgd(learning_rate),
                num_steps,
                adapts=adapts,
                first_step=0,
            )
            head = cml_jax.inner.select(adapts, adapted)
            return cml_jax.Adapted(cml_jax.inner.merge(head, base), {"steps": num_steps})

        def predict(adapted, inputs):
            return model.apply(adapted.params, inputs)

        def objective(params, adapted, query, prediction=None):
            outputs, _ = prediction or predict(adapted, query.inputs)
            value = loss(outputs, query.targets)
            return value, {"loss": value, "steps": jnp.float32(adapted.extra["steps"])}

        return cml_jax.Method(init, adapt, predict, objective)

    settings = {"learning_rate": 0.1, "num_steps": 3}
    method = proximal(MODEL, squared_error, strength=0.0, **settings)
    wrapped = cml_jax.cml(method, mlp_co_learner(width=4), squared_error, scale=0.5)
    state = cml_jax.init(wrapped, OUTER, jax.random.key(0), jnp.zeros((5, 1)))
    step = partial(meta_step, wrapped, OUTER, weigh=gradient_agreement, chunk=2)
    new, report = jax.jit(step)(state, sinusoids())
    assert report["steps"] == 3
    anil = cml_jax.cml(build("anil"), mlp_co_learner(width=4), squared_error, scale=0.5)
    plain = cml_jax.init(anil, OUTER, jax.random.key(0), jnp.zeros((5, 1)))
    plain, _ = jax.jit(partial(meta_step, anil, OUTER, weigh=gradient_agreement))(
        plain, sinusoids()
    )
    for part in ("base", "co_learner"):
        assert_close(new.params[part], plain.params[part], 1e-5)
    assert new.params["pull"] != 0  # it is trained
    assert evaluate(wrapped, new.params, sinusoids(), squared_error).shape == (8,)


@cache
def training_tasks():
    keys = jax.random.split(jax.random.key(0), (300, 8))
    return jax.vmap(jax.vmap(partial(sinusoid, shots=10, queries=10)))(keys)


# Rates that are learned as fast as the rest grow until the inner loop diverges.
SLOW_RATES = optax.multi_transform(
    {"rates": optax.adam(5e-4), "rest": optax.adam(5e-3)},
    lambda params: {name: "rates" if name == "inner_rates" else "rest" for name in params},
)
LEARNING = {
    "fomaml": (optax.adam(5e-3), {"learning_rate": 0.02, "num_steps": 5}),
    "meta_sgd": (SLOW_RATES, {"learning_rate": 0.01, "num_steps": 5}),
    "maml_plus_plus": (SLOW_RATES, {"learning_rate": 0.01, "num_steps": 5}),
    "reptile": (optax.sgd(0.3), {"optimizer": optax.sgd(0.02), "num_steps": 10}),
    "reptile_adam": (
        optax.sgd(0.3),
        {"optimizer": optax.adam(0.02, b1=0.0, eps_root=1e-8), "num_steps": 10},
    ),
    "reptile_released": (
        optax.sgd(0.3),
        {"optimizer": optax.adam(0.02, b1=0.0), "num_steps": 10, "minibatch": 5},
    ),
}


@pytest.mark.parametrize("name", quick(METHODS, "maml", "reptile"))
def test_it_learns_the_sinusoid_alone_under_cml_under_agreement_and_under_both(name):
    """Trained, it errs by 0.2 to 0.9; without adaptation, or untrained, by more than 1.3.

    The error is the median task's: on a few the inner loop diverges.
    """
    outer, inner = LEARNING.get(name, (optax.adam(5e-3), {"learning_rate": 0.01, "num_steps": 5}))
    base = METHODS[name](mlp(), squared_error, **inner)
    keys = jax.random.split(jax.random.key(99), 400)
    unseen = jax.vmap(partial(sinusoid, shots=10, queries=10))(keys)

    @jax.jit
    @partial(jax.vmap, in_axes=(0, 0, None))
    def errors_after_training(scale, agree, tasks):
        def weigh(displacements):
            return jnp.where(agree, gradient_agreement(displacements), uniform(displacements))

        method = cml_jax.cml(base, mlp_co_learner(), squared_error, scale=scale)
        state = cml_jax.init(method, outer, jax.random.key(1), jnp.zeros((10, 1)))
        state, _ = jax.lax.scan(partial(meta_step, method, outer, weigh=weigh), state, tasks)
        adapted = evaluate(base, state.params, unseen, squared_error)
        unadapted = jax.vmap(
            lambda x, y: squared_error(base.predict(Adapted(state.params["base"]), x)[0], y)
        )(*unseen.query)
        return jnp.median(adapted), jnp.median(unadapted)

    scales, agree = jnp.array([0.0, 0.2, 0.0, 0.2]), jnp.array([False, False, True, True])
    adapted, unadapted = errors_after_training(scales, agree, training_tasks())
    assert (adapted < 1.0).all() and (unadapted > 1.3).all()


def test_importing_it_loads_nothing_heavy():
    heavy = ["tensorflow", "tensorflow_datasets", "orbax", "matplotlib", "PIL"]
    for module, unwanted in (("cml_jax", [*heavy, "flax"]), ("cml_jax.models", heavy)):
        command = f"import sys, {module}; print([m for m in {unwanted} if m in sys.modules])"
        result = subprocess.run(
            [sys.executable, "-c", command], capture_output=True, text=True, timeout=120, check=True
        )
        assert result.stdout.strip() == "[]"
