"""The API reference builds without a warning, and has what the library exports."""

import importlib.util
import subprocess
import sys

import pytest
from support.runs import ROOT

import cml_jax


@pytest.mark.slow
def test_the_reference_builds_and_has_every_name(tmp_path):
    if importlib.util.find_spec("sphinx") is None:
        pytest.skip("API REFERENCE NOT BUILT: pip install -e '.[docs]'")
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", "docs/api", str(tmp_path)]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr

    from sphinx.util.inventory import InventoryFile

    inventory = InventoryFile.loads((tmp_path / "objects.inv").read_bytes(), uri="").data
    names = {name for kind, found in inventory.items() if kind.startswith("py:") for name in found}
    assert {f"cml_jax.{name}" for name in cml_jax.__all__} - names == set()
    assert {"experiments.Problem", "experiments.run", "cml_jax.models.conv4"} <= names

    page = (tmp_path / "cml_jax.html").read_text(encoding="utf-8")
    equation = "objective + scale * L_query(co_learner_phi(features of the adapted body))"
    assert f"<pre><span></span>{equation}\n</pre>" in page
