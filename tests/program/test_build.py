"""Every method runs from every config, alone, under CML, under agreement, and under both."""

import importlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.quick import quick
from support.runs import ROOT, SETTINGS, after_steps, sinusoids, start, tested, trained

import cml_jax
from cml_jax import Adapted
from experiments.build import schedule
from experiments.build.learner import base_method, train_method
from experiments.build.optimizers import outer_optimizer as outer_optimizer_of
from experiments.choices.methods import METHODS
from experiments.settings.checks import check
from experiments.settings.config import KEYS, ConfigError, flat


@pytest.mark.parametrize(
    "both",
    [
        pytest.param(False, id="plain", marks=pytest.mark.slow),
        pytest.param(True, id="cml and agreement"),
    ],
)
@pytest.mark.parametrize("method", quick(SETTINGS, "maml"))
def test_every_method_trains_and_tests(tmp_path, method, both):
    changes = {"co_learner": "mlp", "weighting": "gradient_agreement"} if both else {}
    config = sinusoids(method, **changes, **{"eval.num_steps": (0, 3)})
    assert trained(config, tmp_path)
    results = tested(config, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 3 and all(np.isfinite(list(rows[-1].values())))
    steps = {(row["predicts"], row["num_steps"]) for row in results.test_all}
    assert {("meta-learner", 2), ("meta-learner", 3)} <= steps
    wrapped = both and method != "collaborative"
    assert any("released" in who for who, _ in steps) == wrapped
    if both:
        assert rows[-1]["train/weight_min"] < 0.25  # uniform would be exactly a quarter


INNER = [name for name in SETTINGS if METHODS[name].has_inner_steps]


@pytest.mark.parametrize("method", quick(INNER, "maml", "reptile"))
def test_agreement_of_the_last_inner_step(method):
    changes = {"sharp": "lower"} if method == "sharp_maml" else {}  # not around the weights
    changes |= {"weighting": "gradient_agreement", "weigh_on": "last_steps"}
    config = sinusoids(method, **changes)
    parts, state = start(config)
    settings, problem = flat(config), parts.problem
    tasks = jax.vmap(lambda key: problem.train_sample(key, None))(
        jax.random.split(jax.random.key(0), 4)
    )
    before, after = (base_method(settings, problem, None, k) for k in (1, 2))

    @jax.jit
    def weights(params):
        arrived = [
            jax.vmap(lambda support, m=m: m.adapt(params, support).params)(tasks.support)
            for m in (before, after)
        ]
        return cml_jax.gradient_agreement(jax.tree.map(jnp.subtract, *arrived))

    step = jax.jit(lambda state: parts.learner.meta_step(settings, state, tasks, None)[1])
    expected, report = weights(state.params), step(state)
    for name, value in (("min", expected.min()), ("max", expected.max())):
        np.testing.assert_allclose(report[f"weight_{name}"], value, rtol=1e-3)


CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("[a-z]*.py"))


@pytest.mark.parametrize("file", CONFIGS)
def test_every_config_file_takes_every_method(file):
    module = importlib.import_module(f"configs.{file}")
    for method, settings in SETTINGS.items():
        for co_learner in ("none", "linear"):
            config = module.get_config()
            for name, value in (settings | {"method": method}).items():
                config[name] = value
            if "co_learner" not in settings:
                config.co_learner = co_learner
            check(config)


def test_the_multi_step_loss_ends_where_it_should():
    config = sinusoids("maml_plus_plus", multi_step_until=0.5, second_order_after=0.0)
    parts, state = start(config)
    problem, params = parts.problem, state.params
    task = problem.train_sample(jax.random.key(0), None)

    def reported(progress):
        method = train_method(flat(config), problem, None, progress=progress)
        return method.objective(params, method.adapt(params, task.support), task.query)[1]

    early, late = jax.jit(reported)(0.25), jax.jit(reported)(0.75)
    assert early["loss"] == late["loss"] == late["multi_step_loss"]
    assert early["multi_step_loss"] != early["loss"]


@pytest.mark.slow
def test_the_upper_loop_of_sharp_maml_is_perturbed():
    """One step under SGD: lower, upper and both differ, and with no radius all are MAML."""

    def after(sharp, radius):
        config = sinusoids("sharp_maml", sharp=sharp, radius=radius, outer_optimizer="sgd")
        state, _ = after_steps(config, 1)
        return jax.flatten_util.ravel_pytree(state.params)[0]

    names = ("lower", "upper", "both")
    moved = [after(name, 0.5) for name in names]
    still = [after(name, 0.0) for name in names]
    for i in range(3):
        np.testing.assert_allclose(still[i], still[0], rtol=0, atol=1e-6)
        assert jnp.abs(moved[i] - moved[i - 1]).max() > 1e-5
        assert jnp.abs(moved[i] - still[i]).max() > 1e-5


def test_the_co_learner_has_an_outer_rate_of_its_own():
    params = {"base": jnp.ones(2), "co_learner": jnp.ones(2)}
    for factor, expected in ((1.0, 1.0), (0.25, 0.25)):
        config = sinusoids(outer_optimizer="sgd", co_learner="mlp", co_learner_rate=factor)
        optimizer = outer_optimizer_of(flat(config))
        updates, _ = optimizer.update(params, optimizer.init(params), params)
        rate = config.outer_learning_rate
        np.testing.assert_allclose(updates["base"], -rate, rtol=1e-6)
        np.testing.assert_allclose(updates["co_learner"], -rate * expected, rtol=1e-6)


@pytest.mark.parametrize("name", KEYS["inner_optimizer"].allowed)
def test_every_inner_optimizer_adapts_and_is_differentiated(name):
    config = sinusoids(inner_optimizer=name)
    parts, state = start(config)
    problem, params = parts.problem, state.params
    task = problem.train_sample(jax.random.key(0), None)
    method = train_method(flat(config), problem, None)

    def after(params):
        return method.objective(params, method.adapt(params, task.support), task.support)[0]

    loss, gradient = jax.jit(jax.value_and_grad(after))(params)
    before = base_method(flat(config), problem, None, 0)
    assert loss < before.objective(params, Adapted(params["base"]), task.support)[0]
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("name", KEYS["outer_optimizer"].allowed)
def test_every_outer_optimizer_moves_against_the_gradient(name):
    config = sinusoids(outer_optimizer=name, outer_schedule="cosine", max_gradient_norm=1.0)
    optimizer = outer_optimizer_of(flat(config))
    params = {"base": jnp.ones(3)}
    with jax.numpy_dtype_promotion("standard"):  # optax's schedules divide an int32 count
        updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert (updates["base"] < 0).all()


def test_weight_decay_of_adam_is_in_the_gradient():
    config = sinusoids(outer_optimizer="adam", weight_decay=0.5)
    optimizer = outer_optimizer_of(flat(config))
    params = {"base": jnp.array([1.0, -3.0])}
    zeros = jax.tree.map(jnp.zeros_like, params)
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    # Adam's first step is the sign of the gradient, here of the weights.
    signs = updates["base"] / config.outer_learning_rate
    np.testing.assert_allclose(signs, [-1.0, 1.0], rtol=1e-5)


def test_weight_decay_shrinks_what_has_no_gradient():
    config = sinusoids(outer_optimizer="adamw", weight_decay=0.5)
    optimizer = outer_optimizer_of(flat(config))
    params = {"base": jnp.ones(3)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    new = optax.apply_updates(params, updates)
    np.testing.assert_allclose(new["base"], 1 - 0.5 * config.outer_learning_rate, rtol=1e-6)


def test_the_bodys_rate_is_its_own():
    config = sinusoids(body_rate=0.0)
    parts, state = start(config)
    problem, params = parts.problem, state.params
    task = problem.train_sample(jax.random.key(0), None)
    adapted = base_method(flat(config), problem, None, 2).adapt(params, task.support).params
    jax.tree.map(np.testing.assert_array_equal, adapted["body"], params["base"]["body"])
    heads = zip(
        jax.tree.leaves(adapted["head"]), jax.tree.leaves(params["base"]["head"]), strict=True
    )
    assert all((a != b).any() for a, b in heads)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"method": "collaborative", "co_learner": "none"}, "needs a second head"),
        ({"minibatch": 3}, "minibatch is a setting of method=reptile"),
        (
            {"method": "meta_sgd", "inner_optimizer": "adam"},
            "inner_optimizer is a setting of method=",
        ),
        (
            {"inner_optimizer": "adam", "body_rate": 0.5},
            "setting of inner_optimizer=sgd",
        ),
        ({"second_order_after": 0.5}, "second_order_after is a setting of method=maml_plus_plus"),
        ({"co_learner_frozen": True}, "co_learner_frozen is a setting of co_learner=linear"),
        (
            {"method": "maml_plus_plus", "body_rate": 0.5},
            "a setting of method=maml or",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        check(sinusoids(**changes), changes)


def test_what_to_change_is_the_rate_that_is_set():
    def remedy(**changes):
        return schedule(flat(sinusoids(**changes))).remedy

    both = "lower --config.inner_learning_rate=0.02 or --config.outer_learning_rate=0.001 in a new"
    assert remedy().startswith(both) and remedy(sweep="body_rate").startswith(both)
    swept = remedy(sweep="outer_learning_rate", sweep_values=(0.1, 0.5))
    assert "inner_learning_rate=0.02 or --config.sweep_values=0.1,0.5 in" in swept
    assert "outer_learning_rate" not in swept
