"""The notebooks run, cell by cell, and are stored without outputs."""

import json
import re
import sys

import jax
import numpy as np
import pytest
from support.runs import ROOT

FOLDER = ROOT / "notebooks"
# Constants of the first cell, smaller: the same code, in seconds.
FEWER = {
    "own_model_and_data": {"STEPS": 6, "TEST_TASKS": 10},
    "cml_and_agreement": {"STEPS": 150, "TEST_TASKS": 20},
    "what_the_co_learner_does": {"STEPS": 10, "TEST_TASKS": 20},
}


def cells(name):
    notebook = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    return notebook["cells"]


def run(name, fewer):
    """What the names of a notebook are after its last cell, and its number of pictures."""
    import matplotlib.pyplot as plt

    scope, pictures = {}, 0
    code = ["".join(cell["source"]) for cell in cells(name) if cell["cell_type"] == "code"]
    for constant, value in fewer.items():
        code[0], found = re.subn(
            rf"^{constant} = \d+", f"{constant} = {value}", code[0], flags=re.M
        )
        assert found == 1
    for number, source in enumerate(code):
        exec(compile(source, f"{name}, code cell {number}", "exec"), scope)
        for figure in map(plt.figure, plt.get_fignums()):
            figure.canvas.draw()
            pictures += 1
        plt.close("all")
    return scope, pictures


@pytest.fixture
def play(tmp_path, monkeypatch):
    """Runs a notebook in a folder of its own beside which files may be written."""
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.setattr(sys, "path", [*sys.path])
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield lambda name: run(name, FEWER[name])


def test_every_notebook_is_run_and_stored_without_outputs():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(FEWER)
    for name in FEWER:
        for cell in cells(name):
            if cell["cell_type"] == "code":
                assert cell["outputs"] == [] and cell["execution_count"] is None
                assert "experiments.main" not in "".join(cell["source"])


def test_own_model_and_data(play, tmp_path, capsys):
    scope, pictures = play("own_model_and_data")
    assert scope["state"].step == 6 and scope["values"].shape == (10,)
    assert 0.1 < scope["values"].mean() < 1
    results = scope["results"]
    assert results.data == "cloth" and results.test["num_tasks"] == 10
    assert scope["again"].test["accuracy"] == results.test["accuracy"]
    assert (tmp_path / "runs/cloth/results.json").is_file()
    assert "new classes, 10 tasks: " in capsys.readouterr().out
    assert pictures == 3


def test_cml_and_agreement(play):
    scope, pictures = play("cml_and_agreement")
    for score in scope["scores"].values():
        assert score.shape == (3, 20) and np.isfinite(score).all()
    for name in ("MAML", "CML"):  # the error falls by one inner step, and in training
        before, after, _ = scope["scores"][name].mean(1)
        assert after < before - 0.1
        _, errors, _ = scope["trained"][name][1]
        assert errors[-1] < errors[0]
    weights = scope["weights"].reshape(20, -1)
    np.testing.assert_allclose(np.abs(weights).sum(1), 1, rtol=1e-5)
    # Once trained for a while, the weighted sum is longer than the mean, as the text says.
    lengths = np.array(scope["trained"]["MAML"][1][2][0])[:, -1]
    assert (lengths > 1).all()
    assert pictures == 6


def test_what_the_co_learner_does(play):
    scope, pictures = play("what_the_co_learner_does")
    for name, score in scope["scores"].items():
        assert score.shape == (20,) and 0.1 < score.mean() < 1, name
    frozen, start = (
        scope["trained"]["frozen"][0],
        scope["methods"]["frozen"].init(jax.random.key(1), scope["example"]),
    )
    same = jax.tree.map(np.array_equal, frozen["co_learner"], start["co_learner"])
    assert all(jax.tree.leaves(same))
    assert not np.array_equal(*(jax.tree.leaves(p["base"])[0] for p in (frozen, start)))
    _, _, cosines = scope["trained"]["CML"][1]
    assert len(cosines) == 3 and all(np.abs(c).max() <= 1 + 1e-5 for c in cosines.values())
    assert pictures == 4
