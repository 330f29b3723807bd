"""Runs side by side: the paired difference, by hand; what cannot be paired; the command."""

import json

import numpy as np
import pytest
from scipy import stats
from support.runs import sinusoids

from experiments import compare
from experiments.report.comparison import (
    difference,
    read_runs,
    settings_that_differ,
    why_not_the_same_tasks,
    with_repeats,
)
from experiments.run_folder.metrics_file import MetricsFile
from experiments.run_folder.results import Results, interval, read_results
from experiments.run_folder.task_values import write_task_values
from experiments.settings.record import record


def made(workdir, values, **changes):
    """The files of a run whose test tasks got `values`."""
    record(sinusoids(**changes), workdir)
    file = MetricsFile(workdir)
    for step in (1, 2, 3):
        file.write(step, {"train/mse": 4 / step, "validation/mse": 3 / step})
    file.close()
    values = np.array([values], np.float32)
    test = {"predicts": "meta-learner", "num_steps": 3, "transductive": True}
    test |= interval("mse", values[0])
    Results(
        method="maml",
        data="sinusoid",
        protocol={"ways": None, "shots": 5, "queries": 5},
        split_hash="",
        graph=None,
        validation={"mse": 1.0, "step": 3},
        test=test,
        test_all=[test],
        seed=changes.get("seed", 0),
        wall_seconds=1.0,
    ).write(workdir)
    write_task_values(workdir, [values])
    return workdir


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    slow, fast = folder / "slow", folder / "fast"
    return made(slow, [1, 2, 3, 4]), made(fast, [1, 1, 2, 2], inner_learning_rate=0.05)


def test_over_tasks_by_hand():
    """d = 1, 3, 2, 2: mean 2, sd sqrt(2 / 3)."""
    found = difference(np.array([[1.0, 2, 3, 4]]), np.array([[2.0, 5, 5, 6]]))
    assert found["difference"] == 2 and found["num_tasks"] == 4 and "num_seeds" not in found
    assert found["ci95"] == pytest.approx(1.96 * np.sqrt(2 / 3) / 2)


def test_over_seeds_as_scipy_has_it():
    first, second = np.random.default_rng(0).normal(size=(2, 5, 30)).astype(np.float32)
    found = difference(first, second)
    paired = stats.ttest_rel(second.mean(1), first.mean(1)).confidence_interval(0.95)
    assert found["num_seeds"] == 5
    half = found["ci95"]
    limits = found["difference"] - half, found["difference"] + half
    np.testing.assert_allclose(limits, paired, rtol=1e-5)


def test_pairs_take_away_what_tasks_share():
    """A constant difference has no interval, however much tasks differ."""
    first = np.random.default_rng(0).uniform(size=(1, 100))
    found = difference(first, first + 0.25)
    assert found["difference"] == pytest.approx(0.25) and found["ci95"] < 1e-12


def test_runs_on_the_same_tasks(runs):
    first, second = read_runs(runs)
    assert why_not_the_same_tasks(first, second) == ""
    assert settings_that_differ([first, second]) == {"inner_learning_rate": [0.02, 0.05]}


CHANGES = {
    "data": ("results", {"data": "glyphs"}, "data sinusoid and glyphs"),
    "split": ("results", {"split_hash": "abc"}, "split  and abc"),
    "shots": ("protocol", {"shots": 6}, "shots 5 and 6"),
    "queries": ("protocol", {"queries": 6}, "queries 5 and 6"),
    "ways": ("protocol", {"ways": 2}, "ways None and 2"),
    "phase": ("settings", {"data.phase": [0, 1]}, r"data.phase \[0.0, 3.14159265\] and \[0, 1\]"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_other_tasks_are_not_paired(runs, name):
    first, second = read_runs(runs)
    what, changes, reason = CHANGES[name]
    if what == "settings":
        second = second._replace(settings={**second.settings, **changes})
    else:
        values = second.results.to_dict()
        if what == "protocol":
            changes = {"protocol": values["protocol"] | changes}
        second = second._replace(results=type(second.results).from_dict(values | changes))
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(why_not_the_same_tasks(first, second))


def test_more_tasks_are_not_paired(runs, tmp_path):
    results = read_results(runs[1])
    values = [np.ones((1, 5), np.float32)] * len(results.test_all)
    tests = [test | {"num_tasks": 5, "mse": 1.0} for test in results.test_all]
    (tmp_path / "config.json").write_bytes((runs[1] / "config.json").read_bytes())
    changed = results.to_dict() | {"test": tests[0], "test_all": tests}
    type(results).from_dict(changed).write(tmp_path)
    write_task_values(tmp_path, values)
    first, second = read_runs([runs[0], tmp_path])
    assert why_not_the_same_tasks(first, second) == "number of test tasks 4 and 5"


def test_the_command(runs, tmp_path, capsys):
    slow, fast = map(str, runs)
    for name in ("a.md", "b.html"):
        assert compare.main([slow, fast, f"--out={tmp_path / name}"]) == 0
    said = capsys.readouterr().out
    half = 1.96 * np.std([0, -1, -1, -2], ddof=1) / 2
    assert f"| fast - slow | -1.0000 ± {half:.4f}" in said
    assert "| inner_learning_rate | 0.02 | 0.05 |" in said
    markdown = (tmp_path / "a.md").read_text()
    assert "](a.svg)" in markdown and (tmp_path / "a.svg").exists()
    page = (tmp_path / "b.html").read_text()
    assert "data:image/svg+xml," in page and "-1.0000&nbsp;±&nbsp;" in page


REPEATS = {"slow": (0.02, 0), "fast": (0.05, 0.5)}


@pytest.fixture(scope="module")
def repeats(tmp_path_factory):
    """Two settings with three seeds each, in the order in which a shell names them."""
    folder, made_of = tmp_path_factory.mktemp("repeats"), []
    rng = np.random.default_rng(0)
    tasks = rng.normal(2, 1, (3, 4))
    for name, (rate, less) in REPEATS.items():
        for seed in range(3):
            values = tasks[seed] - less + rng.normal(0, 0.1, 4)
            made_of.append(
                made(folder / name / str(seed), values, seed=seed, inner_learning_rate=rate)
            )
    return made_of


def test_runs_that_differ_in_the_seed_are_repeats_of_one(repeats):
    slow, fast = with_repeats(read_runs(repeats))
    assert (slow.seeds, fast.seeds) == ([0, 1, 2], [0, 1, 2])
    assert [path.parent.name for path in repeats[::3]] == [
        run.label.rpartition("/")[2] for run in (slow, fast)
    ]
    each = read_runs(repeats)
    first, second = (
        np.array([run.values.mean(dtype=float) for run in own]) for own in (each[:3], each[3:])
    )
    limits = stats.ttest_rel(second, first).confidence_interval(0.95)
    found = difference(slow.values, fast.values)
    np.testing.assert_allclose(
        found["difference"] + found["ci95"] * np.array([-1, 1]), limits, rtol=1e-5
    )
    alone = stats.t.interval(0.95, 2, slow.results.test["mse"], stats.sem(first))
    assert slow.results.test["ci95"] == pytest.approx((alone[1] - alone[0]) / 2, rel=1e-5)
    assert settings_that_differ([slow, fast]) == {"inner_learning_rate": [0.02, 0.05]}
    assert why_not_the_same_tasks(slow, fast) == ""


def test_the_command_on_repeats(repeats, capsys):
    names = [str(path) for path in repeats]
    assert compare.main(names) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "3 seeds of 4 tasks" in said and said.count(" lower ") == 1
    # Seed 1 alone is in both.
    assert compare.main([*names[:2], *names[4:]]) == 0
    said = capsys.readouterr().out
    assert "| lower" in said and "| 4 tasks" in said and "| seed " in said
    # Nothing else to compare: each by itself.
    assert compare.main(names[:2]) == 0
    assert "cannot be paired: seed 0 and seed 1" in capsys.readouterr().out


def test_mistakes_are_one_line(runs, tmp_path, capsys):
    mistakes = {
        (str(runs[0]),): "name two or more runs",
        (str(runs[0]), str(tmp_path)): "has no results.json: name a folder of a finished run",
        (str(runs[0]), str(runs[1]), "--out=a.pdf"): "choose a name that ends in .md or .html",
    }
    for arguments, message in mistakes.items():
        with pytest.raises(SystemExit) as stop:
            compare.main(list(arguments))
        error = capsys.readouterr().err
        assert stop.value.code == 2 and message in error and error.count("\n") == 1


def test_what_is_missing_is_said(runs, tmp_path, capsys):
    """An older run has no values of its tasks: it is shown, and not paired."""
    for name in ("config.json", "results.json"):
        (tmp_path / name).write_text((runs[1] / name).read_text())
    assert compare.main([str(runs[0]), str(tmp_path)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "cannot be paired" in said and "task_values.npz is missing" in said
    assert json.loads((tmp_path / "results.json").read_text())["test"]["num_tasks"] == 4
