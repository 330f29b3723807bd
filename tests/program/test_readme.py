"""The README's notebook cell runs as printed."""

import re
from pathlib import Path

import jax

README = Path(__file__).parents[2] / "README.md"


def test_the_notebook_cell_trains_and_scores(capsys):
    cell = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[1]
    assert len(cell.splitlines()) <= 13  # ten, after the imports
    cell = cell.replace("range(100)", "range(2)")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        scope = {}
        exec(compile(cell, README, "exec"), scope)
    assert scope["state"].step == 2
    assert 0 <= float(capsys.readouterr().out) <= 1
