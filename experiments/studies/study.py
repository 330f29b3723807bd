"""What a study is made of."""

import re
from pathlib import Path
from typing import NamedTuple

_RUNS = Path("runs")


class Study(NamedTuple):
    """Runs that belong together, with one table and one picture.

    What they are for and what was found is in docs/results/NAME.md.

    Attributes:
      config: The value of `--config` of all runs.
      runs: Label to the settings of a run, as on the command line without `--config.`.
      curve: The number of metrics.jsonl that the picture shows; "" draws the test results.
      beside: More rows of a table with columns: label to column to text.
      repeats: Settings, each of which makes one run of every label; intervals are over them.
      base: The row that a row is compared with, repeat by repeat: row to row.
      by_steps: Whether the columns of the table are the numbers of inner steps.
      probes: Label to the settings of a run of `experiments.linear_probing`.
    """

    config: str
    runs: dict[str, tuple[str, ...]]
    curve: str = ""
    beside: dict[str, dict[str, str]] = {}
    repeats: tuple[tuple[str, ...], ...] = ((),)
    base: dict[str, str] = {}
    by_steps: bool = False
    probes: dict[str, tuple[str, ...]] = {}

    def command(self, label: str) -> list[str]:
        """What follows `python` on the command line of a run, but for its repeat and folder."""
        module = "experiments.main" if label in self.runs else "experiments.linear_probing"
        settings = self.runs.get(label) or self.probes.get(label, ())
        return ["-m", module, f"--config={self.config}", *(f"--config.{o}" for o in settings)]


class Cell(NamedTuple):
    """One run of a study.

    Attributes:
      label: Its label.
      repeat: The number of its repeat, as text.
      command: What follows `python` on the command line.
      workdir: Its folder.
    """

    label: str
    repeat: str
    command: list[str]
    workdir: Path


def cells_of(name: str, study: Study) -> list[Cell]:
    """All runs of a study.

    Args:
      name: Name of the study.
      study: Its runs.
    """
    cells = []
    for label in (*study.runs, *study.probes):
        folder = _RUNS / name / file_name(label)
        for i, settings in enumerate(study.repeats):
            workdir = folder / str(i) if len(study.repeats) > 1 else folder
            command = [*study.command(label), *(f"--config.{o}" for o in settings)]
            cells.append(Cell(label, str(i), command, workdir))
    return cells


def file_name(label: str) -> str:
    """
    >>> file_name("5-way 1-shot: MAML++ + CML")
    '5-way-1-shot-maml-plus-plus-cml'
    """
    return re.sub(r"[^a-z0-9.]+", "-", label.lower().replace("++", "-plus-plus"))
