"""Pickles from outside: an allow-list of what they may ask for, so that none of them runs code."""

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cml_jax.data.files import one_line
from cml_jax.data.types import DataError


def unpickle(path: Path, max_bytes: int, also: Mapping[tuple[str, str], Any] | None = None) -> Any:
    """Reads a pickle of plain Python values and NumPy arrays.

    Args:
      path: The file.
      max_bytes: How large it may be.
      also: More that it may ask for: (module, name) to what it gets.

    Raises:
      DataError: The file cannot be read, is too large, damaged, or asks for anything else.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(max_bytes + 1)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): correct it") from error
    if len(content) > max_bytes:
        raise DataError(f"{path} has over {max_bytes} bytes: replace it with a good copy")

    allowed: dict[tuple[str, str], Any] = {
        ("_codecs", "encode"): _encode,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }
    reconstruct, scalar = np.zeros(0).__reduce__()[0], np.int64(0).__reduce__()[0]
    from_buffer = np.zeros(0).__reduce_ex__(5)[0]
    for core in ("numpy.core", "numpy._core"):
        allowed[f"{core}.multiarray", "_reconstruct"] = reconstruct
        allowed[f"{core}.multiarray", "scalar"] = scalar
        allowed[f"{core}.numeric", "_frombuffer"] = from_buffer
    allowed |= also or {}

    class Unpickler(pickle.Unpickler):
        def find_class(self, module, name):
            if (module, name) not in allowed:
                raise pickle.UnpicklingError(f"asks for {module}.{name}")
            return allowed[module, name]

    try:
        return Unpickler(io.BytesIO(content), fix_imports=False, encoding="latin1").load()
    except Exception as error:  # a damaged pickle raises nearly anything
        raise DataError(
            f"{path} is not a pickle of plain arrays ({one_line(error)}): replace it with a "
            "good copy"
        ) from error


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError(f"encodes as {encoding!r}")
    return text.encode("latin1")
