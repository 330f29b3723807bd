"""What a run reports: JSON lines (the source of truth), and TensorBoard."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.machine import processes
from experiments.run_folder.folder import METRICS, TENSORBOARD, Row, finite, read_rows, replace_file


class MetricsFile:
    """Appends one JSON line per report; only process 0 of a distributed run writes."""

    def __init__(self, workdir: str | os.PathLike, resume_step: int = 0, tensorboard: bool = False):
        """Opens the file and drops the reports of steps after the checkpoint that is resumed from.

        Args:
          workdir: The run's folder.
          resume_step: The step of the checkpoint; later reports are dropped: those steps will be
            made again.
          tensorboard: Whether to write TensorBoard files too (needs tensorboardX).

        Raises:
          ValueError: A line in the file is not a report.
        """
        self._file = self._board = None
        if not processes.is_process_zero():
            return
        path = Path(workdir, METRICS)
        kept = [row for row in read_rows(workdir) if row["step"] <= resume_step]
        replace_file(path, b"".join(map(_line, kept)))
        # Unbuffered and appended in one call: a line is in the file or, at worst, cut at the end.
        self._file = open(path, "ab", buffering=0)
        if tensorboard:
            from tensorboardX import SummaryWriter

            self._board = SummaryWriter(str(Path(workdir, TENSORBOARD)), purge_step=resume_step + 1)

    def write(self, step: int, values: Mapping[str, Any]) -> Row:
        """Appends a report.

        Args:
          step: How many meta-steps have been made.
          values: Scalars by name; NaN and infinities are written as null.

        Returns:
          The row: `{"step": step, ...}` with floats or None.

        Raises:
          OSError: The line could not be written whole.
        """
        row = {"step": int(step)} | {name: float(value) for name, value in values.items()}
        row = finite(row)
        if self._file is not None and self._file.write(line := _line(row)) < len(line):
            raise OSError(f"cannot write {self._file.name} (No space left): free some")
        if self._board is not None:
            for name, value in row.items():
                if name != "step" and value is not None:
                    self._board.add_scalar(name, value, step)
        return row

    def sync(self) -> None:
        """Waits until all lines are on the disk: a checkpoint must not be ahead of the reports."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the files."""
        for file in (self._file, self._board):
            if file is not None:
                file.close()


def _line(row: Row) -> bytes:
    return (json.dumps(row, allow_nan=False) + "\n").encode()
