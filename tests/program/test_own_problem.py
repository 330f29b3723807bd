"""A model, tasks, loss and metric of one's own get the whole program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import experiments
from cml_jax import models
from cml_jax.tasks import sinusoid
from experiments.run_folder.folder import read_rows


def huber(outputs, targets):
    gap = jnp.abs(outputs - targets)
    return jnp.where(gap < 1, 0.5 * gap**2, gap - 0.5).mean()


def worst(outputs, targets):
    return jnp.abs(outputs - targets).max()


def draw(key, data):
    task = sinusoid(key, shots=5, queries=7)
    return task if data is None else jax.tree.map(lambda leaf: leaf * data["scale"], task)


PROBLEM = experiments.Problem(
    model=models.mlp(hidden=(8, 8)),
    train_sample=draw,
    loss=huber,
    metric=worst,
    metric_name="worst",
    larger_is_better=False,
    co_learner=models.mlp_co_learner(width=4),
    small=True,
)


def config(**changes):
    settings = experiments.default_config()
    settings.inner_learning_rate, settings.num_steps, settings.tasks_per_step = 0.02, 2, 4
    settings.train_steps, settings.eval.every, settings.eval.num_steps = 6, 3, (0,)
    settings.eval.validation_tasks = settings.eval.num_tasks = 4
    settings.plan.steps_per_dispatch = 2
    for name, value in changes.items():
        settings[name] = value
    return settings


def test_it_trains_resumes_and_is_tested(tmp_path, capfd):
    whole = experiments.run(config(), tmp_path / "whole", PROBLEM)
    assert whole.metric == "worst" and whole.data == "own" and whole.test["num_tasks"] == 4
    assert {row["predicts"] for row in whole.test_all} >= {"meta-learner"}
    assert (tmp_path / "whole" / "learning_curve.png").stat().st_size > 5_000
    said = capfd.readouterr().err
    assert "validation worst" in said and "left" in said
    rows = read_rows(tmp_path / "whole")
    best = min(row["validation/worst"] for row in rows if "validation/worst" in row)
    assert whole.validation["worst"] == pytest.approx(best)

    again = experiments.run(config(), tmp_path / "whole", PROBLEM)
    assert again.test["worst"] == whole.test["worst"]

    experiments.run(config(train_steps=3), tmp_path / "parts", PROBLEM)
    longer = experiments.run(config(), tmp_path / "parts", PROBLEM, accept_changes=True)
    assert longer.test["worst"] == whole.test["worst"]


def test_its_data_are_told_apart(tmp_path):
    data = {split: {"scale": np.float32(2)} for split in ("train", "validation", "test")}
    experiments.run(config(train_steps=2), tmp_path, PROBLEM._replace(data=data))
    other = {split: {"scale": np.float32(3)} for split in data}
    with pytest.raises(experiments.ConfigError, match="was trained on other data"):
        experiments.run(
            config(train_steps=2), tmp_path, PROBLEM._replace(data=other), evaluate_only=True
        )
    with pytest.raises(experiments.ConfigError, match="problem.data has no 'test'"):
        experiments.run(
            config(), tmp_path / "b", PROBLEM._replace(data={"train": 0, "validation": 0})
        )


def test_mistakes_are_exceptions_of_one_line(tmp_path):
    with pytest.raises(experiments.ConfigError, match="needs a second head") as error:
        experiments.run(config(method="collaborative"), tmp_path, PROBLEM._replace(co_learner=None))
    assert "\n" not in str(error.value)
    with pytest.raises(experiments.ConfigError, match="does not divide tasks_per_step=4"):
        settings = config()
        settings.plan.devices = 3
        experiments.run(settings, tmp_path, PROBLEM)
    with pytest.raises(experiments.ConfigError, match="no run in .*: train it first"):
        experiments.run(config(), tmp_path / "none", PROBLEM, evaluate_only=True)
