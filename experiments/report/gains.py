"""What CML and gradient agreement gain: every paired difference of the studies, in one picture."""

import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.report import cells
from experiments.report.plots import COLORS, frame, new_figure
from experiments.report.table import markdown, paired
from experiments.run_folder.results import Results, Test, is_share
from experiments.studies.study import SAME_RATES, Study

# What a label has more than that of its base; the longest first.
_ADDED = {
    " + CML + agreement": "CML + agreement",
    " + CML": "CML",
    " + agreement": "agreement",
}
_DAGGERS = {
    "co-learner (paper)": "CML-dagger, paper",
    "co-learner (released code)": "CML-dagger, released",
}
_KINDS = ("CML", "CML-dagger, paper", "CML-dagger, released", "agreement", "CML + agreement")
_DRAWN = ("CML", "CML-dagger, released", "agreement")
_ALIKE = ", 4 tasks a step"  # how agreement, which needs several tasks, and its base are run
_FARTHEST = 60.0  # what is beyond is drawn there
TITLE = "What CML, its co-learner in the head's place, and agreement gain: every paired difference"
_NOTE = (
    "Every pair of a row and the same row without CML, without agreement or without both: the same "
    "test tasks, the same seeds, after as many inner steps as in validation; all queries at once "
    "where it does not say otherwise. Of nodes, the seeds are cuts of the classes. Ahead and "
    "behind: by more than the 95% interval, which one pair in twenty is by chance."
)


class Gain(NamedTuple):
    """A paired difference, positive where what was added is better.

    Attributes:
      row: What it was added to, with its data.
      added: What was added, one of "CML", "CML-dagger, paper", "CML-dagger, released", "agreement"
        and "CML + agreement".
      mean: Points of accuracy; of an error, percent of the base's error.
      half: Half-width of the 95% interval, in the same unit.
      seeds: The number of seeds that the interval is over, or 1: over the tasks of one.
      alone: Whether each query was predicted alone, with the support, and not all at once.
    """

    row: str
    added: str
    mean: float
    half: float
    seeds: int
    alone: bool = False

    @property
    def verdict(self) -> str:
        """ "ahead", "inside" or "behind"."""
        return "inside" if abs(self.mean) <= self.half else "ahead" if self.mean > 0 else "behind"


def gains(studies: Mapping[str, Study], names: Mapping[str, str], results: Path) -> list[Gain]:
    """Every paired difference that is stored.

    Args:
      studies: Name to study.
      names: Name of a study to what the rows of its methods begin with.
      results: The folder of the studies' stored runs.
    """
    found = []
    for name, beginning in names.items():
        stored = cells.load_ended(results / f"{name}.json")
        runs = {label: cells.results_of(e) for label, e in stored.items()}
        for label in studies[name].runs:
            added = next((mark for mark in _ADDED if mark in label), "")
            base = label.replace(added, "", 1)
            base = f"{base}{SAME_RATES}" if f"{base}{SAME_RATES}" in runs else base
            if added and label in runs and base in runs:
                column, _, method = base.rpartition(": ")
                row = f"{' '.join(filter(None, (beginning, column)))}: {method}"
                row = row.removesuffix(_ALIKE).removesuffix(SAME_RATES)
                found += _of_run(row, _ADDED[added], runs[label], runs[base])
    return found


def _of_run(row: str, added: str, run: Results, base: Results) -> list[Gain]:
    """The gains of one run: of the meta-learner, and of its co-learner in the head's place."""
    found = []
    for who, alone in itertools.product(("meta-learner", *_DAGGERS), (False, True)):
        test, reference = _headline(run, who, alone), _headline(base, "meta-learner", alone)
        if test is None or reference is None or (who in _DAGGERS and added != "CML"):
            continue
        if difference := paired(run.metric, test, reference):
            scale = 100.0 if is_share(run.metric) else -100.0 / reference[run.metric]
            mean, half = scale * difference[run.metric], abs(scale) * difference["ci95"]
            seeds = len(test.get("values", [0]))
            found.append(Gain(row, _DAGGERS.get(who, added), mean, half, seeds, alone))
    return found


def _headline(run: Results, who: str, alone: bool) -> Test | None:
    """The test of that predictor with the inner steps of the headline."""
    for test in run.test_all:
        same = test["predicts"] == who and test["num_steps"] == run.test["num_steps"]
        if same and test["transductive"] != alone:
            return test
    return None


def table_of(found: Sequence[Gain]) -> str:
    """How many pairs are ahead, inside their interval and behind, in Markdown.

    Args:
      found: What `gains` returns.
    """
    columns = {
        "over 3 to 10 seeds": lambda gain: gain.seeds > 1 and not gain.alone,
        "each query alone, over 3 seeds": lambda gain: gain.seeds > 1 and gain.alone,
        "over the tasks of one seed": lambda gain: gain.seeds == 1 and not gain.alone,
    }
    rows = []
    for kind in _KINDS:
        texts = []
        for belongs in columns.values():
            own = [g.verdict for g in found if g.added == kind and belongs(g)]
            counts = [own.count(verdict) for verdict in ("ahead", "inside", "behind")]
            texts.append(" / ".join(map(str, counts)) if own else "-")
        rows.append([kind, *texts])
    table = markdown(["added", *columns], rows)
    return f"Ahead / inside the interval / behind:\n\n{table}\n\n{_NOTE}"


def forest(found: Sequence[Gain], path: str | os.PathLike) -> None:
    """Draws the gains of CML, of CML-dagger and of agreement side by side, a line for each row.

    Args:
      found: What `gains` returns.
      path: The picture; its suffix is the format.
    """
    drawn = [gain for gain in found if gain.added in _DRAWN and not gain.alone]
    rows = list(dict.fromkeys(gain.row for gain in drawn))
    figure = new_figure("", (11.0, 1.2 + 0.19 * len(rows)))
    if figure is None:
        return
    every = figure.subplots(1, len(_DRAWN), sharey=True, sharex=True)
    colors = {"ahead": COLORS[0], "behind": COLORS[1], "inside": "#888888"}
    for axes, kind in zip(every, _DRAWN, strict=True):
        for gain in (gain for gain in drawn if gain.added == kind):
            ends = np.clip([gain.mean - gain.half, gain.mean + gain.half], -_FARTHEST, _FARTHEST)
            color, y = colors[gain.verdict], rows.index(gain.row)
            axes.plot(ends, [y, y], color=color, linewidth=1.2)
            axes.plot(
                np.clip(gain.mean, -_FARTHEST, _FARTHEST),
                y,
                "o",
                color=color,
                markerfacecolor=color if gain.seeds > 1 else "white",
                markersize=4.5,
            )
        axes.axvline(0, color="#000000", linewidth=0.8)
        axes.set_title(kind, fontsize=10)
        axes.set_xscale("asinh", linear_width=1.0)
        axes.set_xlim(-1.1 * _FARTHEST, 1.1 * _FARTHEST)
        ticks = [-30, -10, -3, -1, 0, 1, 3, 10, 30]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], fontsize=8)
        axes.set_xticks([], minor=True)
        frame(axes)
    every[0].set_yticks(range(len(rows)), rows, fontsize=8)
    every[0].set_ylim(len(rows) - 0.4, -0.6)
    figure.supxlabel(
        "better by: points of accuracy, of sinusoids percent of the base's error; "
        "filled over seeds, open over the tasks of one seed; all queries at once",
        fontsize=9,
    )
    figure.savefig(path, dpi=150)
