"""Analyses over training: the numbers are those of the checkpoint, and training is the same."""

import jax
import numpy as np
import pytest
from PIL import Image
from support.runs import rows, sinusoids, start, trained

from experiments.analyses_over_training import analyses_over_training
from experiments.analyze import analyze
from experiments.choices.key import ConfigError
from experiments.machine.feed import Feed
from experiments.report import over_training
from experiments.settings.checks import check
from experiments.settings.config import default_config
from experiments.settings.record import record

PREFIX = "analysis/"


def split(row):
    """What a report says beside the analyses, and the analyses."""
    return [
        {name: value for name, value in row.items() if name.startswith(PREFIX) == own}
        for own in (False, True)
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with CML that is analysed at every second of three validations."""
    workdir = tmp_path_factory.mktemp("over_training") / "run"
    settings = {"eval.every": 2, "eval.analyze_every": 4}
    config = sinusoids(co_learner="mlp", train_steps=8, **settings)
    record(config, workdir)
    assert trained(config, workdir)
    return workdir


def test_the_numbers_are_those_of_the_checkpoint(run):
    _, last = split(rows(run)[-1])
    found = analyze(run, checkpoint="last", split="validation", num_tasks=64)
    cooperation, agreement = found["cooperation"], found["agreement"]
    expected = {
        "all_positive": cooperation["all_positive"],
        "batch_all_positive": cooperation["all_positive_of_batches"],
        "weight_min": agreement["weights"]["min"],
        "weight_max": agreement["weights"]["max"],
        "weight_negative": agreement["weights"]["negative"],
        "weight_loss_correlation": agreement["correlation"]["loss"],
        "weight_norm_correlation": agreement["correlation"]["displacement_norm"],
        "task_cosines": agreement["task_cosines"]["mean"],
        "step_length": agreement["step_length"]["mean"],
        "step_cosine": agreement["step_cosine"]["mean"],
    }
    for layer, numbers in cooperation["layers"].items():
        expected[f"cosine/{layer}"] = numbers["mean"]
        expected[f"batch_cosine/{layer}"] = numbers["of_batches"]["mean"]
    assert last.keys() == {PREFIX + name for name in expected}
    for name, value in expected.items():
        assert last[PREFIX + name] == pytest.approx(value, rel=1e-3, abs=1e-4), name


def test_training_is_the_same_without(run, tmp_path):
    with_analyses = [split(row) for row in rows(run)]
    assert [row["step"] for row, own in with_analyses if own] == [4, 8]
    config = sinusoids(co_learner="mlp", train_steps=8, **{"eval.every": 2})
    assert trained(config, tmp_path)
    assert rows(tmp_path) == [row for row, _ in with_analyses]


def analyses(**settings):
    parts, state = start(sinusoids(co_learner="mlp", **settings))
    traced = []

    def loss(outputs, targets):
        traced.append(None)
        return parts.problem.loss(outputs, targets)

    problem = parts.problem._replace(loss=loss)
    learner, seed = parts.learner, parts.learner.replicas.seed()
    feed = Feed(problem.data["validation"], parts.plan, problem.draw, "validation", seed)
    return analyses_over_training(learner, problem, parts.plan, 4, feed), state, traced


def test_one_program_for_all_calls():
    analyze, state, traced = analyses()
    first, count = analyze(state.params), len(traced)
    doubled = analyze(jax.tree.map(lambda x: 2 * x, state.params))
    assert len(traced) == count > 0
    assert first.keys() == doubled.keys() and first != doubled


def test_seeds_side_by_side_are_what_they_are_alone():
    analyze, state, _ = analyses(num_seeds=2)
    both = analyze(state.params)
    for i in range(2):
        analyze, state, _ = analyses(seed=i)
        for name, value in analyze(state.params).items():
            np.testing.assert_allclose(both[name][i], value, rtol=1e-3, atol=1e-4, err_msg=name)


def test_seeds_have_numbers_of_their_own(tmp_path):
    assert trained(sinusoids(num_seeds=2, **{"eval.analyze_every": 3}), tmp_path)
    _, row = split(rows(tmp_path)[-1])
    own = [row[f"analysis/step_length/{i}"] for i in range(2)]
    assert row["analysis/step_length"] == pytest.approx(np.mean(own))
    assert not any("cosine/" in name for name in row if "step_cosine" not in name)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"every": 250, "analyze_every": 300}, "analyze_every=300 with eval.every=250: .* multi"),
        ({"method": "proto_net", "analyze_every": 250}, "proto_net, which has no inner steps"),
    ],
)
def test_what_cannot_be_analysed_is_refused(changes, message):
    config = default_config()
    config.method = changes.pop("method", "maml")
    for name, value in changes.items():
        config.eval[name] = value
    with pytest.raises(ConfigError, match=message):
        check(config)


ROWS = [
    {"step": 1, "train/loss": 1.0},
    {
        "step": 2,
        "analysis/all_positive": 0.5,
        "analysis/batch_all_positive": 0.5,
        "analysis/batch_cosine/body/Dense_0": -0.25,
        "analysis/batch_cosine/body/Dense_0/1": -0.5,
        "analysis/step_length": 4.0,
        "analysis/weight_negative": 0.25,
        "analysis/weight_loss_correlation": None,
        "analysis/weight_norm_correlation": -0.5,
    },
    {
        "step": 4,
        "analysis/all_positive": 1.0,
        "analysis/batch_all_positive": 1.0,
        "analysis/batch_cosine/body/Dense_0": 0.75,
        "analysis/step_length": 2.0,
        "analysis/weight_negative": 0.0,
        "analysis/weight_norm_correlation": 0.5,
    },
]


def test_in_words():
    assert over_training.followed(ROWS) == ["cooperation", "agreement"]
    assert over_training.followed(ROWS[:1]) == []
    assert over_training.layers(ROWS) == ["body/Dense_0"]
    assert over_training.sentence("cooperation", ROWS) == (
        "Over 2 analyses, both gradients of a meta-batch point the same way in every layer in 75% "
        "of cases, at least 50% (step 2); their cosine in body/Dense_0 goes from -0.25 to 0.75."
    )
    assert over_training.sentence("agreement", ROWS) == (
        "The weighted step's length goes from 4.00 to 2.00 times the mean's, and the share of "
        "negative weights goes from 25% to 0%; the weights' correlation with the loss is not "
        "defined, and with the displacement's length goes from -0.50 to 0.50."
    )


def test_the_pictures(tmp_path):
    for name, width in (("cooperation", 2), ("agreement", 3)):
        over_training.draw(name, ROWS, tmp_path / "picture.png", "title")
        with Image.open(tmp_path / "picture.png") as picture:
            assert picture.width == pytest.approx(150 * 4.6 * width, abs=2)
