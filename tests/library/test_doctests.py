"""The examples in the docstrings of the library show what it does."""

import doctest
import importlib
import pkgutil

import pytest

import cml_jax

MODULES = ["cml_jax", *(m.name for m in pkgutil.walk_packages(cml_jax.__path__, "cml_jax."))]
EXAMPLES = {
    test.name: test
    for name in MODULES
    for test in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name))
    if test.examples
}


def run(example):
    """What an example prints that it should not, and nothing where it is right."""
    said = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    runner.run(example, out=said.append)
    return "".join(said)


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_example(name):
    wrong = run(EXAMPLES[name])
    assert not wrong, wrong


def test_an_example_that_is_wrong_is_seen():
    text = ">>> import jax.numpy as jnp\n>>> int(jnp.arange(3).sum())\n{}\n"
    for answer in (3, 4):
        example = doctest.DocTestParser().get_doctest(text.format(answer), {}, "own", None, 0)
        assert ("Expected:\n    4\nGot:\n    3\n" in run(example)) == (answer == 4)
