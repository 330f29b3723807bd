"""What a run reports: JSON lines (the source of truth), progress on the terminal, TensorBoard."""

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments import hosts

Row = dict[str, float | None]


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes a JSON file that is there either whole or not at all.

    Args:
      path: the file; its folder is made.
      value: what `json.dumps` takes; NaN and infinities become null.

    Raises:
      OSError: it could not be written; one line, without an errno.
    """
    text = json.dumps(_finite(value), indent=2, allow_nan=False)
    _replace(Path(path), (text + "\n").encode())


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


class MetricsFile:
    """Appends one JSON line a report; only process 0 of a distributed run writes."""

    def __init__(self, path: str | os.PathLike, resume_step: int = 0, tensorboard: bool = False):
        """Opens the file and drops what lies behind the checkpoint that training resumes from.

        Args:
          path: of the JSON lines; TensorBoard files go into a folder `tensorboard` beside it.
          resume_step: later reports are dropped: they will be made again.
          tensorboard: also write TensorBoard files (needs tensorboardX).

        Raises:
          ValueError: a line in the file is not a report.
        """
        self._file = self._board = None
        if not hosts.is_first():
            return
        path = Path(path)
        kept = [row for row in read(path) if row["step"] <= resume_step]
        _replace(path, b"".join(map(_line, kept)))
        # Unbuffered and appended in one call: a line is in the file or, at worst, cut at the end.
        self._file = open(path, "ab", buffering=0)
        if tensorboard:
            from tensorboardX import SummaryWriter

            folder = str(path.parent / "tensorboard")
            self._board = SummaryWriter(folder, purge_step=resume_step + 1)

    def write(self, step: int, values: Mapping[str, Any]) -> Row:
        """Appends a report.

        Args:
          step: meta-steps made so far.
          values: scalars by name; NaN and infinities are written as null.

        Returns:
          The row: `{"step": step, ...}` with floats or None.
        """
        row = {"step": int(step)} | {name: float(value) for name, value in values.items()}
        row = _finite(row)
        if self._file is not None and self._file.write(line := _line(row)) < len(line):
            raise OSError(f"cannot write {self._file.name} (No space left): free some")
        if self._board is not None:
            for name, value in row.items():
                if name != "step" and value is not None:
                    self._board.add_scalar(name, value, step)
        return row

    def sync(self) -> None:
        """Waits for the disk: a checkpoint must not be ahead of the reports."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the files."""
        for file in (self._file, self._board):
            if file is not None:
                file.close()


class Progress:
    """Tells a person how far training is: a bar on a terminal, elsewhere a line now and then."""

    def __init__(self, total: int, start: int, log_every_seconds: float):
        """Starts the clock; only process 0 of a distributed run speaks.

        Args:
          total: meta-steps of the whole run.
          start: meta-steps already made.
          log_every_seconds: between lines where there is no terminal.
        """
        self._total, self._every = total, log_every_seconds
        self._silent = not hosts.is_first()
        self._spoken = time.monotonic()
        self._first: tuple[float, int] | None = None
        self._bar = None
        if not self._silent and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=start, unit="step", dynamic_ncols=True)

    def update(self, step: int, row: Mapping[str, float | None]) -> None:
        """Shows a report; validations and the last step are always shown.

        Args:
          step: meta-steps made so far.
          row: what `MetricsFile.write` returned.
        """
        if self._bar is not None:
            self._bar.set_postfix_str(describe(row), refresh=False)
            self._bar.update(step - self._bar.n)
            return
        now = time.monotonic()
        self._first = self._first or (now, step)  # the clock of the ETA: compilation lies before
        validated = any(name.startswith("validation/") for name in row)
        due = now - self._spoken >= self._every or validated or step >= self._total
        if self._silent or not due:
            return
        self._spoken = now
        line = f"step {step}/{self._total}  {describe(row)}"
        if step > self._first[1]:
            rate = (step - self._first[1]) / (now - self._first[0])
            line += f"  {duration((self._total - step) / rate)} left"
        print(line, file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """Prints a line without spoiling the bar."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        elif not self._silent:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()


def describe(row: Mapping[str, float | None]) -> str:
    """One report in words: `loss 0.412  accuracy 87.3%  validation accuracy 88.1%  950 tasks/s`.

    Args:
      row: of a `MetricsFile`; names other than loss, accuracy, mse and the rate are left out.
    """
    words = []
    for name, value in row.items():
        split, _, metric = name.rpartition("/")
        if metric not in ("loss", "accuracy", "mse") or split not in ("", "train", "validation"):
            continue
        if metric == "loss" and value == row.get(f"{split}/mse", math.nan):
            continue
        label = f"{split} {metric}" if split == "validation" else metric
        if value is None:
            words.append(f"{label} not finite")
        elif metric == "accuracy":
            words.append(f"{label} {100 * value:.1f}%")
        else:
            words.append(f"{label} {value:.3g}")
    if rate := row.get("tasks_per_second"):
        words.append(f"{rate:,.0f} tasks/s" if rate >= 10 else f"{rate:.2g} tasks/s")
    return "  ".join(words)


def duration(seconds: float) -> str:
    """`2h05m`, `3m20s` or `41s`."""
    seconds = round(max(seconds, 0))
    if seconds >= 3600:
        return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"
    return f"{seconds // 60}m{seconds % 60:02d}s" if seconds >= 60 else f"{seconds}s"


def _finite(value: Any) -> Any:
    """The value with NaN and infinities, which JSON does not have, as None."""
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read_bytes(path: str | os.PathLike, most: int) -> bytes:
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size > most:
            raise ValueError(f"{path} has more than {most} bytes: restore it")
        return file.read()


def _line(row: Row) -> bytes:
    return (json.dumps(row, allow_nan=False) + "\n").encode()


def _replace(path: Path, data: bytes) -> None:
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
