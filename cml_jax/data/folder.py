"""Any images: a folder, or a zip, that holds a folder for each class."""

import contextlib
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from cml_jax.data.cache import cached_images
from cml_jax.data.class_files import LIMITS, decode_all
from cml_jax.data.class_lists import draw_classes, read_class_lists, split_of_name
from cml_jax.data.files import File, fingerprint, open_files
from cml_jax.data.pictures import FITS, SUFFIX
from cml_jax.data.types import DataError, Images, Split

_SIZE = 84
_PICTURE = re.compile(rf"(?:(.*)/)?[^/]+{SUFFIX}")

_log = logging.getLogger(__name__)


def load_folder(
    data_dir: str | os.PathLike[str] | None,
    *,
    size: int = 0,
    channels: int = 3,
    fit: str = "squash",
    split_file: str = "",
    classes: Sequence[int] = (0, 0, 0),
    split_seed: int = 0,
    at_least: int = 2,
    ways: int = 1,
) -> Images:
    """Loads a folder or zip with a folder for each class; the classes may differ in size.

    The pictures are JPEG, PNG, WebP, BMP or GIF, see `cml_jax.data.pictures.decode_picture`; other
    files are counted in the log and left alone. A class is named after the path of its folder, less
    what all classes have in front. Where that path starts with `train`, `val` (or `validation`) and
    `test`, that is the split, unless a class is in two of them: then its pictures are put together.

    The first call converts, later ones open the cache.

    Args:
      data_dir: The folder or zip.
      size: Height and width of the images, in pixels; 0 is 84.
      channels: 3 for colour, 1 for grey.
      fit: "squash" or "crop", how pictures come to a square.
      split_file: A JSON or CSV that says which class is in which split, see `read_class_lists`;
        classes that it does not name are left out.
      classes: Without a `split_file`: how many classes training, validation and test get, drawn
        with `split_seed`; all 0 takes the split of the folders, else 64%, 16% and 20%, but at least
        `ways` for validation and for test.
      split_seed: Of the draw.
      at_least: How many pictures a class must have; smaller ones are left out, and the log says so.
      ways: Classes of a task.

    Returns:
      Images with pixels uint8 `[N, size, size, channels]`.

    Raises:
      DataError: There is no such folder, it has too few classes, or a file is damaged.
    """
    if not data_dir:
        raise DataError("there is no folder of images: set data.dir to a folder or zip of classes")
    size = size or _SIZE
    if fit not in FITS or channels not in (1, 3) or not 0 < size <= 4096:
        raise ValueError(f"{size=}, {channels=}, {fit=}: give 1 to 4096, 1 or 3, one of {FITS}")
    root = _expanded(data_dir)
    if not root.exists():
        raise DataError(f"there is no folder or zip {root}: correct data.dir")
    with open_files(root, _PICTURE, LIMITS) as files:
        of_class, own_split = _classes(root, files.wanted)
        if files.others:
            _log.warning(
                "%s: %d files are not pictures, one is %r: left alone",
                root,
                len(files.others),
                files.others[0],
            )
        if split_file:
            split = _known(read_class_lists(_expanded(split_file)), of_class, split_file)
        elif own_split and not any(classes):
            split = own_split
        else:
            large = _large(of_class, list(of_class), at_least)
            split = draw_classes(large, classes, split_seed, ways)
        split = Split(*(tuple(_large(of_class, part, at_least)) for part in split))
        if empty := [part for part, names in split._asdict().items() if not names]:
            raise DataError(
                f"{root} has no {empty[0]} class of at least {at_least} pictures: add pictures, or "
                "lower shots and queries"
            )
        counts = [len(of_class[name]) for part in split for name in part]
        options = {"size": size, "channels": channels, "fit": fit}
        notes = {"from": f"pictures in {'a folder' if root.is_dir() else 'a zip'}", **options}
        source = json.dumps([fingerprint([root]), options, counts])
        place = hashlib.sha256(json.dumps([str(root.resolve()), options]).encode()).hexdigest()
        convert = partial(_decoded, root, of_class, split, size, channels, fit)
        # Images of another split would be found under this name, and made again.
        return cached_images(f"folder-{place[:16]}-v1", "folder", split, source, convert, notes)


def _expanded(path: str | os.PathLike[str]) -> Path:
    with contextlib.suppress(RuntimeError):  # "~stranger"
        return Path(path).expanduser()
    return Path(path)


def _decoded(
    root: Path,
    of_class: dict[str, list[File]],
    split: Split,
    size: int,
    channels: int,
    fit: str,
) -> Iterator[tuple[str, np.ndarray]]:
    for part in split:
        for name in part:
            files = [(str(root), file) for file in of_class[name]]
            yield name, decode_all(files, size, channels, fit)


def _classes(root: Path, files: list[File]) -> tuple[dict[str, list[File]], Split | None]:
    """The files of every class; and the split, where the folders make one."""
    of_path: dict[tuple[str, ...], list[File]] = {}
    for file in sorted(files, key=lambda file: file.match.string):
        of_path.setdefault(tuple((file.match[1] or "").split("/")), []).append(file)
    if () in of_path or ("",) in of_path:
        loose = of_path[("",)][0].match.string
        raise DataError(f"{root} has {loose!r} outside of any class's folder: put it into one")
    if len(of_path) < 3:
        raise DataError(
            f"{root} has {len(of_path)} folders with pictures: few-shot learning needs one for "
            "each class, and classes for training, validation and test"
        )
    front = len(os.path.commonprefix([path[:-1] for path in of_path]))
    paths = {path: path[front:] for path in of_path}
    parts = {path: split_of_name(own[0]) for path, own in paths.items() if len(own) > 1}
    if len(parts) < len(paths) or None in parts.values() or len(set(parts.values())) < 2:
        return {"/".join(paths[path]): own for path, own in of_path.items()}, None
    of_class: dict[str, list[File]] = {}
    lists: dict[str, list[str]] = {part: [] for part in Split._fields}
    for path, own in of_path.items():
        name = "/".join(paths[path][1:])
        of_class.setdefault(name, []).extend(own)
        lists[parts[path] or ""].append(name)
    if len(of_class) < len(of_path):
        problem = "classes have pictures in two of train, validation and test: put together"
    elif missing := [part for part, names in lists.items() if not names]:
        problem = f"there are no classes for {missing[0]}: all classes are split anew"
    else:
        return of_class, Split(*(tuple(lists[part]) for part in Split._fields))
    _log.warning("%s: %s", root, problem)
    return of_class, None


def _known(split: Split, of_class: dict[str, list[File]], split_file: str) -> Split:
    if unknown := [name for part in split for name in part if name not in of_class]:
        there = ", ".join(repr(name) for name in list(of_class)[:3])
        raise DataError(
            f"{split_file} names class {unknown[0]!r}, which has no pictures; there are {there} "
            "and others: correct the file"
        )
    return split


def _large(of_class: dict[str, list[File]], names: Sequence[str], at_least: int) -> list[str]:
    if small := [name for name in names if len(of_class[name]) < at_least]:
        _log.warning(
            "%d classes have fewer than %d pictures (shots + queries), one is %r: left out",
            len(small),
            at_least,
            small[0],
        )
    return [name for name in names if len(of_class[name]) >= at_least]
