"""Omniglot as users have it: the two zips, their folders, or a tensorflow-datasets folder."""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from cml_jax.data.files import one_line, read_folder, read_zip, walk
from cml_jax.data.types import DataError

PARTS = ("images_background", "images_evaluation")

_DRAWING = re.compile(
    rf"(?:{'|'.join(PARTS)})/([\w()'.-]+/character\d\d)/\d{{4}}_\d\d\.png", re.ASCII
)
_MAX_DRAWING_BYTES = 1 << 14  # the largest of the originals has 522
_MAX_ZIP_BYTES = 1 << 25  # the larger of the originals has 9.5 million
_MAX_ZIP_MEMBERS = 50_000


class Drawing(NamedTuple):
    """One drawing as stored: `name` for messages, `character` as `Greek/character01`, a PNG."""

    name: str
    character: str
    png: bytes


class Source(NamedTuple):
    """Omniglot in some form: its files and folders, and how to read all drawings."""

    paths: list[Path]
    read: Callable[[], Iterator[Drawing]]


def find_source(place: Path) -> Source | None:
    """Omniglot in a folder, if it is there.

    Raises:
      DataError: only one of the two parts is there.
    """
    parts = [path for name in PARTS if (path := _part(place, name))]
    if len(parts) == len(PARTS):
        return parts_source(parts)
    prepared = place / "3.0.0"
    if place.name == "omniglot" and (prepared / "dataset_info.json").is_file():
        return Source([prepared], partial(_read_tfds, place))
    if parts:
        raise DataError(f"{parts[0]} is half of Omniglot: put {' and '.join(PARTS)} side by side")
    return None


def parts_source(parts: list[Path]) -> Source:
    """Omniglot as two zips or extracted folders."""
    return Source(parts, partial(_read_parts, parts))


def fingerprint(source: Source) -> str:
    """The SHA-256 of the names, sizes and times of change of all files: no file is read."""
    digest = hashlib.sha256()
    for path in [path.resolve() for path in source.paths]:
        for file in walk(path) if path.is_dir() else [str(path)]:
            status = os.lstat(file)  # of a link below the folder, which may lead nowhere
            name = file.removeprefix(str(path.parent))
            digest.update(os.fsencode(f"{name} {status.st_size} {status.st_mtime_ns}\n"))
    return digest.hexdigest()


def _part(place: Path, name: str) -> Path | None:
    if (path := place / f"{name}.zip").is_file() or (path := place / name).is_dir():
        return path
    return None


def _read_parts(parts: list[Path]) -> Iterator[Drawing]:
    for part in parts:
        if part.is_dir():
            members = read_folder(part, _DRAWING, max_member_bytes=_MAX_DRAWING_BYTES)
        else:
            members = read_zip(
                part,
                _DRAWING,
                max_members=_MAX_ZIP_MEMBERS,
                max_member_bytes=_MAX_DRAWING_BYTES,
                max_bytes=_MAX_ZIP_BYTES,
            )
        for match, png in members:
            yield Drawing(f"{part.parent}: {match.string}", match[1], png)


def _read_tfds(place: Path) -> Iterator[Drawing]:
    import tensorflow_datasets as tfds

    try:
        # The builder's code: builder_from_directory imports what features.json in the folder names.
        builder = tfds.builder_cls("omniglot")(data_dir=place.parent, version="3.0.0")
        names = builder.info.features["label"].names
        options = {"split": "train+test", "decoders": {"image": tfds.decode.SkipDecoding()}}
        if builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
            examples = builder.as_data_source(**options)
        else:
            examples = tfds.as_numpy(builder.as_dataset(**options))  # needs TensorFlow
        for example in examples:
            alphabet, number = names[int(example["label"])].rsplit("_", 1)
            character = f"{alphabet}/character{int(number) + 1:02d}"
            yield Drawing(f"{place}: {character}", character, example["image"])
    except Exception as error:  # whatever tensorflow-datasets raises
        raise DataError(
            f"tensorflow-datasets cannot read {place} ({one_line(error)}): install tensorflow-cpu, "
            f"or put {PARTS[0]}.zip and {PARTS[1]}.zip beside it"
        ) from error
