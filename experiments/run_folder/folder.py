"""The files in a run's folder: their names, and how they are written and read.

config.json         the settings that the run was started with
data.json           the digest of the data that it was trained on
metrics.jsonl       one report a line
results.json        the final test
report.html, .md    the run on a page
report/             pictures of the page
task_values.npz     what every test task got
confusion.json      which classes of the test are confused most
lock                the process that is at work in the folder
last/, best/        checkpoints: to resume from, and to test
tensorboard/        the reports for TensorBoard
learning_curve.png  the reports as a picture
fits.png            predictions on the first test tasks (regression)
analysis.json       what `experiments.analyze` found
analysis/           its pictures
"""

import contextlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CONFIG = "config.json"
DATA = "data.json"
METRICS = "metrics.jsonl"
RESULTS = "results.json"
REPORT, REPORT_MARKDOWN, REPORT_PICTURES = "report.html", "report.md", "report"
TASK_VALUES = "task_values.npz"
CONFUSION = "confusion.json"
LOCK = "lock"
LAST, BEST = "last", "best"
TENSORBOARD = "tensorboard"
LEARNING_CURVE = "learning_curve.png"
FITS = "fits.png"
ANALYSIS, ANALYSIS_PICTURES = "analysis.json", "analysis"

Row = dict[str, float | None]

_MOST_JSON, _MOST_ROWS = 2**26, 2**30  # bytes that are read of a file
_LONGEST = 3600  # bytes of a path; the system's limit is 4096, and checkpoints add to it


def check_workdir(path: str | os.PathLike) -> Path:
    """Expands a leading `~` and checks that a run can keep its files in this folder.

    Args:
      path: The folder; it may not exist yet.

    Returns:
      The path, expanded.

    Raises:
      ValueError: There is no such home folder, or the path is an address, names a file, is too
        long, or is not text in UTF-8, in which checkpoints and reports cannot be written.
    """
    text = os.fsdecode(path)
    shown = ascii(text)[1:-1] if not text.isprintable() else text
    if "://" in text:
        raise ValueError(
            f"--workdir={shown} is an address, not a folder: mount it, or copy it later"
        )
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(
            f"--workdir={shown} is not UTF-8 text, which checkpoints need: choose another folder, "
            "or another locale, as in LC_ALL=C.UTF-8"
        ) from None
    if "\0" in text:
        raise ValueError(f"--workdir={shown} has a null character: leave it out")
    try:
        folder = Path(text).expanduser()
    except RuntimeError:
        name = Path(text).parts[0]
        raise ValueError(
            f"--workdir={shown}: no home folder is known for {name}: write the whole path"
        ) from None
    absolute = os.fsencode(Path.cwd() / folder)
    if len(absolute) > _LONGEST or max(map(len, absolute.split(b"/"))) > 255:
        raise ValueError(
            f"--workdir={shown[:40]}... is too long: choose one of at most 255 bytes a name and "
            f"{_LONGEST} in all"
        )
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--workdir={shown} is a file: choose a folder")
    return folder


def read_rows(workdir: str | os.PathLike) -> list[Row]:
    """Reads the reports of a run, without a last line that was cut short.

    Args:
      workdir: The run's folder; a run without reports has no rows.

    Returns:
      One dict per report, each with an integer "step"; other values are floats or None.

    Raises:
      ValueError: A whole line is not a report, or the file cannot be read.
    """
    path = Path(workdir, METRICS)
    try:
        data = _read_bytes(path, _MOST_ROWS)
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
            raise ValueError(f"{path}, line {number} is not a report: delete this line") from None
        rows.append(row)
    return rows


def write_json(path: str | os.PathLike, value: Any, indent: int = 2) -> None:
    """Writes a JSON file that is there either whole or not at all.

    Args:
      path: The file; its folder is made.
      value: What `json.dumps` takes; NaN and infinities become null.
      indent: Spaces for each level.

    Raises:
      OSError: The file could not be written; the message is one line, without an errno.
    """
    text = json.dumps(finite(value), indent=indent, allow_nan=False)
    replace_file(Path(path), (text + "\n").encode())


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """Reads what `write_json` wrote.

    Args:
      path: The file.

    Returns:
      The JSON object.

    Raises:
      ValueError: It is not a JSON object, or cannot be read.
    """
    try:
        value = json.loads(_read_bytes(path, _MOST_JSON))
    except (OSError, ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ValueError(f"{path} is unreadable: restore it, or delete it to have it made again")
    return value


def finite(value: Any) -> Any:
    """Replaces NaN and infinities, which JSON does not have, by None.

    >>> finite({"loss": float("nan"), "steps": (1, 2)})
    {'loss': None, 'steps': [1, 2]}
    """
    if isinstance(value, Mapping):
        return {name: finite(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def replace_file(path: Path, data: bytes) -> None:
    """Writes a file beside `path` and moves it there: a reader sees the old or the new one whole.

    Args:
      path: The file; its folder is made.
      data: Its new content.

    Raises:
      OSError: It could not be written.
    """
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


def remove_temporary_files(workdir: Path) -> None:
    """Removes what `replace_file` left in the folder where a process was killed as it wrote.

    Args:
      workdir: The run's folder, locked: another process may be writing just now.
    """
    for pattern in (".*.json*.*", f".{TASK_VALUES}.*", ".report.*.*"):
        for left in workdir.glob(pattern):
            left.unlink()


def _read_bytes(path: str | os.PathLike, most: int) -> bytes:
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size > most:
            raise ValueError(f"{path} has more than {most} bytes: restore it")
        return file.read()
