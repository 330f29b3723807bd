"""Data files from outside, damaged in every way: refused in one line, or read right."""

import pytest
from support import fuzz

TARGETS = ["omniglot zips", "omniglot folders", "png", "cache", "graph", "planetoid", "class split"]
TARGETS += ["pictures", "folder", "folder zip", "mini pickles", "cifar pickles", "cifar tar"]
TARGETS += ["cifar tar of pickles", "flowers", "class lists"]


@pytest.mark.parametrize("target", TARGETS)
def test_damaged(target):
    outcomes = fuzz.run(target)[target]
    assert len(outcomes) == fuzz.TARGETS[target].cases
    assert [(seed, what) for seed, what, _ in outcomes if what.startswith("WRONG")] == []
    kinds = {what.split()[0] for _, what, _ in outcomes}
    assert kinds == {"refused", "right"}  # or one of the two would not be tested


@pytest.mark.parametrize("name", fuzz.WRONG)
def test_the_harness_sees_what_a_loader_must_not_do(name):
    [[_, outcome, _]] = fuzz.run(name)[name]
    assert outcome.startswith("WRONG: ") and name in outcome
