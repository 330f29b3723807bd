"""Data files from outside, damaged in every way: refused in one line, or read right."""

import fuzz
import pytest


@pytest.mark.parametrize("target", ["omniglot zips", "omniglot folders", "png", "cache"])
def test_damaged(target):
    outcomes = fuzz.run(target)[target]
    assert len(outcomes) == fuzz.TARGETS[target].cases
    assert [(seed, what) for seed, what, _ in outcomes if what.startswith("WRONG")] == []
    kinds = {what.split()[0] for _, what, _ in outcomes}
    assert kinds == {"refused", "right"}  # or one of the two would not be tested


def test_the_harness_sees_what_a_loader_must_not_do(tmp_path):
    """A loader that writes elsewhere, runs code, takes memory or time, or says nothing of use."""

    def wrong(read, errors=("ValueError",)):
        target = fuzz.Target(lambda folder: None, read, errors, 1, (lambda folder, rng: None,))
        template = tmp_path / "template"
        template.mkdir(exist_ok=True)
        # In a process of its own, as in the harness: the hook and the limits stay for good.
        return fuzz.forked(target, "good", template, 0, tmp_path / "case")[1]

    def raises(error):
        def read(folder):
            raise error

        return read

    assert wrong(lambda folder: "good").startswith("right")
    assert wrong(raises(ValueError("a: b"))).startswith("refused")
    assert "read other" in wrong(lambda folder: "other")
    assert "KeyError" in wrong(raises(KeyError("a")))
    assert "not one line" in wrong(raises(ValueError("a\nb")))
    assert "wrote" in wrong(lambda folder: open(tmp_path / "escaped", "w").close() or "good")
    assert "os.system" in wrong(lambda folder: fuzz.os.system("true") and "" or "good")
    assert "MemoryError" in wrong(lambda folder: bytes(fuzz.MEMORY * 2))
