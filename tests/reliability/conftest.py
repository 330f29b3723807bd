"""What is done to break a run: with the marker `reliability`, which a plain run leaves out."""

from pathlib import Path

import pytest
from support.faults import poisoned

from experiments import build


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.reliability)


@pytest.fixture
def poison(monkeypatch):
    """`poison(split, *indices, seed=0)`: runs that start afterwards meet these tasks."""
    problem = build.problem

    def install(split, *indices, seed=0):
        monkeypatch.setattr(
            build, "problem", lambda config: poisoned(problem(config), split, *indices, seed=seed)
        )

    return install
