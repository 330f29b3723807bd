"""What is stored of a study: every run that has ended, and how far it got.

docs/results/NAME.json holds, for each label, its command and its cells: repeat to the entries of
results.json, with "progress" and "curve", and with what each seed or each task of its tests got. A
cell is stored as soon as its run has ended, so that a study goes on where it was, on another
machine too. "all" stands for repeats that were stored as one. "tuned" is setting to what its values
reached in validation, and the best.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.report import table
from experiments.run_folder import folder
from experiments.run_folder.results import Results, Test, interval, is_share, read_results
from experiments.run_folder.task_values import read_task_values
from experiments.studies.study import Cell

Stored = dict[str, dict[str, Any]]

_POINTS = 200  # of a curve that are kept


def load(path: Path) -> Stored:
    """What is stored; {} where there is nothing yet.

    Raises:
      ValueError: The file is damaged.
    """
    return folder.read_json(path) if path.exists() else {}


def load_ended(path: Path) -> Stored:
    """What is stored of the labels that have a run; of others there may be what was tuned.

    Raises:
      ValueError: The file is damaged.
    """
    return {label: entry for label, entry in load(path).items() if entry["cells"]}


def is_done(stored: Stored, cell: Cell) -> bool:
    """Whether a cell is stored and its run had come to its end."""
    entry = stored.get(cell.label, {})
    if cell.tunes:
        return cell.repeat in entry.get("tuned", {})
    own = entry.get("cells", {}).get("all") or entry.get("cells", {}).get(cell.repeat)
    return own is not None and own.get("progress", {}).get("ended", True)


def chosen(entry: Mapping[str, Any]) -> list[str]:
    """The settings that tuning chose, as on the command line without `--config.`."""
    return [f"{name}={tuned['best']:g}" for name, tuned in entry.get("tuned", {}).items()]


def store_tuned(path: Path, label: str, setting: str, workdir: Path) -> None:
    """Adds what a run that sweeps a setting reached in validation, and with which value.

    Args:
      path: The file; it is made.
      label: Label of the runs that the setting is tuned for.
      setting: Its name.
      workdir: The run's folder.

    Raises:
      ValueError: Results are missing or damaged.
    """
    stored, results = load(path), read_results(workdir)
    name, reached = f"validation/{results.metric}", {}
    for run in results.runs or ():
        value = np.inf if run[name] is None else run[name]  # it diverged
        reached.setdefault(run[setting], []).append(value)
    means = {value: float(np.mean(each)) for value, each in reached.items()}
    # evaluate.py has chosen by the same means.
    best = min(means, key=lambda value: abs(means[value] - results.validation[results.metric]))
    entry = stored.setdefault(label, {"cells": {}})
    entry.setdefault("tuned", {})[setting] = {
        "metric": results.metric,
        "reached": {f"{v:g}": mean if np.isfinite(mean) else None for v, mean in means.items()},
        "best": best,
        "steps": results.protocol["train_steps"],
    }
    folder.write_json(path, stored, indent=0)  # thousands of tasks, a line each


def store(path: Path, label: str, repeat: str, command: str, workdir: Path, ended: bool) -> None:
    """Adds a run that has been tested, or replaces it.

    Args:
      path: The file; it is made.
      label: Label of the run.
      repeat: The number of its repeat, as text.
      command: Its command, without the settings of the repeat.
      workdir: Its folder.
      ended: Whether its training came to the end.

    Raises:
      ValueError: Results or reports are missing or damaged.
    """
    stored, results, rows = load(path), read_results(workdir), folder.read_rows(workdir)
    name = f"validation/{results.metric}"
    curve = [[row["step"], row[name]] for row in rows if row.get(name) is not None]
    progress = {"step": rows[-1]["step"] if rows else 0, "ended": ended, "flat": flat(curve)}
    every = -(-len(curve) // _POINTS) or 1
    cell = results.to_dict() | {"progress": progress, "curve": curve[::every]}
    if (workdir / folder.TASK_VALUES).exists():  # linear probing on graphs has none
        of_tasks = read_task_values(workdir, results)
        pairs = zip(results.test_all, of_tasks, strict=True)
        cell["test_all"] = [_with_values(results.metric, *pair) for pair in pairs]
    entry = stored.setdefault(label, {"cells": {}})
    entry["command"] = command
    entry["cells"].pop("all", None)
    entry["cells"][repeat] = cell
    folder.write_json(path, stored, indent=0)  # thousands of tasks, a line each


def flat(curve: Sequence[Sequence[float]]) -> bool:
    """Whether a curve had flattened: its last quarter is where the quarter before it was.

    The means of the two differ by less than a twentieth of the way from the first value to the
    best mean of a quarter.

    >>> flat([[i, 1 - 0.5**i] for i in range(20)]), flat([[i, i] for i in range(20)])
    (True, False)

    Args:
      curve: Pairs of a step and a value.
    """
    values = np.array([value for _, value in curve], float)
    if len(values) < 8:
        return False
    third, last = (part.mean() for part in np.array_split(values, 4)[2:])
    return bool(abs(last - third) < 0.05 * max(abs(third - values[0]), abs(last - values[0])))


def results_of(entry: Mapping[str, Any]) -> Results:
    """The results of a label's cells as one, with the mean and the interval over them.

    Args:
      entry: What is stored of the label.
    """
    return combined([Results.from_dict(_bare(cell)) for _, cell in sorted(entry["cells"].items())])


def curve_of(entry: Mapping[str, Any], name: str) -> list[folder.Row]:
    """The curve of a label's first cell, as rows of metrics.jsonl with the number `name`."""
    cells = entry["cells"]
    return [{"step": step, name: value} for step, value in cells[min(cells)].get("curve", ())]


def how_far(entry: Mapping[str, Any]) -> str:
    """In words, how far the runs of a label got."""
    made = [cell for _, cell in sorted(entry["cells"].items()) if cell.get("progress")]
    if not made:
        return "-"
    text = table.span([cell["progress"]["step"] for cell in made])
    if not all(cell["progress"]["ended"] for cell in made):
        text += f" of {made[0]['protocol']['train_steps']:,}"
    flats = sum(cell["progress"]["flat"] for cell in made)
    if len(made) == 1:
        return f"{text}, {'flat' if flats else 'still moving'}"
    return f"{text}, {flats} of {len(made)} flat"


def combined(repeats: Sequence[Results]) -> Results:
    """The results of repeats as one, with the mean and the interval over them.

    Args:
      repeats: The results of each, with the same tests.
    """
    first, metric = repeats[0], repeats[0].metric
    if len(repeats) == 1:
        return first
    tests = []
    for same in zip(*(run.test_all for run in repeats), strict=True):
        values = [test[metric] for test in same]
        over = interval(metric, [[value] for value in values])
        own = {key: value for key, value in same[0].items() if key != "task_values"}
        tests.append(own | over | {"num_tasks": own["num_tasks"], "values": values})
    return replace(
        first,
        test=tests[0],
        test_all=tests,
        wall_seconds=sum(run.wall_seconds or 0 for run in repeats),
        runs=[{"best_step": run.validation["step"]} for run in repeats],
    )


def _with_values(metric: str, test: Test, of_tasks: np.ndarray) -> dict[str, Any]:
    """A test with what pairs it with that of another run: the means of its seeds, or its tasks.

    Of thousands of tasks a share has three decimals, which moves their mean by about 1e-5.
    """
    if len(of_tasks) > 1:
        return {**test, "values": of_tasks.mean(1, dtype=float).tolist()}
    if not test["transductive"]:  # the table pairs runs with all queries at once
        return dict(test)
    values = np.round(of_tasks[0].astype(float), 3 if is_share(metric) else 4)
    return {**test, "task_values": values.tolist()}


def _bare(cell: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in cell.items() if key not in ("progress", "curve")}
