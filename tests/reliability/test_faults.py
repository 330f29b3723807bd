"""Faults in training: steps that are not finite, and runs that learn nothing."""

import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.battery import assert_same
from support.faults import poisoned
from support.runs import SETTINGS, sinusoids, start, tested, trained

from experiments.run_folder import health
from experiments.run_folder.checkpoints import Checkpoints
from experiments.run_folder.folder import read_rows
from experiments.settings.record import record
from experiments.train import compile_steps, health_check

# A run that ends with an error leaves its files to the end of the program.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
BOTH = {"co_learner": "mlp", "weighting": "gradient_agreement"}


@pytest.mark.parametrize("method", SETTINGS)
def test_a_step_that_is_not_finite_is_as_if_it_had_not_been(method):
    config = sinusoids(method, **BOTH)
    parts, first = start(config)
    problem = poisoned(parts.problem, "train", 6)  # of the second step, whose tasks are 4-7
    advance = compile_steps(parts.learner, problem, parts.plan, parts.schedule, first, None)

    def copy():  # what is given to `advance` is gone
        return jax.tree.map(jnp.copy, first)

    state, seen = advance(copy(), None, 3)
    assert (int(state.step), int(seen.skipped), int(seen.first)) == (3, 1, 2)
    assert not np.isfinite(seen.report["loss"]) and not np.isfinite(seen.report["gradient_norm"])

    before, kept = advance(copy(), None, 1)
    expected, last = advance(before._replace(step=jnp.int32(2)), None, 1)
    assert_same((state.params, state.opt_state), (expected.params, expected.opt_state))
    assert_same(seen.sums, jax.tree.map(jnp.add, kept.sums, last.sums))


def last(config, workdir):
    """The newest checkpoint of a run."""
    checkpoints = Checkpoints(workdir)
    restored = checkpoints.restore_last(start(config)[1])
    checkpoints.close()
    return restored


def test_stop_names_the_step_the_tasks_and_the_remedy_and_saves_nothing(tmp_path, poison):
    # Step 8 of 9 meets a bad task. Its dispatch ends with a validation, the best one so far, and a
    # timed save is due at every dispatch.
    changes = {"train_steps": 9, "eval.every": 3, "plan.steps_per_dispatch": 3}
    config = sinusoids(**changes, checkpoint_every_minutes=0.0)
    poison("train", 7 * 4 + 2)
    record(config, tmp_path)
    with pytest.raises(FloatingPointError) as caught:
        trained(config, tmp_path)
    line = str(caught.value)
    assert line.startswith("train/") and " is nan in step 8, on tasks 28-31 of seed 0: " in line
    assert "lower --config.inner_learning_rate=0.02 or" in line and "non_finite=skip" in line
    assert str(tmp_path) in line and "\n" not in line
    step, state, _ = last(config, tmp_path)
    assert step == 6
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    assert [int(path.name) for path in (tmp_path / "best").iterdir()] < [9]

    # The same run continues past it.
    config.non_finite = "skip"
    assert trained(config, tmp_path)
    rows = read_rows(tmp_path)
    assert [(row["step"], row.get("skipped")) for row in rows] == [(3, None), (6, None), (9, 1)]
    assert all(np.isfinite(value) for value in rows[-1].values())
    assert last(config, tmp_path)[0] == 9
    [line] = tested(config, tmp_path).warnings
    assert line.endswith("not finite, the first in steps 7-9")


def test_of_several_runs_one_that_is_not_finite_does_not_end_the_others(tmp_path, poison):
    changes = {"train_steps": 6, "eval.every": 3, "plan.steps_per_dispatch": 3}
    config = sinusoids(**changes, num_seeds=2)
    poison("train", *range(3 * 4, 6 * 4), seed=1)  # from the fourth step on
    assert trained(config, tmp_path)
    rows = read_rows(tmp_path)
    assert [row.get("skipped") for row in rows] == [None, 3]
    assert rows[1]["train/loss/1"] is None and np.isfinite(rows[1]["train/loss/0"])
    assert rows[0]["validation/mse/1"] == rows[1]["validation/mse/1"]  # it stands still
    assert rows[0]["validation/mse/0"] != rows[1]["validation/mse/0"]
    _, state, _ = last(config, tmp_path)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_skip_gives_up_when_nothing_is_finite(tmp_path, poison, monkeypatch):
    monkeypatch.setattr(health, "LOST_STEPS", 4)
    changes = {"train_steps": 30, "eval.every": 30, "plan.steps_per_dispatch": 2}
    config = sinusoids(**changes, non_finite="skip", checkpoint_every_minutes=0.0)
    poison("train", *range(3 * 4, 30 * 4, 4))
    with pytest.raises(FloatingPointError, match=r"^4 steps in a row were skipped; train/.*step 7"):
        trained(config, tmp_path)
    step, state, _ = last(config, tmp_path)
    assert step == 6 and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_parameters_that_overflow_after_a_finite_loss_are_not_kept(monkeypatch):
    config = sinusoids(outer_optimizer="sgd", outer_learning_rate=100.0)
    module = sys.modules["experiments.build.learner"]  # the package has a function of this name
    scale, optimizer = optax.scale(jnp.float32(3e38)), module.outer_optimizer
    monkeypatch.setattr(
        module, "outer_optimizer", lambda settings: optax.chain(optimizer(settings), scale)
    )
    parts, state = start(config)
    advance = compile_steps(*parts[:4], state, None)
    state, seen = advance(state, None, 1)
    assert int(seen.skipped) == 0 and np.isfinite(seen.sums["loss"])
    assert not seen.params_finite
    line = health.must_stop(
        jax.tree.map(np.asarray, seen),
        step=1,
        lost=0,
        skip=False,
        tasks_per_step=4,
        replicas=[{"seed": 0}],
        remedy=parts.schedule.remedy,
    )
    assert line.startswith("a parameter is not finite after step 1: lower --config.inner_")


def test_a_validation_that_is_not_finite_is_never_the_best(tmp_path, poison):
    config = sinusoids(train_steps=6)
    poison("validation", 1)
    with pytest.raises(FloatingPointError, match="validation/mse was never finite: lower"):
        trained(config, tmp_path)
    assert [row["validation/mse"] for row in read_rows(tmp_path)] == [None, None]
    assert not list((tmp_path / "best").iterdir())


def reports(steps=1000, every=20, **values):
    """Rows of a run; a value is a number, or a function of the share of training that is done."""
    rows = []
    for step in range(every, steps + 1, every):
        at = {k: v(step / steps) if callable(v) else v for k, v in values.items()}
        rows.append({"step": step} | {f"train/{k}": v for k, v in at.items()})
    return rows


HEALTHY = {
    "loss": lambda t: 1.6 - t,
    "accuracy": lambda t: 0.23 + 0.5 * t,
    "gradient_norm": lambda t: 2 - t,
    "weight_mean": 0.2,
    "weight_min": lambda t: -0.1,
    "weight_max": 0.5,
}


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        ({}, None),
        ({"accuracy": lambda t: 0.2 if t < 0.05 else 0.3}, None),  # half a stretch
        ({"accuracy": lambda t: 0.2 if t > 0.6 else 0.8}, "at chance, 20.0% of 5 .* steps 601-700"),
        ({"accuracy": 0.21}, "accuracy is at chance"),
        ({"loss": 1.6}, "the loss does not fall: 1.6 at the start, 1.6 in steps 101-200;"),
        ({"loss": lambda t: 1.6 + t}, "the loss does not fall"),
        ({"loss": lambda t: max(0.4, 1.6 - 20 * t)}, None),  # learned in the first stretch
        ({"loss": None}, None),
        ({"gradient_norm": 1e-3}, None),
        (
            {"gradient_norm": lambda t: 0.0 if t > 0.5 else 1.0},
            "vanishes, 0.0e.00 in steps 501-600",
        ),
        ({"weight_min": 0.2, "weight_max": 0.2}, "weights are all equal in steps 1-100"),
        ({"weight_min": 0.0, "weight_max": 0.999}, "one task takes all of the agreement weights"),
        ({"weight_min": 0.19, "weight_max": 0.21}, None),
    ],
)
def test_warnings_on_reports(change, warning):
    settings = {"train_steps": 1000, "tasks_per_step": 5, "chance": 0.2, "agreement": True}
    rows = reports(**HEALTHY | change)
    found = health.HealthCheck(**settings, rows=rows).warnings()
    assert len(found) == bool(warning) and all("\n" not in line for line in found)
    if warning:
        assert re.search(warning, found[0])
    # More reports never take a warning back or change it, and each is there once.
    told = []
    for count in range(len(rows) + 1):
        now = health.HealthCheck(**settings, rows=rows[:count]).warnings()
        assert set(told) <= set(now) and len(now) == len(set(now))
        told = now


def small_reptile(**changes):
    return sinusoids("reptile", **changes)


def small_glyphs(**changes):
    config = sinusoids("fomaml", **changes)
    config.data.name, config.model.name = "glyphs", "conv4"
    config.model.filters, config.model.pool = 4, False
    config.data.ways, config.data.shots, config.data.queries = 3, 1, 2
    config.inner_learning_rate, config.outer_learning_rate = 0.4, 1e-2
    return config


LONG = {"train_steps": 200, "eval.every": 100, "plan.steps_per_dispatch": 20}
FLAT = {"tasks_per_step": 25, "outer_learning_rate": 1e-10, "inner_learning_rate": 0.0}


@pytest.mark.parametrize(
    ("make", "changes", "expected"),
    [
        (sinusoids, {}, []),
        (sinusoids, BOTH, []),
        (small_reptile, {"outer_learning_rate": 0.5}, []),
        (small_glyphs, {"weighting": "gradient_agreement"}, []),
        (sinusoids, FLAT | BOTH, ["the loss does not fall", "the agreement weights are all equal"]),
        (small_reptile, FLAT, ["the loss does not fall", "the gradient vanishes"]),
    ],
    ids=["maml", "maml both", "reptile", "glyphs", "maml flat", "reptile flat"],
)
def test_warnings_of_real_runs(tmp_path, capsys, make, changes, expected):
    config = make(**LONG | changes)
    assert trained(config, tmp_path)
    parts = start(config)[0]
    rows = read_rows(tmp_path)
    found = health_check(parts.learner, parts.problem, parts.schedule, rows).warnings()
    assert [any(line.startswith(start) for start in expected) for line in found] == [True] * len(
        expected
    )
    assert capsys.readouterr().err.count("warning: ") == len(expected)
    if expected:  # the same run is tested: what was said is not said again
        config.eval.num_tasks = 5
        assert tested(config, tmp_path).warnings == found


@pytest.mark.parametrize(
    ("value", "half", "chance", "warned"),
    [
        (0.515, 0.012, 0.5, True),
        (0.515, 0.006, 0.5, True),
        (0.66, 0.012, 0.5, False),
        (0.21, 0.002, 0.2, True),
        (0.60, 0.45, 0.2, True),  # too few tasks to tell
        (0.25, 0.01, 0.2, False),
        (0.5, 0.1, None, False),
        (float("nan"), float("nan"), 0.2, False),
    ],
)
@pytest.mark.parametrize("metric", ["accuracy", "top_2_accuracy"])
def test_a_test_at_chance_is_told(metric, value, half, chance, warned):
    settings = {"train_steps": 1000, "tasks_per_step": 5, "chance": chance, "agreement": False}
    check = health.HealthCheck(**settings, metric=metric)
    found = check.at_chance({metric: value, "ci95": half})
    assert bool(found) == warned and check.at_chance({"mse": 0.0, "ci95": 0.0}) == []
    if found:
        said = f"{metric} {value:.1%} ± {half:.1%}, a guess has {chance:.1%}; "
        assert said in found[0] and "\n" not in found[0]


def test_a_test_at_chance_is_in_the_results(tmp_path, capsys):
    config = small_glyphs(outer_learning_rate=1e-10)
    config.inner_learning_rate = 0.0  # nothing adapts: every prediction is a guess
    config.eval.num_tasks = 20
    assert trained(config, tmp_path)
    [line] = tested(config, tmp_path).warnings
    assert line.startswith("the test is at chance or cannot be told from it: accuracy ")
    assert capsys.readouterr().err.count(f"warning: {line}") == 1
