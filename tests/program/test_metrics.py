"""Metrics: nothing half-written is ever read, and a resumed run reports each step once."""

import json
import math
import time

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.report import plots
from experiments.run_folder.folder import read_rows, write_json
from experiments.run_folder.metrics_file import MetricsFile
from experiments.run_folder.progress import Progress, describe_row, duration
from experiments.run_folder.results import Results


def write(workdir, steps, resume_step=0):
    file = MetricsFile(workdir, resume_step)
    for step in steps:
        file.write(step, {"train/loss": step / 2})
    file.close()


def test_rows_come_back(tmp_path):
    file = MetricsFile(tmp_path)
    row = file.write(3, {"train/loss": jnp.float32(0.5), "bad": math.nan, "worse": -math.inf})
    file.close()
    assert row == {"step": 3, "train/loss": 0.5, "bad": None, "worse": None}
    assert read_rows(tmp_path) == [row]
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()


def test_a_missing_file_has_no_rows(tmp_path):
    assert read_rows(tmp_path / "none") == []


def test_rows_are_on_the_disk_before_the_file_is_closed(tmp_path):
    file = MetricsFile(tmp_path)
    file.write(1, {"x": 1.0})
    assert read_rows(tmp_path) == [{"step": 1, "x": 1.0}]
    file.close()


def test_resuming_drops_what_will_be_made_again(tmp_path):
    write(tmp_path, (10, 20, 30))
    write(tmp_path, (25, 30), resume_step=20)
    assert [row["step"] for row in read_rows(tmp_path)] == [10, 20, 25, 30]
    write(tmp_path, (10,))
    assert [row["step"] for row in read_rows(tmp_path)] == [10]


@pytest.mark.parametrize("torn", ['{"step": 30, "tra', '{"step": 30}', "\x00\x00", '{"step": 3'])
def test_a_torn_last_line_is_not_read(tmp_path, torn):
    write(tmp_path, (10, 20))
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write(torn)
    assert [row["step"] for row in read_rows(tmp_path)] == [10, 20]
    write(tmp_path, (30,), resume_step=20)
    assert [row["step"] for row in read_rows(tmp_path)] == [10, 20, 30]


@pytest.mark.parametrize("line", ["hello", "[1]", "3", "{}", '{"step": "x"}', '{"step": 1.5}', ""])
def test_a_damaged_line_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n{{"step": 2}}\n')
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 2 is not a report"):
        read_rows(tmp_path)


def test_json_is_there_whole_or_as_before(tmp_path):
    path = tmp_path / "new" / "results.json"
    write_json(path, {"accuracy": 0.5, "rows": [{"x": math.inf}, (1, 2)]})
    assert json.loads(path.read_text()) == {"accuracy": 0.5, "rows": [{"x": None}, [1, 2]]}
    with pytest.raises(TypeError):
        write_json(path, {"accuracy": object()})
    assert json.loads(path.read_text())["accuracy"] == 0.5
    assert [each.name for each in path.parent.iterdir()] == ["results.json"]


def test_a_report_in_words():
    row = {"step": 5, "train/loss": 0.41234, "train/accuracy": 0.8734, "tasks_per_second": 1234.5}
    row["train/weight_min"] = 0.1
    assert describe_row(row) == "loss 0.412  accuracy 87.3%  1,234 tasks/s"
    assert describe_row({"train/loss": 3.4, "train/mse": 3.4}, "mse") == "mse 3.4"
    assert describe_row({"train/loss": 3.4, "train/rank": 2.0}, "rank") == "loss 3.4  rank 2"
    assert describe_row({"validation/accuracy": 0.5}) == "validation accuracy 50.0%"
    assert describe_row({"validation/co_learner/accuracy": 0.5}) == ""
    assert describe_row({"train/loss": None}) == "loss not finite"


def test_durations():
    assert [duration(s) for s in (-1, 41.4, 200, 7500)] == ["0s", "41s", "3m20s", "2h05m"]


def test_progress_speaks_now_and_then(capsys, monkeypatch):
    now = iter([0.0, 1.0, 4.0, 11.0, 12.0, 12.5])
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    progress = Progress(100, 0, 10.0, "mse")
    progress.update(10, {"train/loss": 3.0})
    progress.update(40, {"train/loss": 2.0})
    progress.update(60, {"train/loss": 1.0})
    progress.update(70, {"train/loss": 1.0, "validation/mse": 0.25})
    progress.update(100, {"train/loss": 0.5})
    progress.close()
    assert capsys.readouterr().err.splitlines() == [
        "step 60/100  loss 1  8s left",
        "step 70/100  loss 1  validation mse 0.25  6s left",
        "step 100/100  loss 0.5  0s left",
    ]


def test_progress_is_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    progress = Progress(100, 40, 0.0)
    progress.update(60, {"train/accuracy": 0.5})
    progress.say("resumed")
    progress.close()
    shown = capsys.readouterr().err
    assert "60/100" in shown and "resumed" in shown


def results(metric, value):
    """What a run has reached, with one test."""
    test = {metric: value, "sd": 0.1, "ci95": 0.01, "num_tasks": 9, "num_steps": 1}
    test |= {"predicts": "meta-learner", "transductive": True}
    made = {"method": "maml", "data": "own", "split_hash": "", "graph": None, "seed": 0}
    made |= {"validation": {metric: 0.5, "step": 3}, "wall_seconds": 1.0}
    return Results(**made, test=test, test_all=[test])


def test_an_interval_that_reaches_beyond_all_has_a_place_in_the_picture(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    figures, new_figure = [], plots.new_figure
    monkeypatch.setattr(
        plots, "new_figure", lambda *a: figures.append(new_figure(*a)) or figures[0]
    )
    tests = {"a": (0.98, 0.01), "b": (0.896, 0.116), "c": (1.0, 0.0)}
    rows = {
        name: {"5-shot": [{"accuracy": value, "ci95": arm}]} for name, (value, arm) in tests.items()
    }
    plots.points(rows, tmp_path / "points.png", "methods", "accuracy")
    low, high = figures[0].axes[0].get_xlim()
    assert 0.7 < low < 0.78 and 0.999 < high < 1


@pytest.mark.parametrize("metric", ["accuracy", "mse", "rank"])
def test_pictures_are_drawn(tmp_path, metric):
    image = pytest.importorskip("matplotlib.image")
    loss = 1 if metric == "mse" else 2  # the squared error is its own loss
    rows = [{"step": s, "train/loss": loss / s, f"train/{metric}": 1 / s} for s in range(1, 200)]
    rows += [{"step": 100, f"validation/{metric}": 0.5}, {"step": 200, f"train/{metric}": None}]
    plots.learning_curve(rows, tmp_path / "with.png", "a run", metric, results(metric, 0.4))
    plots.learning_curve(rows, tmp_path / "without.png", "a run", metric)
    plots.learning_curve([], tmp_path / "empty.png", "a run", metric)
    plots.compare({"a": rows, "b": rows}, tmp_path / "two.png", "runs", f"train/{metric}")
    columns = {"1-shot: a": rows, "1-shot: b": rows, "5-shot: a": rows}
    plots.compare(columns, tmp_path / "columns.png", "runs", f"train/{metric}")
    names = ("with", "without", "two", "columns")
    drawn = {name: image.imread(tmp_path / f"{name}.png") for name in names}
    assert drawn["columns"].shape[1] == 2 * drawn["two"].shape[1]
    assert not np.array_equal(drawn["with"], drawn["without"])  # the test's band
    panels = 1 if metric == "mse" else 2  # metric and loss beside each other
    assert drawn["with"].shape[1] == panels * drawn["two"].shape[1]
    assert (tmp_path / "empty.png").stat().st_size > 0


def test_no_matplotlib_is_a_warning_and_no_picture(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    plots.learning_curve([], tmp_path / "a.png", "a run", "accuracy")
    assert not list(tmp_path.iterdir())
    assert "pip install 'cml_jax[plots]'" in caplog.text
