"""Which classes of a user's images are for training, validation and test."""

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cml_jax.data.files import one_line
from cml_jax.data.types import DataError, Split

_MAX_BYTES = 1 << 24
_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


def split_of_name(name: str) -> str | None:
    """The split that a folder or a field is named after, as "val" after validation, or None."""
    return _NAMES.get(name.strip().lower())


def read_class_lists(path: Path) -> Split:
    """Reads a class split from JSON or CSV.

        {"train": ["cat", "dog"], "validation": ["cow"], "test": ["hen"]}

        class,split
        cat,train

    "val" stands for validation. Columns of a CSV other than `class` (or `label`) and `split` are
    not read.

    Args:
      path: The file, whose name ends in .json or .csv.

    Raises:
      DataError: The file holds something else, or a class is in two splits.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"over {_MAX_BYTES} bytes")
        text = path.read_text(encoding="utf-8-sig")
        pairs = _of_csv(text) if path.suffix.lower() == ".csv" else _of_json(text)
        lists: dict[str, dict[str, None]] = {part: {} for part in Split._fields}
        of: dict[str, str] = {}
        for name, part in pairs:
            known = split_of_name(part)
            if known is None:
                raise ValueError(f"{part!r} is not train, validation or test")
            if of.setdefault(name, known) != known:
                raise ValueError(f"class {name!r} is in {of[name]} and in {known}")
            lists[known][name] = None
        if not all(lists.values()):
            raise ValueError("train, validation and test need a class each")
    except (OSError, ValueError, KeyError, TypeError, RecursionError, csv.Error) as error:
        raise DataError(
            f"{path} is not a class split ({one_line(error)}): write "
            '{"train": ["cat"], "validation": ["cow"], "test": ["hen"]}, or a CSV with the columns '
            "class and split"
        ) from error
    return Split(*(tuple(lists[part]) for part in Split._fields))


def draw_classes(names: Sequence[str], counts: Sequence[int], seed: int, ways: int = 1) -> Split:
    """Draws which classes are where: a class's place depends on its name and the seed alone.

    >>> draw_classes(["cat", "dog", "cow", "hen"], (2, 1, 1), seed=0)
    Split(train=('dog', 'hen'), validation=('cat',), test=('cow',))

    Args:
      names: The classes.
      counts: How many classes each of the three gets; all 0 is 64%, 16% and 20% of them, but at
        least `ways` for validation and for test.
      seed: Of the draw.
      ways: Classes of a task.

    Raises:
      DataError: There are not that many classes.
    """
    if not any(counts):
        validation, test = (max(round(share * len(names)), ways) for share in (0.16, 0.2))
        if validation + test + ways > len(names):
            raise DataError(
                f"{len(names)} classes are too few for {ways} in each of training, validation and "
                "test: add classes, or lower the ways"
            )
        counts = (len(names) - validation - test, validation, test)
    if min(counts) < 1 or sum(counts) > len(names):
        raise DataError(
            f"class counts {tuple(counts)} but there are {len(names)} classes: give three positive "
            "counts that add up to no more"
        )
    order = sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    ends = np.cumsum([0, *counts])
    return Split(*(tuple(sorted(order[a:b])) for a, b in zip(ends[:-1], ends[1:], strict=True)))


def _of_json(text: str):
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError("it is not an object")
    for part, names in content.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{part!r} is not a list of names")
        yield from ((name, part) for name in names)


def _of_csv(text: str):
    rows = csv.DictReader(io.StringIO(text), strict=True)
    fields = {name.strip().lower(): name for name in rows.fieldnames or []}
    label = fields.get("class", fields.get("label"))
    if label is None or "split" not in fields:
        raise ValueError("its first line does not name the columns class and split")
    for row in rows:
        if not row[label] or not row[fields["split"]]:
            raise ValueError("a line has no class or no split")
        yield row[label].strip(), row[fields["split"]]
