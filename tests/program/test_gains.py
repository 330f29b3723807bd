"""The gains of CML and agreement are the paired differences of the runs that are stored."""

import json

import numpy as np
import pytest

from experiments.report import gains
from experiments.report.gains import Gain
from experiments.run_folder.results import Results, interval
from experiments.studies import STUDIES, Study
from experiments.studies.front import PAIRED
from experiments.studies.study import SAME_RATES

THREE = 4.302652729911275 / np.sqrt(3)  # Student's t of two degrees of freedom
PREDICTS = {
    "learner": "meta-learner",
    "paper": "co-learner (paper)",
    "released": "co-learner (released code)",
}


def stored(metric, **values):
    """A label's entry: each predictor to what its seeds got, or its tasks where it is a tuple."""
    tests = []
    for who, each in values.items():
        over = interval(metric, each if isinstance(each, tuple) else [[v] for v in each])
        own = {"task_values" if isinstance(each, tuple) else "values": list(each)}
        about = {"predicts": PREDICTS[who], "transductive": True, "num_steps": 1}
        alone = about | {"transductive": False} | interval(metric, [0.0, 0.1])
        tests += [alone, about | over | own]  # of each query alone, what pairs it is not stored
    run = Results(
        method="maml",
        data="own",
        split_hash="",
        graph=None,
        validation={metric: 0.5, "step": 7},
        test={k: v for k, v in tests[1].items() if "values" not in k},
        test_all=tests,
        seed=0,
        wall_seconds=90.0,
    )
    return {"command": "python", "cells": {"0": run.to_dict()}}


def found(tmp_path, runs):
    (tmp_path / "own.json").write_text(json.dumps(runs))
    study = Study("configs/glyphs.py", dict.fromkeys(runs, ()))
    return gains.gains({"own": study}, {"own": "Own"}, tmp_path)


def by_kind(every):
    of = {gain.added: gain for gain in every}
    assert len(of) == len(every) == 4
    return [of[k] for k in ("CML", "CML-dagger, released", "CML-dagger, paper", "CML + agreement")]


def test_seeds_are_paired_and_a_share_is_in_points(tmp_path):
    runs = {
        "1-shot: A": stored("accuracy", learner=[0.5, 0.6, 0.7]),
        "1-shot: A + CML": stored(
            "accuracy", learner=[0.51, 0.62, 0.73], released=[0.4, 0.5, 0.6], paper=[0.5, 0.5, 0.8]
        ),
        "1-shot: A + CML + agreement": stored("accuracy", learner=[0.6, 0.7, 0.8]),
        "1-shot: B + CML": stored("accuracy", learner=[0.6, 0.7, 0.8]),  # its base was not run
    }
    cml, released, paper, both = by_kind(found(tmp_path, runs))
    assert cml.row == "Own 1-shot: A" and cml.seeds == 3
    assert cml.mean == pytest.approx(2) and cml.half == pytest.approx(THREE)
    assert cml.verdict == "inside"
    assert released.mean == pytest.approx(-10) and released.verdict == "behind"
    assert paper.mean == pytest.approx(0) and paper.verdict == "inside"
    assert both.mean == pytest.approx(10) and both.verdict == "ahead"


def test_tasks_of_one_seed_are_paired_and_a_lower_error_is_a_gain(tmp_path):
    runs = {
        "A, 4 tasks a step": stored("mse", learner=(1.0, 2.0, 3.0)),
        "A + agreement, 4 tasks a step": stored("mse", learner=(0.8, 2.0, 2.9)),
    }
    (gain,) = found(tmp_path, runs)
    differences = np.array([0.2, 0.0, 0.1])
    assert gain.row == "Own: A" and gain.added == "agreement" and gain.seeds == 1
    assert gain.mean == pytest.approx(100 * differences.mean() / 2)  # percent of the base's error
    assert gain.half == pytest.approx(100 * 1.96 * differences.std(ddof=1) / np.sqrt(3) / 2)


def test_each_query_alone_is_a_gain_of_its_own(tmp_path):
    runs = {label: stored("accuracy", learner=[0.5, 0.6]) for label in ("A", "A + CML")}
    for label, values in (("A", [0.5, 0.6]), ("A + CML", [0.4, 0.5])):
        tests = runs[label]["cells"]["0"]["test_all"]
        tests[0] |= {"values": values} | interval("accuracy", [[v] for v in values])
    at_once, alone = found(tmp_path, runs)
    assert not at_once.alone and at_once.mean == 0
    assert alone.alone and alone.mean == pytest.approx(-10) and alone.verdict == "behind"


def test_a_base_at_the_same_rates_goes_before_the_tuned_one(tmp_path):
    runs = {
        "A": stored("accuracy", learner=[0.5, 0.6, 0.7]),
        "A + CML": stored("accuracy", learner=[0.6, 0.7, 0.8]),
        f"A{SAME_RATES}": stored("accuracy", learner=[0.59, 0.69, 0.79]),
    }
    (gain,) = found(tmp_path, runs)
    assert gain.row == "Own: A" and gain.mean == pytest.approx(1)


def test_what_cannot_be_paired_is_left_out(tmp_path):
    runs = {
        "A": stored("accuracy", learner=[0.5, 0.6, 0.7]),
        "A + CML": stored("accuracy", learner=(0.5, 0.6)),
        "A + agreement": stored("accuracy", learner=[0.5, 0.6, 0.7]),
    }
    for test in runs["A + agreement"]["cells"]["0"]["test_all"]:
        test |= {"accuracy": None, "ci95": None}  # a seed diverged
    assert found(tmp_path, runs) == []


def test_the_table_counts_and_the_picture_is_drawn(tmp_path):
    every = [
        Gain("A", "CML", 2.0, 1.0, 3),
        Gain("B", "CML", 1.0, 1.0, 3),
        Gain("B", "agreement", -200.0, 1.0, 10),
        Gain("C", "CML-dagger, released", 0.5, 0.1, 1),
        Gain("C", "CML-dagger, released", -0.5, 0.1, 3, alone=True),
    ]
    table = gains.table_of(every)
    assert "| CML | 1 / 1 / 0 | - | - |" in table and "| agreement | 0 / 0 / 1 | - | - |" in table
    assert "| CML-dagger, released | - | 0 / 0 / 1 | 1 / 0 / 0 |" in table
    gains.forest(every, tmp_path / "gains.svg")
    assert (tmp_path / "gains.svg").stat().st_size > 1000


def test_the_studies_that_are_shown_exist():
    assert set(PAIRED) <= set(STUDIES)
