"""The program on graphs: every way to get one, and every method's step from the config."""

import jax
import numpy as np
import pytest
from battery import assert_close

from configs import nodes
from experiments import build
from experiments.checks import check
from experiments.config import ConfigError
from experiments.evaluate import evaluate
from experiments.train import train


def small(**changes):
    config = nodes.get_config()
    config.train_steps = config.eval.every = 2
    config.eval.validation_tasks = config.eval.num_tasks = 2
    config.num_steps, config.eval.queries, config.plan.devices = 2, 3, 1
    for name, value in changes.items():
        section, _, key = name.rpartition(".")
        (config[section] if section else config)[key] = value
    check(config)
    return config


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"co_learner": "mlp", "weighting": "gradient_agreement", "tasks_per_step": 2},
        {"model.name": "sgc", "co_learner": "linear", "num_seeds": 2},
    ],
    ids=["gcn", "cml and agreement", "sgc, two seeds"],
)
def test_nodes_train_and_test(tmp_path, changes):
    config = small(**changes)
    assert train(config, tmp_path)
    results = evaluate(config, tmp_path)
    assert 0 <= results["test"]["accuracy"] <= 1 and results["split_hash"]


def test_the_model_stands_on_the_data_that_it_is_given():
    config = small(**{"data.split_seed": 1})
    problem = build.problem(config)
    params = build.initial_state(config, problem).params["base"]
    ids = np.array([3, 7], np.int32)
    data = problem.data["test"]
    scaled = data.graph._replace(smoothed=2 * data.graph.smoothed)
    same = build.on(problem, data).model.apply(params, ids)
    assert_close(same, problem.model.apply(params, ids), 0)
    other = build.on(problem, data._replace(graph=scaled)).model.apply(params, ids)[0]
    assert np.abs(other - same[0]).max() > 1e-3


def test_classes_of_the_splits_share_nothing_and_depend_on_the_split_seed():
    problems = [build.problem(small(**{"data.split_seed": seed})) for seed in (0, 1)]
    nodes_of = [
        {n for row, count in zip(*map(np.asarray, data.members), strict=True) for n in row[:count]}
        for data in problems[0].data.values()
    ]
    assert len(set.union(*nodes_of)) == sum(map(len, nodes_of)) == 3000
    assert problems[0].split_hash != problems[1].split_hash


def test_only_training_has_noise():
    problem = build.problem(small())
    key, data = jax.random.key(0), problem.data["train"]
    assert hasattr(problem.train_sample(key, data).support.inputs, "keys")
    assert not hasattr(problem.test_sample(key, data).support.inputs, "keys")


def test_a_graph_by_its_path(tmp_path):
    rng = np.random.default_rng(0)
    edges = np.sort(rng.integers(30, size=60)).astype(np.int32)
    arrays = {
        "adj_data": np.ones(60),
        "adj_indices": edges,
        "adj_indptr": np.arange(0, 62, 2),
        "adj_shape": np.array([30, 30]),
        "attr_matrix": rng.normal(size=(30, 4)),
        "labels": np.arange(30) % 6,
    }
    np.savez(tmp_path / "own.npz", **arrays)
    (tmp_path / "split.json").write_text('{"train": [5, 1], "validation": [0, 2], "test": [3, 4]}')
    changes = {"data.name": "graph", "data.file": str(tmp_path / "own.npz"), "data.queries": 2}
    by_list = small(**changes, **{"data.split_file": str(tmp_path / "split.json")})
    members = build.problem(by_list).data["train"].members
    np.testing.assert_array_equal(members.nodes[0], [1, 7, 13, 19, 25])
    build.problem(small(**changes, **{"data.classes": (2, 2, 2)}))
    with pytest.raises(ValueError, match="2 classes"):
        build.problem(small(**changes, **{"data.classes": (2, 2, 2), "data.ways": 3}))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model.name": "conv4"}, "use --config.model.name=gcn"),
        ({"data.name": "glyphs"}, "use --config.model.name=conv4"),
        ({"model.hidden": (16, 16)}, "one width"),
        ({"data.classes": (4, 3)}, "three counts"),
        ({"data.classes": (4, 3, 0)}, "three counts"),
        ({"data.name": "graph"}, "data.file=''"),
        ({"data.file": "x.npz"}, "data.file='x.npz'"),
        ({"data.name": "graph", "data.file": "x.npz"}, "needs a class split"),
        ({"co_learner": "conv"}, "co_learner=conv does not fit"),
    ],
)
def test_mistakes_in_a_config_of_nodes(changes, message):
    with pytest.raises(ConfigError, match=message) as error:
        small(**changes)
    assert "\n" not in str(error.value)
