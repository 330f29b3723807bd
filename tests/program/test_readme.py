"""The README's notebook cells run as printed."""

import re
from pathlib import Path

import jax

README = Path(__file__).parents[2] / "README.md"


def cells():
    return re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def test_ones_own_problem_has_the_whole_program(capsys, monkeypatch, tmp_path):
    cell = cells()[1]
    assert len(cell.splitlines()) <= 12
    monkeypatch.chdir(tmp_path)
    cell = cell.replace(
        "config.tasks_per_step = 0.01, 2000, 25", "config.tasks_per_step = 0.01, 4, 2"
    )
    few = "config.eval.num_tasks = config.eval.validation_tasks = config.eval.every = 4\n"
    scope = {}
    exec(compile(cell.replace("results =", few + "results ="), README, "exec"), scope)
    assert scope["results"].metric == "error" and scope["results"].test["num_tasks"] == 4
    assert capsys.readouterr().out.splitlines()[-1].startswith("error ")
    assert (tmp_path / "runs/mine/results.json").is_file()


def test_the_notebook_cell_trains_and_scores(capsys):
    cell = cells()[0]
    assert len(cell.splitlines()) <= 16  # with the lines between them
    cell = cell.replace("range(100)", "range(2)")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        scope = {}
        exec(compile(cell, README, "exec"), scope)
    assert scope["state"].step == 2
    assert 0 <= float(capsys.readouterr().out) <= 1
