"""Arrays that take long to make, kept in the user's cache under what they were made from."""

import contextlib
import logging
import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cml_jax.data.files import cache_dir, one_line, replacing

_KEPT = 4  # files of one name: of so many sources
_STALE = 86_400  # seconds after which what a killed process has left is deleted

_log = logging.getLogger(__name__)


def cached_arrays(
    name: str, source: str, make: Callable[[], dict[str, np.ndarray]], seconds: float = 5.0
) -> dict[str, np.ndarray]:
    """Reads arrays from the user's cache if they were made from this source, else makes them.

    A file is written whole or not at all, and its checksums are verified when it is read: what is
    damaged is made again, after a warning. Of one name the four files that were last made or read
    are kept. Where the cache cannot be written, the arrays are made every time.

    Args:
      name: What the arrays are and the version of how they are made, such as "subgraphs-v1".
      source: Identifies what they are made from: a digest, of the characters of file names.
      make: Makes the arrays.
      seconds: What is made in less is not kept.

    Returns:
      What `make` returns.
    """
    cache = cache_dir()
    if cache is None:
        return make()
    path = cache / "arrays" / f"{name}-{source}.npz"
    with contextlib.suppress(FileNotFoundError):
        try:
            arrays = _read(path)
            os.utime(path)
            return arrays
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            if isinstance(error, FileNotFoundError):
                raise
            _log.warning("%s is damaged (%s); making it again", path, one_line(error))
    started = time.monotonic()
    arrays = make()
    if time.monotonic() - started < seconds:
        return arrays
    try:
        _write(path, arrays)
        _delete_old(path.parent, name)
    except OSError as error:
        _log.warning("%s is not kept: %s", path, one_line(error))
    return arrays


def _read(path: Path) -> dict[str, np.ndarray]:
    with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as stream:
        np.savez(stream, allow_pickle=False, **arrays)


def _delete_old(folder: Path, name: str) -> None:
    def age(path: Path) -> float:
        return time.time() - path.stat().st_mtime

    with contextlib.suppress(OSError):  # another process may delete them at the same time
        files = sorted(folder.glob(f"{name}-*.npz"), key=age)
        left_behind = [path for path in folder.glob(".*.npz") if age(path) > _STALE]
        for path in (*files[_KEPT:], *left_behind):
            path.unlink()
