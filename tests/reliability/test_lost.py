"""A run that lost a part of itself: it says so, and never continues as if it had all."""

import json
import os
import re
import shutil

import pytest
from support.runs import sinusoids, start, tested, trained

from experiments.choices.key import ConfigError
from experiments.run_folder import folder, health
from experiments.run_folder.checkpoints import CheckpointError, Checkpoints
from experiments.run_folder.folder import read_rows
from experiments.run_folder.metrics_file import MetricsFile
from experiments.settings.record import record

CHANGES = {"train_steps": 9, "eval.every": 3, "plan.steps_per_dispatch": 3}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of nine steps."""
    workdir = tmp_path_factory.mktemp("made")
    record(sinusoids(**CHANGES), workdir)
    assert trained(sinusoids(**CHANGES), workdir)
    return workdir


@pytest.fixture
def run(made, tmp_path):
    """A copy of it, which a test may damage, and its config."""
    shutil.copytree(made, tmp_path / "run")
    return sinusoids(**CHANGES), tmp_path / "run"


def test_best_is_gone(run):
    config, workdir = run
    shutil.rmtree(workdir / "best")
    with pytest.raises(CheckpointError, match=r"run/best has no checkpoint, but the best is of"):
        trained(config, workdir)


@pytest.mark.parametrize("how", ["emptied", "gone"])
def test_last_is_gone(run, how):
    config, workdir = run
    shutil.rmtree(workdir / "last")
    if how == "emptied":
        (workdir / "last").mkdir()
    before = (workdir / "metrics.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match=r"goes to step 9 but .*last has no checkpoint"):
        trained(config, workdir)
    assert (workdir / "metrics.jsonl").read_bytes() == before


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again(run):
    config, workdir = run
    first = (workdir / "metrics.jsonl").read_text().splitlines()[0]
    (workdir / "metrics.jsonl").write_text(first + "\n")
    shutil.rmtree(workdir / "last")
    assert trained(config, workdir)


def test_reports_are_missing(run):
    config, workdir = run
    path = workdir / "metrics.jsonl"
    path.write_text(path.read_text().splitlines()[0] + "\n")
    with pytest.raises(CheckpointError, match="no report of step 9, where the checkpoint is") as e:
        trained(config, workdir)
    accepted = re.search(r"a line (\{.*\}) at its end", str(e.value))[1]
    with path.open("a") as file:
        file.write(accepted + "\n")
    assert trained(config, workdir)
    assert [row["step"] for row in read_rows(workdir)] == [3, 9]
    assert tested(config, workdir).wall_seconds is None


def test_no_reports_to_evaluate_with(run):
    config, workdir = run
    (workdir / "metrics.jsonl").unlink()
    with pytest.raises(ConfigError, match="metrics.jsonl has no report"):
        tested(config, workdir)


def test_a_description_of_any_size_is_not_read(run):
    config, workdir = run
    with (workdir / "last" / "9" / "about" / "metadata").open("ab") as file:
        file.truncate(2**40)
    assert trained(config, workdir)
    assert (workdir / "damaged-last-9").is_dir()
    assert [row["step"] for row in read_rows(workdir)] == [3, 6, 9]


def test_accepted_changes_are_validated_again(run):
    """The best before is compared by what it reaches with the new settings."""
    config, workdir = run
    config.data.amplitude = (50.0, 100.0)
    config.train_steps = 12
    old = Checkpoints(workdir).restore_last(start(config)[1])[2]["best"]
    assert record(config, workdir, accept_changes=True)
    assert trained(config, workdir)
    best = tested(config, workdir).validation
    validated = {r["step"]: r["validation/mse"] for r in read_rows(workdir)[2:]}
    assert best["mse"] > 100  # by the old settings it was about 4
    if best["step"] != old:
        assert best["mse"] == validated[best["step"]]
    assert best["mse"] <= validated[12]
    assert json.loads((workdir / "config.json").read_text())["train_steps"] == 12


def test_a_stop_does_not_forget_the_steps_that_were_lost(tmp_path, poison, monkeypatch):
    monkeypatch.setattr(health, "LOST_STEPS", 6)
    config = sinusoids(**CHANGES, non_finite="skip", checkpoint_every_minutes=0.0)
    poison("train", *range(3 * 4, 9 * 4, 4))
    monkeypatch.setattr("experiments.train.stop_requested", lambda: last_step(tmp_path) == 6)
    assert not trained(config, tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(health, "LOST_STEPS", 6)
    poison("train", *range(3 * 4, 9 * 4, 4))
    with pytest.raises(FloatingPointError, match="^6 steps in a row were skipped"):
        trained(config, tmp_path)


def last_step(workdir):
    rows = read_rows(workdir)
    return rows[-1]["step"] if rows else 0


def test_a_report_that_is_cut_short_is_an_error(tmp_path):
    file = MetricsFile(tmp_path)

    class Full:
        name = "metrics.jsonl"

        def write(self, line):
            return len(line) - 1

        def close(self):
            pass

    file._file.close()
    file._file = Full()
    with pytest.raises(OSError, match="cannot write metrics.jsonl"):
        file.write(1, {"train/loss": 1.0})


def test_what_cannot_be_written_is_named(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder.os, "fsync", full)
    with pytest.raises(OSError, match=r"^cannot write .*results.json \(No space left on device\)"):
        folder.write_json(tmp_path / "results.json", {})
    assert os.listdir(tmp_path) == []
