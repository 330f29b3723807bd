"""`python -m support.fuzz TARGET ...`: damages and reads the files of some targets."""

import json
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from support.fuzz import TARGETS, WRONG
from support.fuzz.harness import forked


def serve(names: list[str]) -> None:
    """Prints one JSON list a target: `[seed, outcome, seconds]` of each case."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    home = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        for name in names:
            target, template = (TARGETS | WRONG)[name], home / f"template-{names.index(name)}"
            template.mkdir()
            target.make(template)
            (home / "good").mkdir(exist_ok=True)
            good = target.read(shutil.copytree(template, home / "good" / name))
            shutil.rmtree(home / "good")
            rows = [
                forked(target, good, template, seed, home / "case") for seed in range(target.cases)
            ]
            print(json.dumps([name, rows]), flush=True)
    finally:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    serve(sys.argv[1:])
