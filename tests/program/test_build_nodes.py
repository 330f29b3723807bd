"""The program on graphs: every way to get one, and every method's step from the config."""

import jax
import numpy as np
import pytest
from support.battery import assert_close
from support.runs import start, tested, trained

from configs import nodes
from experiments import build
from experiments.run_folder.folder import read_rows
from experiments.settings.checks import check
from experiments.settings.config import ConfigError, flat
from experiments.settings.record import default_workdir, record


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
        pytest.param({}, id="gcn"),
        pytest.param(
            {"co_learner": "mlp", "weighting": "gradient_agreement", "tasks_per_step": 2},
            id="cml and agreement",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"model.name": "sgc", "co_learner": "linear", "num_seeds": 2},
            id="sgc, two seeds",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_nodes_train_and_test(tmp_path, changes, capfd):
    config = small(**changes)
    assert trained(config, tmp_path)
    results = tested(config, tmp_path)
    assert 0 <= results.test["accuracy"] <= 1 and results.split_hash
    said = capfd.readouterr().err
    assert "graph: 3,000 nodes, " in said and "meta-learner)" in said and "queries" not in said
    assert [len(c) for c in results.graph["split"].values()] == [16, 7, 7]


@pytest.mark.slow
@pytest.mark.parametrize("network", ["gcn", "gmeta", "amm_gnn"])
def test_four_devices_train_as_one_does(tmp_path, network):
    changes = {"model.name": network, "tasks_per_step": 4, "co_learner": "mlp"}
    changes |= {"weighting": "gradient_agreement", "data.queries": 5, "eval.queries": 5}
    rows = []
    for devices in (1, 4):
        workdir = tmp_path / str(devices)
        assert trained(small(**changes, **{"plan.devices": devices}), workdir)
        rows.append(read_rows(workdir)[-1])
    assert rows[0].keys() == rows[1].keys() and "validation/accuracy" in rows[0]
    for key in rows[0].keys() - {"seconds", "tasks_per_second"}:
        np.testing.assert_allclose(rows[1][key], rows[0][key], rtol=1e-5, atol=1e-6, err_msg=key)


def test_the_model_model_data_the_data_that_it_is_given():
    config = small(**{"data.split_seed": 1})
    parts, state = start(config)
    problem, params = parts.problem, state.params["base"]
    ids = np.array([3, 7], np.int32)
    data = problem.data["test"]
    scaled = data.graph._replace(smoothed=2 * data.graph.smoothed)
    same = problem.model_on(data).apply(params, ids)
    assert_close(same, problem.model_on(problem.data["train"]).apply(params, ids), 0)
    other = problem.model_on(data._replace(graph=scaled)).apply(params, ids)[0]
    assert np.abs(other - same[0]).max() > 1e-3


def test_classes_of_the_splits_share_nothing_and_depend_on_the_split_seed():
    problems = [build.problem(flat(small(**{"data.split_seed": seed}))) for seed in (0, 1)]
    nodes_of = [
        {n for row, count in zip(*map(np.asarray, data.members), strict=True) for n in row[:count]}
        for data in problems[0].data.values()
    ]
    assert len(set.union(*nodes_of)) == sum(map(len, nodes_of)) == 3000
    assert problems[0].split_hash != problems[1].split_hash


def test_only_training_has_noise():
    problem = build.problem(flat(small()))
    key, data = jax.random.key(0), problem.data["train"]
    assert hasattr(problem.train_sample(key, data).support.inputs, "keys")
    assert not hasattr(problem.test_sample(key, data).support.inputs, "keys")


def write_graph(path, seed=0, **changes):
    """A graph of 30 nodes in six classes; returns the settings for it."""
    rng = np.random.default_rng(seed)
    arrays = {
        "adj_data": np.ones(60),
        "adj_indices": np.sort(rng.integers(30, size=60)).astype(np.int32),
        "adj_indptr": np.arange(0, 62, 2),
        "adj_shape": np.array([30, 30]),
        "attr_matrix": rng.normal(size=(30, 4)),
        "labels": np.arange(30) % 6,
    }
    np.savez(path, **arrays | changes)
    return {"data.name": "graph", "data.file": str(path), "data.queries": 2}


def test_a_graph_by_its_path(tmp_path):
    changes = write_graph(tmp_path / "own.npz")
    (tmp_path / "split.json").write_text('{"train": [5, 1], "validation": [0, 2], "test": [3, 4]}')
    by_list = small(**changes, **{"data.split_file": str(tmp_path / "split.json")})
    problem = build.problem(flat(by_list))
    np.testing.assert_array_equal(problem.data["train"].members.ids[0], [1, 7, 13, 19, 25])
    assert problem.facts["graph"]["split"] == {
        "train": [1, 5],
        "validation": [0, 2],
        "test": [3, 4],
    }
    build.problem(flat(small(**changes, **{"data.classes": (2, 2, 2)})))


def test_features_are_as_stored_or_divided_by_their_sums():
    stored, divided = (
        build.problem(flat(small(**{"data.features": how}))) for how in ("stored", "normalized")
    )
    sums = [np.asarray(p.data["train"].graph.smoothed).sum(1) for p in (stored, divided)]
    assert sums[0].mean() > 5 and np.abs(sums[1] - 1).max() < 1e-3
    assert stored.split_hash != divided.split_hash
    assert "1 in sum" in divided.description


def test_features_are_scaled_only_where_they_are_large():
    scaled, stored = (
        build.problem(flat(small(**change))) for change in ({}, {"data.features": "stored"})
    )
    assert scaled.split_hash == stored.split_hash  # 10 in sum


def test_another_graph_is_another_run(tmp_path):
    """By its path, and by what is in the file where the path is the same."""
    split = tmp_path / "split.json"
    split.write_text('{"train": [5, 1], "validation": [0, 2], "test": [3, 4]}')
    changes = write_graph(tmp_path / "a.npz") | {"data.split_file": str(split)}
    first = small(**changes)
    other = small(**changes | write_graph(tmp_path / "b.npz"))
    assert default_workdir("nodes.py", first) != default_workdir("nodes.py", other)
    record(first, tmp_path / "run")
    (tmp_path / "run" / "last").mkdir()
    assert record(first, tmp_path / "run") == []
    with pytest.raises(ConfigError, match="data.file .*a.npz' -> .*b.npz'"):
        record(other, tmp_path / "run")

    digest = build.problem(flat(first)).split_hash
    assert build.problem(flat(other)).split_hash == digest  # the same content
    for content in (
        {"attr_matrix": np.ones((30, 4))},
        {"labels": np.arange(30)[::-1] % 6},
        {"adj_indices": np.arange(60) % 30},
    ):
        write_graph(tmp_path / "a.npz", **content)
        assert build.problem(flat(first)).split_hash != digest, content
    write_graph(tmp_path / "a.npz")
    split.write_text('{"train": [5, 0], "validation": [1, 2], "test": [3, 4]}')
    assert build.problem(flat(first)).split_hash != digest


def test_a_run_does_not_go_on_with_other_data(tmp_path):
    config = small(**write_graph(tmp_path / "a.npz") | {"data.classes": (2, 2, 2)})
    assert trained(config, tmp_path / "run")
    tested(config, tmp_path / "run")
    write_graph(tmp_path / "a.npz", seed=1)
    for again in (trained, tested):
        with pytest.raises(ConfigError, match="was trained on other data or classes: restore the"):
            again(config, tmp_path / "run")


def test_what_is_said_of_a_graph(tmp_path):
    """Edges 0 - 1 (both ways) and 3 - 1, and two from a node to itself: 27 nodes are alone."""
    edges = {
        "adj_indices": np.array([1, 0, 2, 1, 4]),
        "adj_indptr": np.minimum(np.arange(31), 5),
        "adj_data": np.ones(5),
    }
    labels = np.where(np.arange(30) < 6, -1, np.arange(30) % 6)
    changes = write_graph(tmp_path / "own.npz", **edges, labels=labels)
    problem = build.problem(
        flat(small(**changes, **{"data.classes": (2, 2, 2), "eval.queries": 2}))
    )
    split = problem.facts["graph"].pop("split")
    assert sorted(c for classes in split.values() for c in classes) == list(range(6))
    scale = problem.facts["graph"].pop("feature_scale")
    assert scale["min"] < 0 < scale["max"] and scale["integer_fraction"] == 0
    assert problem.facts["graph"] == {
        "nodes": 30,
        "edges": 2,
        "features": 4,
        "classes": 6,
        "without_label": 6,
        "without_edge": 27,
    }
    assert problem.description.startswith(
        "graph: 30 nodes, 2 edges, 6 classes; 6 nodes without a label, 27 without an edge; "
        "features -"
    )


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"data.file": "none.npz"}, "there is no file none.npz: correct --config.data.file"),
        ({"data.classes": (4, 1, 1)}, "data.ways=2 but the validation split has 1 classes"),
        ({"data.ways": 3}, "data.ways=3 but the train split has 2 classes: .*data.classes"),
        (
            {"data.classes": (0, 0, 0), "data.split_file": "split.json"},
            "data.split_file=split.json names class 99, which no node",
        ),
    ],
)
def test_mistakes_about_a_graph_of_ones_own(tmp_path, monkeypatch, changes, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "split.json").write_text('{"train": [5, 1], "validation": [0, 2], "test": [3, 99]}')
    right = write_graph(tmp_path / "own.npz") | {"data.classes": (2, 2, 2)}
    config = small(**right | changes)
    with pytest.raises((ConfigError, ValueError), match=message) as error:
        build.problem(flat(config))
    assert "\n" not in str(error.value)


GLYPHS = {"data.name": "glyphs", "model.name": "conv4"}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model.name": "conv4"}, "use --config.model.name=gcn"),
        ({"data.name": "glyphs"}, "use --config.model.name=conv4"),
        ({"model.hidden": (16, 16)}, "needs a tuple of one"),
        ({"data.classes": (4, 3)}, "needs a tuple of 3"),
        ({"data.classes": (4, 3, 0)}, "three counts"),
        ({"data.name": "graph"}, "give --config.data.file=PATH.npz"),
        ({"data.name": "graph", "data.dir": "x.npz"}, "write --config.data.file=x.npz"),
        ({"data.name": "graph", "data.file": "a.dat"}, "data.file=a.dat must end in .npz"),
        ({"data.name": "graph", "data.file": "citeseer"}, "or one of .*citeseer.* as --config.da"),
        ({"data.file": "x.npz"}, "data.file is a setting of data.name=graph"),
        ({"data.split_file": "x.json", "data.classes": (2, 2, 2)}, "lists the classes"),
        (
            GLYPHS | {"data.split_file": "x.json"},
            "data.split_file is a setting of data.name=folder",
        ),
        (GLYPHS | {"data.classes": (2, 2, 2)}, "data.classes is a setting of"),
        ({"model.subgraph_nodes": 8}, "model.subgraph_nodes is a setting of model.name=gmeta"),
        ({"model.name": "amm_gnn", "inner_optimizer": "adam"}, "inner_optimizer=adam with model"),
        ({"model.name": "amm_gnn", "data.queries": 3}, "raise --config.data.queries"),
        ({"model.name": "amm_gnn", "eval.queries": 3}, "raise --config.eval.queries"),
        ({"data.name": "graph", "data.file": "x.npz"}, "needs a class split"),
        ({"co_learner": "conv"}, "co_learner=conv does not fit"),
    ],
)
def test_mistakes_in_a_config_of_nodes(changes, message):
    with pytest.raises(ConfigError, match=message) as error:
        check(small(**changes), changes)
    assert "\n" not in str(error.value)
