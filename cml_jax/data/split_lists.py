"""The stored class lists: few-shot splits are facts of the package, never drawn at run time."""

import hashlib
import json
from importlib import resources
from typing import Any, NamedTuple


class SplitList(NamedTuple):
    """The names of the classes of each split, in the order of the arrays."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


def read_split_file(name: str) -> Any:
    """The content of `splits/<name>.json`."""
    path = resources.files("cml_jax.data") / "splits" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def split_hash(split: SplitList) -> str:
    """The first 16 hex digits of the SHA-256 of the lists (of the names, not of the file)."""
    return hashlib.sha256(json.dumps(split).encode()).hexdigest()[:16]
