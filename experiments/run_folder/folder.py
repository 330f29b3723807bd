"""Files that are whole or absent, and their readers."""

import contextlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Row = dict[str, float | None]


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes a JSON file that is there either whole or not at all.

    Args:
      path: the file; its folder is made.
      value: what `json.dumps` takes; NaN and infinities become null.

    Raises:
      OSError: it could not be written; one line, without an errno.
    """
    text = json.dumps(finite(value), indent=2, allow_nan=False)
    replace_file(Path(path), (text + "\n").encode())


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """Reads what `write_json` wrote.

    Args:
      path: the file.

    Raises:
      ValueError: it is not a JSON object, or cannot be read.
    """
    try:
        value = json.loads(_read_bytes(path, 2**26))
    except (OSError, ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ValueError(f"{path} is unreadable: restore it, or delete it to have it made again")
    return value


def read(path: str | os.PathLike) -> list[Row]:
    """Reads the rows of a `MetricsFile`, without a last line that was cut short.

    Args:
      path: a file of JSON lines; it may be missing.

    Returns:
      One dict a report, each with an integer "step"; other values are floats or None.

    Raises:
      ValueError: a whole line is not a report.
    """
    try:
        data = _read_bytes(path, 2**30)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): correct it") from None
    rows = []
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        try:
            row = json.loads(line)
            numbers = all(type(value) in (int, float, type(None)) for value in row.values())
            if type(row["step"]) is not int or not numbers:
                raise TypeError
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ValueError(f"{path}, line {number} is no report: delete this line") from None
        rows.append(row)
    return rows


def finite(value: Any) -> Any:
    """The value with NaN and infinities, which JSON does not have, as None."""
    if isinstance(value, Mapping):
        return {name: finite(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read_bytes(path: str | os.PathLike, most: int) -> bytes:
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size > most:
            raise ValueError(f"{path} has more than {most} bytes: restore it")
        return file.read()


def replace_file(path: Path, data: bytes) -> None:
    # Named by process: every process of a distributed run may write the same file.
    temporary = path.with_name(f".{path.name}.{os.uname().nodename}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(f"cannot write {path} ({error.strerror}): choose another --workdir") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
