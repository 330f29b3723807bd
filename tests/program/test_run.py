"""The program as its users start it: a run, a stop in the middle, a second start, each mistake."""

import json
import os
import shutil
import signal
import subprocess
import time

import pytest
from support.quick import quick
from support.runs import GLYPHS, ROOT, SINUSOID, command, rows, run


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run from start to end, and what the run printed."""
    workdir = tmp_path_factory.mktemp("whole")
    done = run(workdir, *SINUSOID, "--config.weighting=gradient_agreement")
    assert done.returncode == 0, done.stderr
    (workdir / "printed").write_text(done.stdout)
    return workdir


def test_a_run_leaves_numbers_and_pictures(whole):
    results = json.loads((whole / "results.json").read_text())
    assert results["method"] == "maml" and results["weighting"] == "gradient_agreement"
    assert results["test"]["num_tasks"] == 600 and results["test"]["ci95"] > 0
    assert 0.5 < results["test"]["mse"] < 4.0  # unadapted 4.4; the published 0.67 after 70,000
    assert [row["num_steps"] for row in results["test_all"]] == [1, 5, 10]
    assert {"jax", "optax", "cml_jax"} <= results["versions"].keys()
    assert [row["step"] for row in rows(whole)] == list(range(20, 401, 20))
    validated = {r["step"]: r["validation/mse"] for r in rows(whole) if "validation/mse" in r}
    assert validated.keys() == {100, 200, 300, 400}
    best = min(validated, key=validated.get)
    assert best > 100  # or keeping the first would not show
    assert results["validation"] == {"mse": validated[best], "step": best}
    for picture in ("learning_curve.png", "fits.png"):
        assert (whole / picture).read_bytes().startswith(b"\x89PNG")


def test_a_second_start_says_that_it_is_done_and_what_came_out(whole):
    before = (whole / "results.json").stat().st_mtime_ns
    again = run(whole, *SINUSOID, "--config.weighting=gradient_agreement")
    finished, *results = again.stdout.splitlines()
    assert again.returncode == 0 and finished.startswith("finished: ")
    assert results == (whole / "printed").read_text().splitlines()[1:]
    assert results[0].startswith("test of step ")
    assert (whole / "results.json").stat().st_mtime_ns == before


def test_evaluate_scores_again_with_other_inner_steps(whole):
    arguments = (
        "--config.weighting=gradient_agreement",
        "--evaluate",
        "--config.eval.num_steps=2,",
    )
    done = run(whole, *SINUSOID, *arguments)
    assert done.returncode == 0, done.stderr
    assert json.loads((whole / "results.json").read_text())["test"]["num_steps"] == 2


@pytest.mark.slow
def test_a_finished_run_is_trained_longer_where_that_is_accepted(whole, tmp_path):
    workdir = shutil.copytree(whole, tmp_path / "run")
    longer = (*SINUSOID, "--config.weighting=gradient_agreement", "--config.train_steps=500")
    refused = run(workdir, *longer)
    assert refused.returncode == 2
    assert "(train_steps 400 -> 500): set them back" in refused.stderr
    widened = run(workdir, *longer, "--accept_changes", "--config.model.hidden=40,41")
    assert widened.returncode == 1 and "the config has changed" in widened.stderr
    assert (workdir / "results.json").exists()  # a change that does not fit changes nothing
    done = run(workdir, *longer, "--accept_changes")
    assert done.returncode == 0, done.stderr
    assert "accepted: train_steps 400 -> 500" in done.stdout
    assert [row["step"] for row in rows(workdir)] == list(range(20, 501, 20))
    assert json.loads((workdir / "results.json").read_text())["protocol"]["train_steps"] == 500
    assert "finished" in run(workdir, *longer).stdout


@pytest.mark.parametrize("sent", quick([signal.SIGTERM, signal.SIGKILL], signal.SIGTERM))
def test_a_stopped_run_goes_on_bit_for_bit(whole, tmp_path, sent):
    arguments = (*SINUSOID, "--config.weighting=gradient_agreement")
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command(tmp_path, *arguments), cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )
    for line in process.stderr:
        if line.startswith("step 240/"):  # after the validation at 200
            process.send_signal(sent)
            break
    process.communicate(timeout=120)
    assert process.returncode != 0
    assert not (tmp_path / "results.json").exists()
    stopped = time.time()
    done = run(tmp_path, *arguments)
    assert done.returncode == 0 and "resuming at step 2" in done.stderr, done.stderr
    assert rows(tmp_path) == rows(whole)
    assert (tmp_path / "results.json").stat().st_mtime > stopped


@pytest.mark.slow
def test_training_ends_without_a_better_validation(tmp_path):
    still = ("--config.outer_learning_rate=1e-10", "--config.eval.patience=2")
    done = run(tmp_path, *SINUSOID, "--config.eval.every=20", *still)
    assert done.returncode == 0, done.stderr
    assert "no better validation in 2: training ends" in done.stderr
    best = json.loads((tmp_path / "results.json").read_text())["validation"]["step"]
    steps = [row["step"] for row in rows(tmp_path)]
    assert steps == list(range(20, best + 41, 20)) and best + 40 < 400
    (tmp_path / "results.json").unlink()  # as if it were killed just before
    done = run(tmp_path, *SINUSOID, "--config.eval.every=20", *still)
    assert done.returncode == 0 and [row["step"] for row in rows(tmp_path)] == steps


@pytest.mark.slow
def test_both_papers_at_once_on_images(tmp_path):
    both = ("--config.co_learner=conv", "--config.weighting=gradient_agreement")
    done = run(tmp_path, *GLYPHS, *both)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "results.json").read_text())["test_all"]
    who = ["meta-learner", "co-learner (paper)", "co-learner (released code)"]
    assert [(r["predicts"], r["transductive"]) for r in rows] == [
        (w, mode) for w in who for mode in (True, False)
    ]
    done = run(tmp_path, *GLYPHS, *both, "--evaluate", "--config.eval.each_alone=False")
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "results.json").read_text())["test_all"]
    assert [(r["predicts"], r["transductive"]) for r in rows] == [(w, True) for w in who]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fomaml", "anil", "boil", "reptile"])
def test_every_method_runs_from_the_config(tmp_path, method):
    arguments = (f"--config.method={method}", "--config.co_learner=mlp", "--config.train_steps=20")
    done = run(tmp_path, *SINUSOID, *arguments, "--config.eval.num_steps=1,")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "results.json").read_text())["method"] == method


def test_more_classes_than_the_data_has_is_one_line(tmp_path, data_dir):
    done = run(tmp_path, "--config=configs/omniglot.py:500way-1shot")
    assert done.returncode == 2
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("error: data.ways=500 but the validation split has 100 classes: lower")


def test_more_drawings_than_a_class_has_is_one_line(tmp_path, data_dir):
    done = run(tmp_path, "--config=configs/omniglot.py:5way-19shot")
    assert done.returncode == 2
    assert "has 20 examples but shots + queries is" in done.stderr.strip().splitlines()[-1]


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path):
    done = run(tmp_path, *SINUSOID, "--config.inner_learning_rate=100", "--config.num_steps=50")
    assert done.returncode == 1
    assert "error: train/" in done.stderr.splitlines()[-1]
    assert "lower --config.inner_learning_rate" in done.stderr.splitlines()[-1]
