"""Runs side by side: the difference on the same test tasks, and what differs in their settings."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.report import plots
from experiments.report.document import Block, Document, Picture, Section, Table, in_words
from experiments.report.table import LONG_NAMES, number
from experiments.report.themed import themed
from experiments.run_folder import folder
from experiments.run_folder.folder import Row
from experiments.run_folder.results import Results, describe, interval, is_share, read_results
from experiments.run_folder.task_values import read_task_values
from experiments.settings.record import settings_of

# Of `data.*`, what does not decide which tasks the test has.
_SAME_TASKS = ("dir", "queries", "train_shots", "flip", "shift", "recolor", "normalize", "features")
_PAIRED = "Task by task, or seed by seed, with 95% intervals; and how wide they were without pairs"
_SAME_RUN = ("hosts.", "data.dir", "tensorboard", "log_every_seconds", "checkpoint_every_minutes")


class Run(NamedTuple):
    """A finished run, or several that are repeats of one with other seeds.

    Attributes:
      label: What it is called here.
      results: Its results; of repeats the first's, with the test over all of them.
      settings: What the chosen rows read of its settings, by dotted names; {} where it has none.
      values: What every task of `results.test` got, float32 `[seeds, tasks]`, or why it is not
        known.
      rows: The rows of metrics.jsonl.
      seeds: The seeds, one for each row of `values`.
      steps: The steps of the best checkpoints, one for each repeat.
    """

    label: str
    results: Results
    settings: Mapping[str, Any]
    values: np.ndarray | str
    rows: Sequence[Row]
    seeds: Sequence[int]
    steps: Sequence[int]


def read_runs(workdirs: Sequence[Path]) -> list[Run]:
    """Reads runs from their folders, which name them.

    Args:
      workdirs: The folders.

    Raises:
      ValueError: A folder has no results, or a file is damaged.
    """
    names = [path.resolve().name for path in workdirs]
    unique = len(set(names)) == len(names)
    runs = []
    for name, workdir in zip(names, workdirs, strict=True):
        if not (workdir / folder.RESULTS).is_file():
            raise ValueError(f"{workdir} has no {folder.RESULTS}: name a folder of a finished run")
        results = read_results(workdir)
        try:
            every = read_task_values(workdir, results)
            values = every[list(results.test_all).index(results.test)]
        except ValueError as error:
            values = str(error)
        label = name if unique else str(workdir)
        rows, settings = folder.read_rows(workdir), settings_of(workdir, results.data)
        seeds = [results.seed + i for i in range(results.test.get("num_seeds", 1))]
        steps = [results.validation["step"]]
        runs.append(Run(label, results, settings, values, rows, seeds, steps))
    metrics = {run.results.metric for run in runs}
    if len(metrics) > 1:
        raise ValueError(f"the runs have the metrics {', '.join(sorted(metrics))}: name others")
    return runs


def with_repeats(runs: Sequence[Run]) -> list[Run]:
    """The runs, of which those that differ in the seed alone are one with several seeds.

    Args:
      runs: Runs with labels of their own.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        same = {
            k: v for k, v in run.settings.items() if k != "seed" and not k.startswith(_SAME_RUN)
        }
        known = run.settings and not isinstance(run.values, str)
        test = {k: run.results.test.get(k) for k in ("predicts", "num_steps", "num_tasks", "run")}
        about = run.results.data, run.results.split_hash, test, same
        groups.setdefault(repr(about) if known else run.label, []).append(run)
    merged = []
    for group in groups.values():
        seeds = [seed for run in group for seed in run.seeds]
        repeats = len(group) > 1 and len(set(seeds)) == len(seeds)
        merged += [_as_one(group)] if repeats else group
    return merged


def _as_one(repeats: Sequence[Run]) -> Run:
    """Repeats as one run: their tests stacked, the interval over all seeds."""
    first, metric = repeats[0], repeats[0].results.metric
    values = np.concatenate([np.asarray(run.values) for run in repeats])
    seeds = [seed for run in repeats for seed in run.seeds]
    rows: dict[int, Row] = {}
    for i, run in enumerate(repeats):
        for row in run.rows:
            step = int(row["step"] or 0)
            named = {f"{name}/{i}": value for name, value in row.items() if name != "step"}
            rows[step] = rows.get(step, {"step": step}) | named
    parents = {Path(run.label).parent for run in repeats}
    shared = parents.pop() if len(parents) == 1 else Path()
    label = str(shared) if shared != Path() else f"{first.label} and {len(repeats) - 1} more"
    return Run(
        label,
        replace(first.results, test={**first.results.test, **interval(metric, values)}),
        {**first.settings, "seed": seeds},
        values,
        [rows[step] for step in sorted(rows)],
        seeds,
        [step for run in repeats for step in run.steps],
    )


def difference(first: np.ndarray, second: np.ndarray) -> dict[str, float | int]:
    """The paired difference of two runs on the same tasks, and its 95% interval.

        d = second - first

    Of one seed, the half-width is 1.96 sd(d) / sqrt(tasks). Of several, d is averaged over the
    tasks of each, and the half-width is t sd(d) / sqrt(seeds), seeds - 1 degrees of freedom.

    Args:
      first, second: What every test task got, `[seeds, tasks]`, task by task the same.

    Returns:
      "difference", the mean, and the rest of `interval`.
    """
    return interval("difference", np.subtract(second, first, dtype=np.float64))


def why_not_the_same_tasks(first: Run, second: Run) -> str:
    """Why two runs were not tested on the same tasks; "" where they were.

    Task i is a function of the seed, the data and split, ways, shots and queries. Of several seeds,
    those that both runs have are paired.

    Args:
      first, second: The runs.
    """
    for run in (first, second):
        if isinstance(run.values, str):
            return f"{run.label}: {run.values}"
        if not run.settings:
            return f"{run.label} has no {folder.CONFIG}"
        if "data.name" not in run.settings and not run.results.split_hash:
            return f"{run.label} has data of its own without a split_hash"
    (a, b), names = (first.results, second.results), ("ways", "shots", "queries")
    pairs = {
        "data": (a.data, b.data),
        "number of test tasks": (a.test["num_tasks"], b.test["num_tasks"]),
    }
    pairs |= {name: tuple((run.protocol or {}).get(name) for run in (a, b)) for name in names}
    decide = [
        name
        for name in sorted(first.settings.keys() | second.settings.keys())
        if name.startswith("data.") and name.removeprefix("data.") not in _SAME_TASKS
    ]
    pairs |= {name: (first.settings.get(name), second.settings.get(name)) for name in decide}
    pairs["split"] = tuple(run.split_hash[:12] for run in (a, b))
    for name, (one, other) in pairs.items():
        if one != other:
            return f"{name} {one} and {other}"
    if not set(first.seeds) & set(second.seeds):
        return " and ".join(f"seed {', '.join(map(str, run.seeds))}" for run in (first, second))
    return ""


def settings_that_differ(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Settings to the value of each run, None where it reads no such setting.

    Args:
      runs: The runs.
    """
    names = dict.fromkeys(name for run in runs for name in run.settings)
    found = {
        name: [run.settings.get(name) for run in runs]
        for name in names
        if not name.startswith(_SAME_RUN)
    }
    return {name: v for name, v in found.items() if any(value != v[0] for value in v)}


def comparison(runs: Sequence[Run], picture: Path | None = None) -> Document:
    """The page of a comparison; every run is compared with the first.

    Args:
      runs: Two or more runs of one metric.
      picture: The SVG that the validation curves are drawn to; None draws none.
    """
    base, *others = runs
    metric = base.results.metric
    sections = [Section("Test", [_tests(runs, metric)])]
    sections.append(Section("Difference on the same test tasks", _differences(base, others)))
    if picture is not None and (curves := _curves(runs, picture, metric)):
        sections.append(Section("Validation", curves))
    differ = settings_that_differ(runs)
    rows = [[name, *map(in_words, values)] for name, values in differ.items()]
    header = ["setting", *(run.label for run in runs)]
    table = Table("Settings that differ", header, rows) if rows else "They have the same settings."
    sections.append(Section("Settings", [table]))
    lead = f"{base.results.data}, {LONG_NAMES.get(metric, metric)}; all compared with {base.label}."
    return Document(" and ".join(run.label for run in runs), lead, [], sections)


def _tests(runs, metric) -> Table:
    unit = ", %" if is_share(metric) else ""
    header = ["run", f"{LONG_NAMES.get(metric, metric)}{unit}", "of", "best step"]
    rows = []
    for run in runs:
        test = run.results.test
        known = test[metric] is not None and test["ci95"] is not None
        about = describe(metric, test).partition(" (")[2].rstrip(")")
        step = ", ".join(map(str, dict.fromkeys(run.steps)))
        rows.append([run.label, number(metric, test) if known else "not finite", about, step])
    return Table("Each run with its own 95% interval", header, rows)


def _differences(base: Run, others: Sequence[Run]) -> list[Block]:
    share = is_share(base.results.metric)
    scale, digits = (100, 2) if share else (1, 4)
    rows, notes = [], []
    for run in others:
        if reason := why_not_the_same_tasks(base, run):
            notes.append(f"{run.label} and {base.label} cannot be paired: {reason}.")
            continue
        seeds = [seed for seed in base.seeds if seed in run.seeds]
        found = difference(*(_of_seeds(each, seeds) for each in (base, run)))
        mean, half = found["difference"], found["ci95"]
        if not np.isfinite([mean, half]).all():
            notes.append(f"{run.label} and {base.label} cannot be paired: not finite.")
            continue
        verdict = "0 is inside" if abs(mean) <= half else "higher" if mean > 0 else "lower"
        over = f"{found['num_tasks']} tasks"
        if "num_seeds" in found:
            over = f"{found['num_seeds']} seeds of {over}"
        shown = f"{scale * mean:+.{digits}f} ± {scale * half:.{digits}f}"
        alone = scale * np.hypot(base.results.test["ci95"], run.results.test["ci95"])
        cells = [shown, verdict, f"± {alone:.{digits}f}", over]
        rows.append([f"{run.label} - {base.label}", *cells])
    blocks: list[Block] = list(notes)
    if rows:
        unit = ", percentage points" if share else ""
        header = ["runs", f"difference{unit}", "interval", "without pairs", "over"]
        blocks.insert(0, Table(_PAIRED, header, rows))
    return blocks


def _of_seeds(run: Run, seeds: Sequence[int]) -> np.ndarray:
    """What the test tasks of these seeds got, in this order."""
    assert not isinstance(run.values, str)
    return run.values[[list(run.seeds).index(seed) for seed in seeds]]


def _curves(runs, path, metric) -> list[Block]:
    name = f"validation/{metric}"
    curves = {run.label: rows for run in runs if (rows := _mean_rows(run.rows, name))}
    if not curves:
        return []
    with themed(path):
        plots.compare(curves, path, "", name)
    if not path.exists():
        return ["The curves are left out: pip install 'cml_jax[plots]'."]
    last = "; ".join(f"{label} ends at {rows[-1][name]:.4g}" for label, rows in curves.items())
    caption = f"Validation {LONG_NAMES.get(metric, metric)} against meta-steps"
    return [Picture(path, f"{caption}: {last}", f"{caption}, of replicas their mean.")]


def _mean_rows(rows: Sequence[Row], name: str) -> list[Row]:
    """The steps with a value, of replicas the mean of theirs."""
    found = []
    for row in rows:
        own = [v for n, v in row.items() if n == name or n.startswith(f"{name}/")]
        values = [v for v in own if v is not None]
        if values:
            found.append({"step": row["step"], name: float(np.mean(values))})
    return found
