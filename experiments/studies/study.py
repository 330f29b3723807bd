"""What a study is made of."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

SAME_RATES = ", at CML's rates"  # what the row of a base is called that others are compared with
_RUNS = Path("runs")


class Study(NamedTuple):
    """Runs that belong together, with one table and one picture.

    What they are for and what was found is in docs/results/NAME.md.

    Attributes:
      config: The value of `--config` of all runs.
      runs: Label to the settings of a run, as on the command line without `--config.`; of two of
        the same name the last counts.
      curve: The number of metrics.jsonl that the picture shows; "" draws the test results.
      beside: More rows of a table with columns: label to column to text.
      repeats: Settings, each of which makes one run of every label; intervals are over them.
      base: The row that a row is compared with, repeat by repeat: row to row.
      by_steps: Whether the columns of the table are the numbers of inner steps.
      probes: Label to the settings of a run of `experiments.linear_probing`.
      tune: Label to the settings that are tuned on validation tasks before its runs, one after the
        other: setting to the values that are tried, side by side.
      tuning: Settings of the runs that tune, the same budget for every label.
      tuned_as: Label to the one whose tuned settings its runs take; others have their own.
    """

    config: str
    runs: dict[str, tuple[str, ...]]
    curve: str = ""
    beside: dict[str, dict[str, str]] = {}
    repeats: tuple[tuple[str, ...], ...] = ((),)
    base: dict[str, str] = {}
    by_steps: bool = False
    probes: dict[str, tuple[str, ...]] = {}
    tune: dict[str, dict[str, tuple[float, ...]]] = {}
    tuning: tuple[str, ...] = ()
    tuned_as: dict[str, str] = {}

    def command(self, label: str, more: Sequence[str] = ()) -> list[str]:
        """What follows `python` on the command line of a run, but for its folder.

        Args:
          label: Label of the run.
          more: Settings that are not the label's: of the repeat, and what tuning chose.
        """
        module = "experiments.main" if label in self.runs else "experiments.linear_probing"
        settings = (*(self.runs.get(label) or self.probes.get(label, ())), *more)
        last = {setting.partition("=")[0]: setting for setting in settings}  # of the same name
        return ["-m", module, f"--config={self.config}", *(f"--config.{o}" for o in last.values())]


class Cell(NamedTuple):
    """One run of a study.

    Attributes:
      label: Its label.
      repeat: The number of its repeat, as text; of a run that tunes, the setting.
      settings: Those of the repeat, or of the tuning.
      workdir: Its folder.
      tunes: Whether it tunes a setting for the runs of its label.
    """

    label: str
    repeat: str
    settings: tuple[str, ...]
    workdir: Path
    tunes: bool = False


def cells_of(name: str, study: Study) -> list[Cell]:
    """All runs of a study whose results are shown; those that others may start from come first.

    Args:
      name: Name of the study.
      study: Its runs.
    """
    cells = []
    for label in (*study.probes, *study.runs):
        folder = _RUNS / name / file_name(label)
        for i, settings in enumerate(study.repeats):
            workdir = folder / str(i) if len(study.repeats) > 1 else folder
            cells.append(Cell(label, str(i), settings, workdir))
    return cells


def starts_of(name: str, study: Study, wanted: Sequence[Cell]) -> list[Cell]:
    """The runs of linear probing that some runs start from (`init_from`).

    Args:
      name: Name of the study.
      study: Its runs.
      wanted: The runs that start from them.
    """
    settings = {setting for cell in wanted for setting in study.runs.get(cell.label, ())}
    return [
        cell
        for cell in cells_of(name, study)
        if cell.label in study.probes and f"init_from={cell.workdir.as_posix()}" in settings
    ]


def tuning_of(name: str, study: Study) -> list[list[Cell]]:
    """The runs that tune: first those of the first setting of every label, and so on.

    Args:
      name: Name of the study.
      study: Its runs.
    """
    rounds: list[list[Cell]] = []
    for label, tried in study.tune.items():
        for i, (key, values) in enumerate(tried.items()):
            values = ",".join(map(str, values))
            settings = (*study.tuning, f"sweep={key}", f"sweep_values={values}")
            workdir = _RUNS / name / f"{file_name(label)}-tune-{key}"
            rounds += [[]] * (i == len(rounds))
            rounds[i] = [*rounds[i], Cell(label, key, settings, workdir, tunes=True)]
    return rounds


def file_name(label: str) -> str:
    """
    >>> file_name("5-way 1-shot: MAML++ + CML")
    '5-way-1-shot-maml-plus-plus-cml'
    """
    return re.sub(r"[^a-z0-9.]+", "-", label.lower().replace("++", "-plus-plus"))
