"""Tables of results, in Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.run_folder.results import Results, Test, interval, is_share

LONG_NAMES = {"mse": "mean squared error"}
Cells = dict[str, dict[str, list[Test]]]

_CML = " + CML"
_COLUMNS = {
    "meta-learner": "CML",
    "co-learner (paper)": "CML-dagger, paper",
    "co-learner (released code)": "CML-dagger, released",
}


def of_tests(runs: Mapping[str, Results]) -> str:
    """A table with a row for every test of every run.

    Args:
      runs: Label to results, all of one metric.
    """
    metric = metric_of(runs)
    modes = any(not test["transductive"] for run in runs.values() for test in run.test_all)
    columns = ["all queries at once", "each query alone"]
    header = ["run", "predicts", "inner steps"]
    header += columns if modes else [LONG_NAMES.get(metric, metric)]
    rows = []
    for label, run in runs.items():
        cells: dict[tuple[str, int], list[str]] = {}
        for test in run.test_all:
            cell = cells.setdefault((test["predicts"], test["num_steps"]), [])
            cell.append(number(metric, test))
        for (who, steps), cell in cells.items():
            cell += ["-"] * (1 + modes - len(cell))  # one was not asked for, or there is one way
            rows.append([label, who, str(steps), *cell])
    return markdown(header, rows)


def of_methods(
    runs: Mapping[str, Results],
    base: Mapping[str, str] | None = None,
    beside: Mapping[str, Mapping[str, str]] | None = None,
    by_steps: bool = False,
) -> str:
    """A table with a row for every method; its columns are those of `cells_of`.

    Args:
      runs: Label to results, all of one metric.
      base: Row to the row that it is compared with, pair by pair of its repeats.
      beside: More rows, such as published numbers: label to column to text.
      by_steps: As in `cells_of`.
    """
    metric, base = metric_of(runs), base or {}
    cells = cells_of(runs, by_steps)
    columns = list(dict.fromkeys(column for row in cells.values() for column in row))
    rows = []
    for method, row in cells.items():
        compared = cells.get(base.get(method.partition(": ")[0], ""), {})
        texts = [_cell(metric, row.get(c, []), compared.get(c, [])) for c in columns]
        rows.append([method, *texts])
    for method, texts in (beside or {}).items():
        rows.append([method, *(texts.get(column, "-") for column in columns)])
    table = markdown(["method", *columns], rows)
    notes = []
    if any(len(tests) > 1 for row in cells.values() for tests in row.values()):
        notes.append("All queries at once; in parentheses each query alone.")
    if base:
        notes.append(
            "In parentheses with a sign the difference from the base, paired: over repeats, or "
            "over the tasks of one run."
        )
    return "\n\n".join([table, " ".join(notes)] if notes else [table])


def of_commands(
    runs: Mapping[str, Results], commands: Mapping[str, str], far: Mapping[str, str]
) -> str:
    """A table with the command of every run, how far it got, its best step and its time.

    Args:
      runs: Label to results.
      commands: Label to command.
      far: Label to the steps that were trained, in words.
    """
    rows = []
    for label, run in runs.items():
        each = run.runs or [{"best_step": run.validation["step"]}]
        steps = span([one["best_step"] for one in each])
        minutes = "-" if run.wall_seconds is None else f"{run.wall_seconds / 60:.1f}"
        rows.append([label, far[label], steps, minutes, f"`{commands[label]}`"])
    return markdown(["run", "steps", "best step", "minutes of training", "command"], rows)


def of_tuning(tuned: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """A table of what tuning tried, what it reached in validation and what it chose; "" for none.

    Args:
      tuned: Label to setting to "reached" (value to the mean over seeds), "best", "steps" and
        "metric".
    """
    rows = []
    for label, settings in tuned.items():
        for name, found in settings.items():
            each = [
                f"{'**' * (float(value) == found['best'])}{value}: {_mean(found['metric'], mean)}"
                f"{'**' * (float(value) == found['best'])}"
                for value, mean in found["reached"].items()
            ]
            rows.append([label, f"`{name}`", ", ".join(each), f"{found['steps']:,}"])
    if not rows:
        return ""
    return "Tuned on validation tasks:\n\n" + markdown(
        ["run", "setting", "values and what they reached", "steps"], rows
    )


def cells_of(runs: Mapping[str, Results], by_steps: bool = False) -> Cells:
    """Row to column to its tests, of the meta-learner by inner steps or of all after the most.

    A label "COLUMN: ROW" says where its tests are; CML-dagger has rows of its own. Otherwise a row
    is a method, and its columns are what it reaches alone, under CML (" + CML" in the label) and as
    CML-dagger.

    Args:
      runs: Label to results.
      by_steps: Whether the columns are the numbers of inner steps.
    """
    cells: Cells = {}
    for label, run in runs.items():
        if by_steps:
            for test in run.test_all:
                row = label + _dagger(test)
                column = f"{test['num_steps']} step" + "s" * (test["num_steps"] != 1)
                cells.setdefault(row, {}).setdefault(column, []).append(test)
            continue
        most = max(test["num_steps"] for test in run.test_all)
        for test in run.test_all:
            who = test["predicts"]
            column, colon, row = label.partition(": ")
            if colon:
                row += _dagger(test)
            else:
                row, column = label.removesuffix(_CML), "alone"
                if label.endswith(_CML):
                    column = _COLUMNS[who]
                elif who != "meta-learner":
                    continue
            if test["num_steps"] == most:
                cells.setdefault(row, {}).setdefault(column, []).append(test)
    return cells


def metric_of(runs: Mapping[str, Results]) -> str:
    """The metric of runs that belong together."""
    return next(iter(runs.values())).metric


def number(metric: str, test: Test) -> str:
    """The mean of a test and its interval.

    >>> number("accuracy", {"accuracy": 0.9878, "ci95": 0.003})
    '98.78 ± 0.30'
    >>> number("mse", {"mse": 0.559, "ci95": 0.042})
    '0.559 ± 0.042'
    >>> number("mse", {"mse": None, "ci95": None, "values": [0.5, None, 0.4]})
    'not finite: 1 of 3'
    """
    value, half = test[metric], test["ci95"]
    if value is None or half is None:
        each = test.get("values", [value])
        return f"not finite: {sum(v is None for v in each)} of {len(each)}"
    if is_share(metric):
        return f"{100 * value:.2f} ± {100 * half:.2f}"
    form = ".1e" if value > 1e4 else ".3f"  # a value that diverged is short, too
    return f"{value:{form}} ± {half:{form}}"


def paired(metric: str, test: Test, base: Test) -> Test | None:
    """The paired difference of two tests, over repeats or over the tasks of one run.

    Args:
      metric: Name of the metric.
      test, base: Tests on the same tasks; the difference is the first less the second.

    Returns:
      As from `interval`; None where one diverged, or where what they got is not stored.
    """
    if test[metric] is None or base[metric] is None:
        return None
    if "values" in test and "values" in base:
        return interval(metric, np.subtract(test["values"], base["values"])[:, None])
    if "task_values" in test and "task_values" in base:
        return interval(metric, np.subtract(test["task_values"], base["task_values"]))
    return None


def _mean(metric: str, value: float | None) -> str:
    if value is None:
        return "not finite"
    return f"{100 * value:.1f}" if is_share(metric) else f"{value:.3f}"


def span(numbers: Sequence[int]) -> str:
    """A few numbers, or the lowest and the highest of them.

    >>> span([500, 500]), span([1500, 20]), span([90, 30, 10, 340])
    ('500', '1,500, 20', '10 to 340')
    """
    each = list(dict.fromkeys(numbers))
    if len(each) > 3:
        return f"{min(each):,} to {max(each):,}"
    return ", ".join(f"{number:,}" for number in each)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts.

    >>> print(markdown(["a", "b"], [["1", "2"]]))
    | a | b |
    | --- | --- |
    | 1 | 2 |
    """
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _dagger(test: Test) -> str:
    """What follows the row of a method where the co-learner predicts."""
    who = test["predicts"]
    return f": {_COLUMNS[who]}" if who.startswith("co-learner") else ""


def _cell(metric: str, tests: Sequence[Test], base: Sequence[Test]) -> str:
    if not tests:
        return "-"
    text = number(metric, tests[0])
    if len(tests) > 1:
        text += f" ({number(metric, tests[1]).partition(' ')[0]})"
    if base and (gain := paired(metric, tests[0], base[0])):
        scale, form = (100, ".1f") if is_share(metric) else (1, ".3f")
        form = ".1e" if scale * abs(gain[metric]) > 1e4 else form
        text += f" ({scale * gain[metric]:+{form}} ± {scale * gain['ci95']:{form}})"
    return text
