"""What the documentation names is there: files, links, modules, settings, tests."""

import importlib.util
import re

import pytest
from support.runs import ROOT

from experiments.settings.config import KEYS

# The changelog names what is gone, CONTRIBUTING.md what its recipes add (see test_recipes.py).
PAGES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "docs/results").glob("*.md")]
TESTS = {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
FUNCTIONS = {
    name
    for path in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
}
PATH = re.compile(r"\b(?:tests|docs|cml_jax|experiments|benchmarks|configs)/[\w./-]*\w")
# What a command writes, or the reader puts there.
MADE = ("docs/results/gpu.json", "cml_jax/runs", "docs/api/_build")


def missing(text, folder):
    """What a page names and is not there."""
    for path in PATH.findall(text):
        if path not in MADE and not (ROOT / path).exists():
            yield path
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        if not link.startswith("http") and not (folder / link).exists():
            yield link
    for module in re.findall(r"python3? -m ([\w.]+)", text):
        if importlib.util.find_spec(module) is None:
            yield module
    for name in re.findall(r"--config\.([a-z_.]*[a-z_])", text):
        if not any(key == name or key.startswith(f"{name}.") for key in KEYS):
            yield f"--config.{name}"
    for name in re.findall(r"`(test_\w+)`", text):
        if name not in TESTS | FUNCTIONS:
            yield name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_is_there(page):
    assert list(missing(page.read_text(encoding="utf-8"), page.parent)) == []


def test_what_is_missing_is_seen():
    page = "tests/program/test_a.py [a](none.md) python -m experiments.mian --config.sed=1 `test_b`"
    assert list(missing(page, ROOT)) == [
        "tests/program/test_a.py",
        "none.md",
        "experiments.mian",
        "--config.sed",
        "test_b",
    ]
