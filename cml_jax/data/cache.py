"""Images decoded once into a file that is mapped into memory, and verified when it is opened.

A folder of the user's cache holds a data set: `pixels-*.npy`, and `images.json`, which names it.
The JSON is replaced last and at once, so that a reader finds the old set or the new one, never a
part. The file of pixels stays readable to processes that have mapped it when it is replaced.
"""

import contextlib
import hashlib
import io
import itertools
import json
import logging
import math
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from cml_jax.data.files import cache_dir, one_line, replacing
from cml_jax.data.identical import Identical
from cml_jax.data.types import DataError, Images, Split, split_hash
from cml_jax.tasks.members import consecutive_members

Convert = Callable[[], Iterable[tuple[str, np.ndarray]]]

_JSON = "images.json"
_PIXELS = re.compile(r"pixels-\w+\.npy", re.ASCII)
_HEADER = 128  # bytes that NumPy's header takes, for any shape of four dimensions
_MAX_JSON = 1 << 24
_BLOCK = 1 << 22
_STALE = 86_400  # seconds after which what a killed process has left is deleted

_log = logging.getLogger(__name__)


def cached_images(
    folder_name: str,
    name: str,
    split: Split,
    source: str,
    convert: Convert,
    notes: dict[str, Any] | None = None,
) -> Images:
    """Opens the images in the user's cache if they were made from this source, else makes them.

    Args:
      folder_name: The name of the folder in the cache. A new version of what is stored has a new
        name, such as "omniglot-v3".
      name: The name of the data set.
      split: The names of the classes of each split.
      source: Identifies the files that the images are made from, and how (such as their size):
        any string.
      convert: Yields every class and its images, uint8 `[n, h, w, c]`, in the order of `split`:
        all of training, then of validation, then of test. It may be called twice.
      notes: What results are to say of the images, as JSON can hold it. How many are identical is
        added to it.

    Returns:
      The images, mapped from the cache; in memory where the cache cannot be written.

    Raises:
      DataError: What `convert` raises.
    """
    cache = cache_dir()
    folder = cache / folder_name if cache else None
    if folder and (folder / _JSON).is_file():
        try:
            images, made_from = read_images(folder)
            if made_from == source and images.classes == split and images.name == name:
                return images
        except DataError as error:
            _log.warning("%s; converting %s again", error, name)
    if folder:
        try:
            return write_images(folder, name, split, source, convert(), notes)
        except OSError as error:
            problem = f"{folder} cannot be written ({error.strerror})"
    else:
        problem = "there is no home folder for a cache"
    _log.warning(
        "%s: set CML_JAX_CACHE to a folder that can, or %s is converted every time", problem, name
    )
    counts, parts, same = [], [], Identical(split)
    for label, images in _checked(split, convert()):
        counts.append(len(images))
        parts.append(images)
        same.add(label, images)
    return _images(np.concatenate(parts), split, counts, name, (notes or {}) | same.counts())


def write_images(
    folder: Path,
    name: str,
    split: Split,
    source: str,
    classes: Iterable[tuple[str, np.ndarray]],
    notes: dict[str, Any] | None = None,
) -> Images:
    """Writes images into a folder as a whole or not at all; of two processes at once, one wins.

    Args:
      folder: The folder; it is created.
      name, split, source, notes: As in `cached_images`.
      classes: What its `convert` returns.

    Raises:
      OSError: The folder cannot be written; nothing is left in it.
      DataError: What the iterator raises; nothing is left in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _delete_stale(folder)
    descriptor, path = tempfile.mkstemp(prefix="pixels-", suffix=".npy", dir=folder)
    path = Path(path)
    try:
        counts: list[int] = []
        shape: tuple[int, ...] = ()
        same = Identical(split)
        with open(descriptor, "wb") as stream:
            stream.write(bytes(_HEADER))
            for label, images in _checked(split, classes):
                counts.append(len(images))
                same.add(label, images)
                shape = images.shape[1:]
                stream.write(np.ascontiguousarray(images).data)
            stream.seek(0)
            stream.write(_header((sum(counts), *shape)))
            stream.flush()
            os.fsync(stream.fileno())
        about = {
            "name": name,
            "source": source,
            "classes": split._asdict(),
            "counts": counts,
            "shape": shape,
            "notes": (notes or {}) | same.counts(),
            "pixels": path.name,
            "pixels_sha256": _digest_of_file(path),
        }
        pixels = _mapped(path, (sum(counts), *shape))
        old = _named(folder)
        with replacing(folder / _JSON) as stream:
            stream.write(json.dumps(about | {"sha256": _digest(about)}).encode())
    except BaseException:
        _delete(path)
        _delete(folder)
        raise
    if old:
        _delete(folder / old)
    return _images(pixels, split, counts, name, about["notes"])


def read_images(folder: Path) -> tuple[Images, str]:
    """Opens the images that `write_images` wrote; all of them are read once, to verify them.

    Returns:
      The images, mapped from the file, and what they were made from.

    Raises:
      DataError: The files are damaged, or are not those of `write_images`.
    """
    about = _read_json(folder / _JSON)
    path = folder / about["pixels"]
    shape = (sum(about["counts"]), *about["shape"])
    try:
        if (size := path.stat().st_size) != _HEADER + math.prod(shape):
            raise ValueError(f"it has {size} bytes")
        if _digest_of_file(path) != about["pixels_sha256"]:
            raise ValueError("it does not match its SHA-256")
        pixels = _mapped(path, shape)
    except (OSError, ValueError) as error:
        if _named(folder) not in (None, path.name):  # another process has just replaced it
            return read_images(folder)
        raise DataError(f"{path} is damaged ({one_line(error)}): delete it") from error
    split = Split(*(tuple(about["classes"][part]) for part in Split._fields))
    notes = about.get("notes", {})  # which earlier versions did not write
    return _images(pixels, split, about["counts"], about["name"], notes), about["source"]


def prepared_images(folder: Path, name: str, split: Split) -> Images | None:
    """The images that `cached_images` left in a folder, whatever they were made from, or None.

    What is damaged, or of another data set or split, is passed over with a warning.
    """
    if not (folder / _JSON).is_file():
        return None
    try:
        images, _ = read_images(folder)
        if images.classes != split or images.name != name:
            raise DataError(f"{folder} holds something else than {name}: delete it")
    except DataError as error:
        _log.warning("%s; looking for another source of %s", error, name)
        return None
    return images


def _images(pixels, split, counts, name, notes) -> Images:
    return Images(pixels, consecutive_members(counts), split, name, split_hash(split), notes)


def _checked(
    split: Split, classes: Iterable[tuple[str, np.ndarray]]
) -> Iterator[tuple[str, np.ndarray]]:
    """Makes sure that a loader gives all classes, in order, as images of one shape."""
    names, shape = [label for part in split for label in part], None
    for i, (label, images) in enumerate(classes):
        shape = shape or images.shape[1:]
        if i >= len(names) or label != names[i]:
            raise ValueError(f"class {label!r} is out of order")
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != shape:
            raise ValueError(f"class {label!r} is {images.dtype} {images.shape}")
        names[i] = None
        yield label, images
    if any(name is not None for name in names):
        raise ValueError("there are classes without images")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_JSON:
            raise ValueError(f"over {_MAX_JSON} bytes")
        about = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(about, dict) or about.pop("sha256") != _digest(about):
            raise ValueError("it does not match its SHA-256")
        classes = [about["classes"][part] for part in Split._fields]
        numbers = [*about["counts"], *about["shape"]]
        if not all(type(number) is int and 0 < number < 1 << 31 for number in numbers):
            raise ValueError("a count or a size is not a positive integer")
        if len(about["shape"]) != 3 or len(about["counts"]) != sum(map(len, classes)):
            raise ValueError("its parts do not fit together")
        if type(about.get("notes", {})) is not dict:
            raise ValueError("its notes are not as they should be")
        texts = [about["name"], about["source"], about["pixels"], *itertools.chain(*classes)]
        if not all(type(text) is str for text in texts) or not _PIXELS.fullmatch(about["pixels"]):
            raise ValueError("a name is not as it should be")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({one_line(error)}): delete it") from error
    return about


def _mapped(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.dtype != np.uint8 or array.shape != shape or not array.flags.c_contiguous:
        raise ValueError(f"it holds {array.dtype} {array.shape}")
    return array


def _header(shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    about = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, about)
    assert stream.tell() == _HEADER
    return stream.getvalue()


def _digest(about: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _digest_of_file(path: str | Path) -> str:
    """The SHA-256 of the SHA-256s of blocks, which the cores share: 1.2 GB take a second on two."""

    def of_block(start: int) -> bytes:
        with open(path, "rb") as stream:
            stream.seek(start)
            return hashlib.sha256(stream.read(_BLOCK)).digest()

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        parts = threads.map(of_block, range(0, os.path.getsize(path), _BLOCK))
        return hashlib.sha256(b"".join(parts)).hexdigest()


def _named(folder: Path) -> str | None:
    """The file of pixels that the JSON names."""
    try:
        return _read_json(folder / _JSON)["pixels"]
    except DataError:
        return None


def _delete_stale(folder: Path) -> None:
    """Deletes what processes that were killed have left."""
    named = _named(folder)
    for path in folder.glob("pixels-*.npy"):
        with contextlib.suppress(OSError):
            if path.name != named and time.time() - path.stat().st_mtime > _STALE:
                path.unlink()


def _delete(path: Path) -> None:
    """Deletes a file, or a folder that is empty."""
    with contextlib.suppress(OSError):
        path.rmdir() if path.is_dir() else path.unlink()
