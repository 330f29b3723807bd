"""Studies: runs that belong together, their table and their picture.

    python -m experiments.study omniglot
    python -m experiments.study nodes --jobs=4

makes the runs of a study under runs/ (finished ones are kept, an interrupted one goes on), stores
their numbers in docs/results/, and writes docs/results.md anew from all that is stored there.
Several jobs at a time share the cores.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from experiments.build.replicas import interval
from experiments.report.plots import compare, points
from experiments.run_folder.folder import read, write_json
from experiments.studies import STUDIES, Study

_RESULTS = Path("docs/results")


def main() -> int:
    """Makes the named studies and writes docs/results.md; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("studies", nargs="+", choices=STUDIES)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, which share the cores")
    arguments = parser.parse_args()
    most = len(_cores()) or os.cpu_count() or 1
    if not 1 <= arguments.jobs <= most:
        parser.error(f"--jobs={arguments.jobs}: needs 1 to {most}, a core each")
    for name in arguments.studies:
        if not _make(name, STUDIES[name], arguments.jobs):
            return 1
    stored = {name: _RESULTS / f"{name}.json" for name in STUDIES}
    sections = [_section(name, path) for name, path in stored.items() if path.exists()]
    Path("docs/results.md").write_text("\n".join([_HEAD, *sections]), encoding="utf-8")
    return 0


def _make(name: str, study: Study, jobs: int) -> bool:
    results, curves = {}, {}
    commands = {label: _command(study, label) for label in (*study.runs, *study.probes)}
    started = [
        ([*command, *(f"--config.{o}" for o in repeat)], _workdir(name, study, label, i))
        for label, command in commands.items()
        for i, repeat in enumerate(study.repeats)
    ]
    cores = _cores() if jobs > 1 else []
    free = SimpleQueue()
    for i in range(jobs):
        free.put(cores[i::jobs])

    def run(command, workdir):
        share = free.get()
        print(f"== python {' '.join(command)} --workdir={workdir}", flush=True)
        pinned = {"preexec_fn": lambda: os.sched_setaffinity(0, share)} if share else {}
        program = [sys.executable, *command, f"--workdir={workdir}"]
        code = subprocess.run(program, **pinned).returncode
        free.put(share)
        return code

    with ThreadPoolExecutor(jobs) as pool:
        if any(pool.map(run, *zip(*started, strict=True))):
            return False
    for label, command in commands.items():
        workdir = _workdir(name, study, label, 0)
        results[label] = _combined(name, study, label)
        results[label]["command"] = "python " + " ".join(command)
        if (workdir / "metrics.jsonl").exists():
            curves[label] = read(workdir / "metrics.jsonl")
        if (workdir / "fits.png").exists():
            shutil.copy(workdir / "fits.png", _RESULTS / f"{name}-{workdir.name}.png")
    write_json(_RESULTS / f"{name}.json", results)
    if study.curve:
        compare(curves, _RESULTS / f"{name}.png", study.title, study.curve)
    else:
        cells = _cells(results)
        if study.base:  # too many rows for a picture: CML-dagger is in the table
            cells = {row: cell for row, cell in cells.items() if "CML-dagger" not in row}
        points(cells, _RESULTS / f"{name}.png", study.title)
    return True


def _cores() -> list[int]:
    """The cores that this process may use; none where the system does not tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def _command(study: Study, label: str) -> list[str]:
    module = "experiments.main" if label in study.runs else "experiments.linear_probing"
    overrides = study.runs.get(label) or study.probes.get(label, ())
    return ["-m", module, f"--config={study.config}", *(f"--config.{o}" for o in overrides)]


def _workdir(name: str, study: Study, label: str, repeat: int) -> Path:
    folder = Path("runs") / name / _file_name(label)
    return folder / str(repeat) if len(study.repeats) > 1 else folder


def _combined(name: str, study: Study, label: str) -> dict:
    """The results of a run; of its repeats, with the mean and the interval over them."""
    repeats = [
        json.loads((_workdir(name, study, label, i) / "results.json").read_text())
        for i in range(len(study.repeats))
    ]
    combined = repeats[0]
    if len(repeats) == 1:
        return combined
    for tests in zip(*(result["test_all"] for result in repeats), strict=True):
        values = [test["accuracy"] for test in tests]
        tests[0].update(_over(values) | {"num_tasks": tests[0]["num_tasks"], "values": values})
    combined["test"] = combined["test_all"][0]
    combined["wall_seconds"] = sum(result["wall_seconds"] for result in repeats)
    combined["runs"] = [{"best_step": result["validation"]["step"]} for result in repeats]
    return combined


def _over(values: Sequence[float]) -> dict:
    """The mean over repeats and its interval."""
    return interval("accuracy", [[value] for value in values])


_HEAD = """# Results

Written by `python -m experiments.study NAME`; every number is from a run of this code, made by the
command beside it. ± is the half-width of the 95% interval over the test tasks of one seed
(1.96 sd / sqrt(n)) or, where it says so, over seeds (Student's t); the checkpoint is the best of
validation. Minutes are wall time, on a machine that had other work at times.
"""


_WITH = " + CML"
_COLUMNS = {"meta-learner": "CML", "co-learner (paper)": "CML-dagger, paper"}
_COLUMNS["co-learner (released code)"] = "CML-dagger, released"


def _cells(results: dict) -> dict[str, dict[str, list[dict]]]:
    """Row to column to its tests after the most inner steps.

    A label "COLUMN: ROW" says where it stands; CML-dagger has rows of its own. Otherwise a row is a
    method, and its columns what it reaches alone, under CML (" + CML" in the label) and as
    CML-dagger.
    """
    cells: dict[str, dict[str, list[dict]]] = {}
    for label, result in results.items():
        most = max(test["num_steps"] for test in result["test_all"])
        for test in result["test_all"]:
            who = test["predicts"]
            column, colon, row = label.partition(": ")
            if colon:
                row += f": {_COLUMNS[who]}" if who.startswith("co-learner") else ""
            else:
                row, column = label.removesuffix(_WITH), "alone"
                if label.endswith(_WITH):
                    column = _COLUMNS[who]
                elif who != "meta-learner":
                    continue
            if test["num_steps"] == most:
                cells.setdefault(row, {}).setdefault(column, []).append(test)
    return cells


def _pivot(results: dict, study: Study) -> list[str]:
    """A table with a row a method, as in `_cells`."""
    cells = _cells(results)
    columns = list(dict.fromkeys(column for row in cells.values() for column in row))
    lines = [_line(["method", *columns]), _line(["---"] * (1 + len(columns)))]
    for method, row in cells.items():
        base = cells.get(study.base.get(method.partition(": ")[0]), {})
        texts = []
        for column in columns:
            tests = row.get(column)
            text = _percent(tests[0]) if tests else "-"
            if tests and len(tests) > 1:
                text += f" ({100 * tests[1]['accuracy']:.2f})"
            if tests and column in base:
                gain = _over(np.subtract(tests[0]["values"], base[column][0]["values"]))
                text += f" ({100 * gain['accuracy']:+.1f} ± {100 * gain['ci95']:.1f})"
            texts.append(text)
        lines.append(_line([method, *texts]))
    for method, row in study.beside.items():
        lines.append(_line([method, *(row.get(column, "-") for column in columns)]))
    if study.base:
        lines += ["", "In parentheses the difference from the base, from pairs of runs."]
    elif any(len(tests) > 1 for row in cells.values() for tests in row.values()):
        lines += ["", "All queries at once; in parentheses each query alone."]
    return lines


def _percent(test: dict) -> str:
    return f"{100 * test['accuracy']:.2f} ± {100 * test['ci95']:.2f}"


def _table(results: dict) -> list[str]:
    """A table with a row for every test of every run."""
    rows = {label: result["test_all"] for label, result in results.items()}
    percent = "accuracy" in next(iter(rows.values()))[0]
    header = ["run", "predicts", "inner steps"]
    header += ["all queries at once", "each query alone"] if percent else ["mean squared error"]
    lines = [_line(header), _line(["---"] * len(header))]
    for label, tests in rows.items():
        cells = {}
        for test in tests:
            number = _percent(test) if percent else f"{test['mse']:.3f} ± {test['ci95']:.3f}"
            cells.setdefault((test["predicts"], test["num_steps"]), []).append(number)
        lines += [_line([label, who, str(steps), *c]) for (who, steps), c in cells.items()]
    return lines


def _section(name: str, path: Path) -> str:
    study, results = STUDIES[name], json.loads(path.read_text())
    lines = [f"## {study.title}", "", study.published, ""]
    lines += _table(results) if study.curve else _pivot(results, study)
    first = next(iter(results.values()))
    tasks = f"{first['test']['num_tasks']} test tasks"
    if seeds := first["test"].get("num_seeds"):
        tasks += f" for each of {seeds} seeds, intervals over seeds"
    lines += ["", f"{tasks}, {first['plan']}."]
    lines += [f"\n![{study.title}](results/{name}.png)\n"]
    for label in results:
        fits = f"{name}-{_file_name(label)}.png"
        if (_RESULTS / fits).exists():
            lines += [f"{label}: the first test tasks\n\n![{label}](results/{fits})\n"]
    lines += [f"{study.notes}\n"] if study.notes else []
    lines += [_line(["run", "best step", "minutes of training", "command"]), _line(["---"] * 4)]
    for label, result in results.items():
        minutes = f"{result['wall_seconds'] / 60:.1f}"
        several = result.get("runs", [{"best_step": result["validation"]["step"]}])
        step = ", ".join(str(run["best_step"]) for run in several)
        lines.append(_line([label, step, minutes, f"`{result['command']}`"]))
    return "\n".join(lines) + "\n"


def _file_name(label: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", label.lower().replace("++", "-plus-plus"))


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
