"""The README's notebook cell runs as printed."""

import re
from pathlib import Path

import jax

README = Path(__file__).parent.parent / "README.md"


def test_the_notebook_cell_trains_and_scores(capsys):
    cell = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[1]
    assert cell.count("\n") <= 12
    cell = cell.replace("range(100)", "range(2)")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        scope = {}
        exec(compile(cell, README, "exec"), scope)
    assert scope["state"].step == 2
    loss, accuracy = map(float, capsys.readouterr().out.split())
    assert 0 < loss < 10 and 0 <= accuracy <= 1
