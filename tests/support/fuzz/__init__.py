"""Damaged files by the hundred: each is refused in one line, or read right; never anything else.

Every case runs in a process of its own, forked from one that has imported what it needs, under
limits on memory, time and file sizes; an audit hook sees every file that is opened for writing
outside of the case's folder, and every program, connection and pickle.
"""

import json
import os
import subprocess
import sys

from support.fuzz import data_targets, run_targets, wrong

WRONG = wrong.TARGETS
TARGETS = data_targets.TARGETS | run_targets.TARGETS


def run(*names: str) -> dict[str, list]:
    """The outcomes of all cases of some targets, each `[seed, outcome, seconds]`."""
    root = run_targets.ROOT
    environment = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}"}
    environment |= {"PYTHONWARNINGS": "ignore"}
    environment.pop("CML_JAX_DATA", None)
    done = subprocess.run(
        [sys.executable, "-m", "support.fuzz", *names],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return dict(map(json.loads, done.stdout.splitlines()))
