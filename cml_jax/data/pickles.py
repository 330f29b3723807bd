"""Pickles from outside: an allow-list of what they may ask for, so that none of them runs code."""

import io
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cml_jax.data.files import one_line
from cml_jax.data.types import DataError

_PLAIN = re.compile(r"[biufSU]\d{1,6}")


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
        if path.stat().st_size > max_bytes:
            raise DataError(f"{path} has over {max_bytes} bytes: replace it with a good copy")
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): correct it") from error
    return unpickle_bytes(content, path, also)


def unpickle_bytes(
    content: bytes, path: Path, also: Mapping[tuple[str, str], Any] | None = None
) -> Any:
    """Reads a pickle as `unpickle` does, from what a file held.

    Args:
      content: The pickle.
      path: The file, for messages.
      also: More that it may ask for: (module, name) to what it gets.

    Raises:
      DataError: The content is damaged, or asks for anything else.
    """
    allowed = _numpy() | dict(also or {})

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


def _numpy() -> dict[tuple[str, str], Any]:
    """What pickles of NumPy ask for, made anew: a pickle may change what it has got.

    NumPy's own `dtype` takes any state: one that takes numbers for pointers crashes, or worse.
    """

    class Dtype:
        def __init__(self, code: Any, *_: Any):
            if not isinstance(code, str) or not _PLAIN.fullmatch(code):
                raise pickle.UnpicklingError(f"has an array of {code!r}")
            self.dtype = np.dtype(code)

        def __setstate__(self, state: Any):
            self.dtype = self.dtype.newbyteorder(state[1])

    class Array(np.ndarray):
        def __setstate__(self, state: Any):
            _, shape, dtype, fortran, content = state
            super().__setstate__((1, shape, dtype.dtype, fortran, content))

    def reconstruct(*_: Any) -> np.ndarray:
        return Array(0, np.uint8)

    def scalar(dtype: Any, content: Any) -> Any:
        content = content.encode("latin1") if isinstance(content, str) else content
        return np.frombuffer(content, dtype.dtype, 1)[0]

    def from_buffer(content: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> np.ndarray:
        return np.frombuffer(content, dtype.dtype).reshape(shape, order=order)

    allowed: dict[tuple[str, str], Any] = {
        ("_codecs", "encode"): _encode,
        ("numpy", "ndarray"): "ndarray",  # only ever handed to `reconstruct`
        ("numpy", "dtype"): Dtype,
    }
    for core in ("numpy.core", "numpy._core"):
        allowed[f"{core}.multiarray", "_reconstruct"] = reconstruct
        allowed[f"{core}.multiarray", "scalar"] = scalar
        allowed[f"{core}.numeric", "_frombuffer"] = from_buffer
    return allowed


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError(f"encodes as {encoding!r}")
    return text.encode("latin1")
