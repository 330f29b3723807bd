"""Runs of `experiments` in a process of their own, for a bounded time."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.report import cells
from experiments.run_folder import folder
from experiments.studies import STUDIES
from experiments.studies.study import cells_of

TO_STOP = 20.0  # seconds that a run has to write its last checkpoint
_GO_ON = "the time is over: give the same command again, and it goes on"


def for_a_time(
    arguments: Sequence[str], log: Path, end: float, look: Callable[[], None] | None = None
) -> bool:
    """Runs Python until the program ends, or asks it to stop.

    Args:
      arguments: What follows `python` on the command line.
      log: What the program prints is added to this file.
      end: The time of `time.monotonic` at which the program must have stopped.
      look: Called while it runs, and once when it has ended.

    Returns:
      Whether it ended by itself.

    Raises:
      RuntimeError: It failed.
    """
    with open(log, "a") as file:
        process = subprocess.Popen([sys.executable, *arguments], stdout=file, stderr=file)
        try:
            while process.poll() is None and time.monotonic() < end - TO_STOP:
                time.sleep(0.2)
                if look:
                    look()
            ended = process.poll() is not None
            if not ended:
                process.send_signal(signal.SIGTERM)
                process.wait(TO_STOP)
        except subprocess.TimeoutExpired:
            pass
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if look:
        look()
    if ended and process.returncode:
        last = (log.read_text().strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"python {' '.join(arguments)} failed ({process.returncode}): {last}")
    return ended


def to_target(arguments: Sequence[str], target: float, out: Path, end: float) -> dict:
    """Runs `experiments.main` and notes when its validation accuracy first reaches `target`.

    Args:
      arguments: Its flags, without the folder.
      target: The accuracy, 0 to 1.
      out: Folder in which the run's own folder, "run", is made.
      end: The time of `time.monotonic` at which it must have stopped.

    Returns:
      What is stored of it. "reached" is None where it did not.

    Raises:
      RuntimeError: It failed.
    """
    workdir = out / "run"
    if workdir.exists():  # of an earlier call, cut short: it would be resumed
        shutil.rmtree(workdir)
    reached, started = [], time.monotonic()

    def look():
        rows = [row for row in folder.read_rows(workdir) if "validation/accuracy" in row]
        first = next((row for row in rows if (row["validation/accuracy"] or 0) >= target), None)
        if first and not reached:
            reached.append(first | {"wall_seconds": time.monotonic() - started})

    for_a_time(
        ["-m", "experiments.main", *arguments, f"--workdir={workdir}"], out / "run.log", end, look
    )
    results = workdir / folder.RESULTS
    rows = folder.read_rows(workdir)
    return {
        "command": " ".join(["python", "-m", "experiments.main", *arguments]),
        "target": target,
        "reached": reached[0] if reached else None,
        "wall_seconds": time.monotonic() - started,
        "validations": [row for row in rows if "validation/accuracy" in row],
        "test": json.loads(results.read_text())["test"] if results.exists() else None,
    }


def study_cells(
    name: str, done: dict[str, dict], settings: Sequence[str], out: Path, end: float
) -> None:
    """Makes the runs of a study, one after the other, and goes on with them the next time.

    A run's folder is in OUT/cells. When it has ended it is stored in OUT/NAME.json, which has the
    form of docs/results/NAME.json.

    Args:
      name: Name of the study.
      done: Label to how far the run got, which is added to: {"step", "ended", "wall_seconds"}.
      settings: More settings of each run, as on the command line without `--config.`.
      out: The folder.
      end: The time of `time.monotonic` at which all must have stopped.

    Raises:
      RuntimeError: A run failed, or the time was over before the last had ended.
    """
    study = STUDIES[name]
    for cell in cells_of(name, study):
        own = done.setdefault(cell.label, {"step": 0, "ended": False, "wall_seconds": 0.0})
        if own["ended"]:
            continue
        if end - time.monotonic() < 3 * TO_STOP:
            raise RuntimeError(_GO_ON)
        workdir = out / "cells" / cell.workdir.relative_to("runs")
        workdir.parent.mkdir(parents=True, exist_ok=True)
        command = study.command(cell.label, (*cell.settings, *settings))
        started = time.monotonic()
        try:
            ended = for_a_time([*command, f"--workdir={workdir}"], workdir.with_suffix(".log"), end)
        finally:
            own["wall_seconds"] += time.monotonic() - started
            own["step"] = max((row["step"] for row in folder.read_rows(workdir)), default=0)
        if not ended:
            raise RuntimeError(_GO_ON)
        own["ended"] = True
        told = f"python {' '.join(command)}"
        cells.store(out / f"{name}.json", cell.label, cell.repeat, told, workdir, True)
