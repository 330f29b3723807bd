"""Loaders that do what none may, by what the harness says of them: it is tested too."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.fuzz.harness import MEMORY, SECONDS, Target


def _bad(read: Callable[[Path], Any]) -> Target:
    def read_or_good(folder: Path) -> Any:
        return "good" if folder.parent.name == "good" else read(folder)

    return Target(
        lambda folder: None, read_or_good, ("ValueError",), 1, (lambda folder, rng: None,)
    )


def _raise(error: Exception) -> Any:
    raise error


TARGETS = {
    "read other": _bad(lambda folder: "other"),
    "KeyError": _bad(lambda folder: _raise(KeyError("a"))),
    "not one line": _bad(lambda folder: _raise(ValueError("a\nb"))),
    "wrote": _bad(lambda folder: open(folder.parent.parent / "other", "w").close()),
    "os.system": _bad(lambda folder: os.system("true")),
    "MemoryError": _bad(lambda folder: bytes(2 * MEMORY)),
    "seconds": _bad(lambda folder: time.sleep(2 * SECONDS)),
    "code was run": _bad(lambda folder: (folder / "escaped").touch()),
}
