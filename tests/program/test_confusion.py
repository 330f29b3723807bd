"""Confused classes: pairs and classes by hand, in their order, and what the page says."""

import json

import numpy as np

from experiments.report.confusion import blocks, most_confused


def test_by_hand():
    """Two tasks of three classes that share two of them."""
    counts = np.array([[[3, 1, 0], [2, 2, 0], [0, 0, 4]], [[4, 0, 0], [1, 3, 0], [0, 1, 3]]])
    found = most_confused(counts, [["cat", "dog", "owl"], ["dog", "cat", "bee"]])
    assert found["num_tasks"] == 2
    assert found["pairs"] == [
        {"classes": ["cat", "dog"], "queries": 16, "wrong": 4},
        {"classes": ["bee", "cat"], "queries": 8, "wrong": 1},
    ]
    assert found["classes"] == [
        {"class": "cat", "queries": 8, "wrong": 2},
        {"class": "dog", "queries": 8, "wrong": 2},
        {"class": "bee", "queries": 4, "wrong": 1},
    ]


def test_a_rare_pair_does_not_come_first():
    often, once = [[60, 40], [40, 60]], [[0, 1], [0, 1]]
    found = most_confused(np.array([often, once]), [["a", "b"], ["c", "d"]])
    assert [row["classes"] for row in found["pairs"]] == [["a", "b"], ["c", "d"]]


def test_only_the_first_are_kept_and_shown(tmp_path):
    counts = np.ones((1, 50, 50), int)
    found = most_confused(counts, [[f"class {i}" for i in range(50)]])
    assert len(found["pairs"]) == len(found["classes"]) == 30
    (tmp_path / "confusion.json").write_text(json.dumps(found))
    pairs, classes = blocks(tmp_path, [])
    assert len(pairs.rows) == len(classes.rows) == 10
    assert classes.rows[0] == ["class 0", "49", "50", "98.0%"]


def test_what_there_is_to_say(tmp_path):
    left_out = []
    assert blocks(tmp_path, left_out) == []
    right = most_confused(np.array([np.eye(2, dtype=int)]), [["a", "b"]])
    (tmp_path / "confusion.json").write_text(json.dumps(right))
    assert blocks(tmp_path, left_out) == ["No query of 1 test tasks is taken for another class."]
    assert left_out == []
    for damaged in ("{", '{"pairs": [{"classes": ["a"]}]}', '{"pairs": 1}'):
        (tmp_path / "confusion.json").write_text(damaged)
        assert blocks(tmp_path, left_out) == [] and "is unreadable" in left_out.pop()
