"""Arrays in one npz file that is written as a whole or not at all, and verified when read."""

import hashlib
import io
import os
import re
import tempfile
from pathlib import Path

import numpy as np

from cml_jax.data.files import one_line, read_zip
from cml_jax.data.types import DataError


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays and their SHA-256; two processes at once leave the file of the last.

    Args:
      path: the npz; its folder is created.
      arrays: no objects; not the name `sha256`.

    Raises:
      OSError: the folder cannot be written; nothing is left in it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, because os.replace is atomic only inside a file system.
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with open(descriptor, "wb") as stream:
            np.savez(stream, **arrays, sha256=np.array(_digest(arrays)))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def read_arrays(path: Path, *, max_bytes: int) -> dict[str, np.ndarray]:
    """Reads what `write_arrays` wrote.

    Args:
      path: the npz.
      max_bytes: of the file.

    Raises:
      DataError: the file is damaged, or was not written by `write_arrays`.
    """
    arrays = read_npz(path, r"(\w+)\.npy", max_members=16, max_bytes=max_bytes)
    digest = arrays.pop("sha256", None)
    if digest is None or str(digest) != _digest(arrays):
        raise DataError(f"{path} does not match its SHA-256: delete it")
    return arrays


def read_npz(
    path: Path, members: str, *, max_members: int, max_bytes: int, **limits: int
) -> dict[str, np.ndarray]:
    """Reads arrays of any npz, never objects.

    Args:
      path: the npz.
      members: a pattern of the members to read, whose first group is the array's name.
      max_members, max_bytes, limits: as in `read_zip`.

    Raises:
      DataError: the file is damaged or goes beyond the limits.
    """
    arrays = {}
    members = read_zip(
        path,
        re.compile(members),
        max_members=max_members,
        max_member_bytes=max_bytes,
        max_bytes=max_bytes,
        **limits,
    )
    try:
        for match, content in members:
            stream = io.BytesIO(content)
            arrays[match[1]] = np.lib.format.read_array(stream, allow_pickle=False)
    except DataError:
        raise
    except Exception as error:  # a header from outside is an expression that numpy evaluates
        raise DataError(f"{path} is damaged ({one_line(error)}): delete it") from error
    return arrays


def _digest(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
