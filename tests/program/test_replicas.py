"""Several seeds and several values of a setting, side by side in one program."""

import json

import jax
import numpy as np
import pytest
from support.quick import quick
from support.runs import after_steps, sinusoids, tested, trained

from experiments.build.replicas import replicas, side_by_side
from experiments.run_folder.best import no_best
from experiments.run_folder.results import interval
from experiments.settings.checks import check
from experiments.settings.config import SWEPT, ConfigError, flat


def assert_close(actual, expected):
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-6)


def test_runs_are_the_values_times_the_seeds():
    config = sinusoids(num_seeds=2, seed=5, sweep="inner_learning_rate", sweep_values=(0.1, 0.2))
    assert replicas(flat(config)).values == [
        {"seed": 5, "inner_learning_rate": 0.1},
        {"seed": 6, "inner_learning_rate": 0.1},
        {"seed": 5, "inner_learning_rate": 0.2},
        {"seed": 6, "inner_learning_rate": 0.2},
    ]
    assert replicas(flat(config)).groups() == {
        "inner_learning_rate 0.1": [0, 1],
        "inner_learning_rate 0.2": [2, 3],
    }
    assert replicas(flat(sinusoids(num_seeds=3))).groups() == {"": [0, 1, 2]}
    assert replicas(flat(sinusoids(seed=4))).values == [{"seed": 4}]


def test_a_single_run_has_no_axis():
    alone = replicas(flat(sinusoids(seed=3)))
    assert side_by_side(alone, lambda swept, x: swept["seed"] + x, (0,))(1) == 4


def test_every_seed_is_the_run_that_it_would_be_alone():
    both = after_steps(sinusoids("maml", num_seeds=2, co_learner="mlp"))
    for i in range(2):
        alone = after_steps(sinusoids("maml", seed=i, co_learner="mlp"))
        assert_close(jax.tree.map(lambda x, i=i: x[i], both), alone)


@pytest.mark.parametrize("name", quick(SWEPT, "inner_learning_rate"))
def test_every_value_is_the_run_that_it_would_be_alone(name):
    settings = {"co_learner": "mlp", "outer_schedule": "cosine"}
    if name == "radius":
        settings["method"] = "sharp_maml"
    values = (0.03, 0.004)
    together = after_steps(sinusoids(**settings, sweep=name, sweep_values=values))
    for i, value in enumerate(values):
        alone = after_steps(sinusoids(**settings, **{name: value}))
        ours = jax.tree.map(lambda x, i=i: x[i], together)
        assert_close((ours[0].params, ours[1].sums), (alone[0].params, alone[1].sums))
    norms = together[1].sums["gradient_norm"]
    assert abs(norms[0] - norms[1]) > 1e-6


def test_the_interval_over_tasks_and_over_seeds():
    assert interval("mse", [1.0, 2.0, 3.0]) == {
        "mse": 2.0,
        "sd": 1.0,
        "num_tasks": 3,
        "ci95": pytest.approx(1.96 / np.sqrt(3)),
    }
    # The tables' t of 4 degrees of freedom is 2.776; the means are 1 to 5, their sd sqrt(2.5).
    seeds = np.arange(1, 6)[:, None] + np.array([-0.5, 0.5])
    over = interval("mse", seeds)
    assert (over["mse"], over["num_tasks"], over["num_seeds"]) == (3.0, 2, 5)
    assert over["ci95"] == pytest.approx(2.776 * np.sqrt(2.5 / 5), rel=1e-3)


def test_the_best_of_every_run_is_its_own():

    def params(value):
        return {"w": np.full((3, 2), value), "n": np.full(3, int(value))}

    best = no_best(params(0.0), (3,), larger_is_better=False)
    assert np.isnan(best.params["w"]).all()
    first = best.after(params(1.0), np.array([5, 5, np.nan]), 1, False)
    assert first.about == {"value": [5.0, 5.0, np.inf], "step": [1, 1, 0]}
    second = first.after(params(2.0), np.array([6, 4, np.nan]), 2, False)
    assert second.about == {"value": [5.0, 4.0, np.inf], "step": [1, 2, 0]}
    np.testing.assert_array_equal(second.params["w"], [[1, 1], [2, 2], [np.nan, np.nan]])
    np.testing.assert_array_equal(second.params["n"], [1, 2, 0])
    assert second.after(params(3.0), np.array([5, 4, np.nan]), 3, False) is second


@pytest.mark.slow
def test_a_run_of_several_seeds_and_values(tmp_path):
    """Trained, stopped, trained on, tested: the report has a row a value and every run."""
    config = sinusoids(
        num_seeds=2, sweep="inner_learning_rate", sweep_values=(0.02, 0.3), co_learner="mlp"
    )
    config.eval.every = 1
    assert trained(config, tmp_path / "whole")
    results = tested(config, tmp_path / "whole")
    assert len(results.runs) == 4 and {r["seed"] for r in results.runs} == {0, 1}
    head = [r for r in results.test_all if r["predicts"] == "meta-learner"]
    assert {r["run"] for r in head} == {"inner_learning_rate 0.02", "inner_learning_rate 0.3"}
    assert all(r["num_seeds"] == 2 and r["num_tasks"] == 4 for r in head)
    rows = [
        json.loads(line) for line in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()
    ]
    for name in ("train/mse", "validation/mse"):
        own = [rows[-1][f"{name}/{i}"] for i in range(4)]
        assert len(set(own)) == 4
        np.testing.assert_allclose(rows[-1][name], np.mean(own), rtol=1e-6)
    values = [[row[f"validation/mse/{i}"] for row in rows] for i in range(4)]
    for run, seen in zip(results.runs, values, strict=True):
        assert run["validation/mse"] == min(seen)
        assert run["best_step"] == 1 + seen.index(min(seen))
    chosen = min(results.runs, key=lambda r: r["validation/mse"])
    assert (tmp_path / "whole/learning_curve.png").stat().st_size > 10_000
    assert results.test["run"].startswith("inner_learning_rate")
    assert "inner_learning_rate" in chosen


@pytest.mark.slow
def test_a_run_that_diverges_does_not_end_the_others(tmp_path):
    config = sinusoids(sweep="inner_learning_rate", sweep_values=(100.0, 0.02), num_steps=20)
    assert trained(config, tmp_path)
    results = tested(config, tmp_path)
    assert results.test["run"] == "inner_learning_rate 0.02"
    assert np.isfinite(results.test["mse"])
    lost = next(r for r in results.test_all if r["run"] == "inner_learning_rate 100")
    assert np.isnan(lost["mse"])
    assert json.loads((tmp_path / "results.json").read_text())["runs"][0]["validation/mse"] is None


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"sweep_values": (0.1, 0.2)}, "sweep_values is a setting of sweep=inner_learning_rate or"),
        (
            {"sweep": "co_learner_scale", "sweep_values": (1.0, 2.0)},
            "is a setting of co_learner=",
        ),
        (
            {"sweep": "radius", "sweep_values": (0.1, 0.2)},
            "is a setting of method=sharp_maml",
        ),
        (
            {"sweep": "outer_learning_rate", "sweep_values": (0.0, 1.0)},
            "outer_learning_rate=0.0 in",
        ),
        ({"sweep": "inner_learning_rate", "sweep_values": (0.1, 0.1)}, "name each value once"),
        ({"sweep": "inner_learning_rate", "sweep_values": ()}, "name each value once"),
        ({"num_seeds": 0}, "num_seeds=0: needs an integer from 1"),
    ],
)
def test_mistakes_are_told(changes, message):
    config = sinusoids()
    for name, value in changes.items():
        config[name] = value
    with pytest.raises(ConfigError, match=message):
        check(config)
