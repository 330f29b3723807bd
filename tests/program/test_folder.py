"""A run's folder: which may be one, and the results in it."""

import dataclasses
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from experiments.run_folder import folder
from experiments.run_folder.results import Results, describe, interval, read_results


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gs://bucket/run", "gs://bucket/run is an address, not a folder: mount it"),
        (os.fsdecode(b"runs/\xff\xfe"), "is not UTF-8 text, which checkpoints need: choose"),
        (os.fsdecode(b"runs/\xe9"), r"runs/\\udce9 is not UTF-8 text"),
        ("~nosuchuser/x", "no home folder is known for ~nosuchuser: write the whole path"),
        ("x" * 256, "is too long: choose one of at most 255 bytes a name"),
        ("é" * 130, "is too long"),
        ("runs/" + "long/" * 800, "is too long: .* and 3600 in all"),
        ("a\0b", r"a\\x00b has a null character"),
        (__file__, "test_folder.py is a file: choose a folder"),
    ],
)
def test_what_is_not_a_workdir_is_one_line(path, message):
    with pytest.raises(ValueError, match=message) as error:
        folder.check_workdir(path)
    line = str(error.value)
    assert line.startswith("--workdir=") and line.isprintable() and len(line) < 300


@pytest.mark.parametrize(
    "path", ["runs/x=[1]", "a\\b", "*?", "{a,b}", "sp ace", "$HOME", "%", "new\nline", "é", "", "."]
)
def test_other_names_are_taken_as_they_are(path):
    assert folder.check_workdir(path) == Path(path)


def test_the_home_folder_is_found(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder.check_workdir("~/runs/a") == tmp_path / "runs" / "a"
    assert folder.check_workdir("runs/~") == Path("runs/~")


def test_what_a_killed_process_left_is_removed(tmp_path):
    for name in (".metrics.jsonl.host.12", ".config.json.host.a.b.7", "metrics.jsonl", ".mine"):
        (tmp_path / name).touch()
    folder.remove_temporary_files(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine", "metrics.jsonl"]


TEST = {"predicts": "meta-learner", "num_steps": 1, "transductive": True}
TEST |= {"accuracy": 0.9853, "sd": 0.03, "ci95": 0.0021, "num_tasks": 1000}
MADE = Results(
    method="maml",
    weighting="uniform",
    co_learner="none",
    data="omniglot",
    protocol={"ways": 5},
    split_hash="b50a97eb",
    graph=None,
    validation={"accuracy": 0.98, "step": 250},
    test=TEST,
    test_all=[TEST],
    seed=0,
    wall_seconds=None,
    warnings=[],
    plan="1 x cpu",
    versions={"jax": "0"},
)


def test_results_come_back_in_the_order_of_the_schema(tmp_path):
    path = MADE.write(tmp_path / "new")
    names = ["method", "weighting", "co_learner", "data", "protocol", "split_hash", "graph"]
    names += ["validation", "test", "test_all", "seed", "wall_seconds", "warnings", "plan"]
    assert list(json.loads(path.read_text())) == [*names, "versions"]  # and no "runs"
    assert read_results(tmp_path / "new") == MADE
    several = dataclasses.replace(MADE, runs=[{"seed": 0}], versions=None)
    several.write(tmp_path)
    assert list(json.loads((tmp_path / "results.json").read_text())) == [*names, "runs"]


@pytest.mark.parametrize(
    "change",
    [
        {"test": None},
        {"test_all": 3},
        {"test_all": [[]]},
        {"validation": []},
        {"test": {**TEST, "accuracy": "high"}},
        {"test": {**TEST, "accuracy": 10**400}},
        {"unknown": 1},
        {"method": ...},
    ],
)
def test_results_of_another_shape_are_one_line(tmp_path, change):
    values = {name: v for name, v in (MADE.to_dict() | change).items() if v is not ...}
    folder.write_json(tmp_path / "results.json", values)
    with pytest.raises(ValueError, match=r"results.json is .*: .*delete it to have it made again"):
        read_results(tmp_path)


def test_results_that_were_never_finite_are_read_and_told(tmp_path):
    lost = TEST | {"accuracy": math.nan, "ci95": math.nan}
    dataclasses.replace(MADE, test=lost).write(tmp_path)
    assert str(read_results(tmp_path)).startswith("accuracy not finite (1000 tasks")


def test_a_test_in_words():
    said = "98.53% ± 0.21% (1000 tasks, 1 inner step, meta-learner)"
    assert str(MADE) == describe("accuracy", TEST) == said
    both = dataclasses.replace(MADE, test_all=[TEST, TEST | {"transductive": False}])
    assert str(both) == said[:-1] + ", all queries at once)"
    other = TEST | {"mse": 0.25, "num_seeds": 5, "run": "radius 0.1", "num_steps": 0}
    assert describe("mse", other | {"transductive": False}, True) == (
        "radius 0.1: mse 0.2500 ± 0.0021 (5 seeds of 1000 tasks, no inner steps, meta-learner, "
        "each query alone)"
    )


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
