"""What a user types and what a run left behind, damaged: refused in one line, or taken as it is."""

import math
import random

import pytest
from support import fuzz

from experiments.settings.checks import check
from experiments.settings.config import KEYS, ConfigError, default_config
from experiments.settings.record import default_workdir


@pytest.mark.parametrize("target", ["command line", "metrics.jsonl", "config.json", "results.json"])
def test_damaged(target):
    outcomes = fuzz.run(target)[target]
    assert len(outcomes) == fuzz.TARGETS[target].cases
    assert [(seed, what) for seed, what, _ in outcomes if what.startswith("WRONG")] == []
    assert {what.split()[0] for _, what, _ in outcomes} == {"refused", "right"}


VALUES = (None, True, False, 0, 1, -1, 2**31, 2**1000, 0.0, -0.0, 1e-320, 1e308, "", "none", "é")
VALUES += (math.nan, math.inf, -math.inf, "a" * 10_000, b"adam", (), (1,), (2, 1), (0.0, math.nan))
VALUES += ([1, 2], {}, {"a": 1}, 1j, (None,), ((1, 2),), range(3), len, "adam\n", (True, False))


def test_values_of_any_type_in_a_config():
    rng, accepted = random.Random(0), 0
    for _ in range(600):
        config = default_config()
        names = rng.choices(list(KEYS), k=rng.choice((1, 1, 3)))
        good = {name: (KEYS[name].default, *(KEYS[name].allowed or ())) for name in names}
        changes = {name: rng.choice(rng.choice((VALUES, good[name]))) for name in names}
        with config.ignore_type():
            for name, value in changes.items():
                section, _, key = name.rpartition(".")
                (config[section] if section else config)[key] = value
        try:
            check(config)
        except ConfigError as error:
            assert 10 < len(str(error)) and "\n" not in str(error), changes
        else:
            accepted += 1
            default_workdir("configs/glyphs.py", config)
    assert 60 < accepted < 500
