"""Studies: runs that belong together, their tables and their pictures.

    python -m experiments.study omniglot
    python -m experiments.study nodes --jobs=4
    python -m experiments.study --pages

makes the runs of a study under runs/ (finished ones are kept, an interrupted one resumes), stores
their numbers in docs/results/NAME.json, and fills docs/results/NAME.md and docs/results.md from
what is stored; `--pages` does only that. Several jobs at a time share the cores.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

from experiments.machine.devices import available_cores
from experiments.report import pages, plots, table
from experiments.run_folder import folder
from experiments.run_folder.results import Results, interval, read_results
from experiments.studies import STUDIES, Study

_DOCS = Path("docs")
_RUNS = Path("runs")


def main() -> int:
    """Makes the named studies and writes the pages; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("studies", nargs="*", metavar="NAME", help=", ".join(STUDIES))
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, which share the cores")
    parser.add_argument("--pages", action="store_true", help="only the pages, from what is stored")
    arguments = parser.parse_args()
    if not 1 <= arguments.jobs <= available_cores():
        parser.error(f"--jobs={arguments.jobs}: needs 1 to {available_cores()}, a core each")
    for name in arguments.studies:
        if name not in STUDIES:
            parser.error(f"there is no study {name}: choose from {', '.join(STUDIES)}")
    if bool(arguments.studies) == arguments.pages:
        parser.error("name one or more studies, or give --pages alone")
    for name in arguments.studies:
        if not run_all(name, STUDIES[name], arguments.jobs):
            return 1
        collect(name, STUDIES[name], _DOCS / "results")
    write_pages(_DOCS)
    return 0


def run_all(name: str, study: Study, jobs: int) -> bool:
    """Makes the runs of a study until one fails; returns whether all of them ended well.

    Args:
      name: Name of the study.
      study: Its runs.
      jobs: How many runs are made at a time.
    """
    started = [
        ([*_command(study, label), *(f"--config.{o}" for o in repeat)], workdir)
        for label in (*study.runs, *study.probes)
        for repeat, workdir in zip(study.repeats, _workdirs(name, study, label), strict=True)
    ]
    pins = jobs > 1 and hasattr(os, "sched_setaffinity")
    cores = sorted(os.sched_getaffinity(0)) if pins else []
    free: SimpleQueue[list[int]] = SimpleQueue()
    for i in range(jobs):
        free.put(cores[i::jobs])

    def run(command: list[str], workdir: Path) -> int:
        share = free.get()
        print(f"== python {' '.join(command)} --workdir={workdir}", flush=True)
        pinned = {"preexec_fn": lambda: os.sched_setaffinity(0, share)} if share else {}
        code = subprocess.run([sys.executable, *command, f"--workdir={workdir}"], **pinned)
        free.put(share)
        return code.returncode

    with ThreadPoolExecutor(jobs) as pool:
        return not any(pool.map(run, *zip(*started, strict=True)))


def collect(name: str, study: Study, results: Path) -> None:
    """Stores the numbers and the pictures of runs that are made.

    Args:
      name: Name of the study.
      study: Its runs.
      results: The folder of NAME.json, of the page and of the pictures.
    """
    found, stored, curves = {}, {}, {}
    for label in (*study.runs, *study.probes):
        first, *others = _workdirs(name, study, label)
        found[label] = combined([read_results(each) for each in (first, *others)])
        command = "python " + " ".join(_command(study, label))
        stored[label] = found[label].to_dict() | {"command": command}
        if rows := folder.read_rows(first):
            curves[label] = rows
        if (first / folder.FITS).exists():
            shutil.copy(first / folder.FITS, results / f"{name}-{_file_name(label)}.png")
    folder.write_json(results / f"{name}.json", stored)
    page, picture = results / f"{name}.md", results / f"{name}.png"
    if not page.exists():
        page.write_text(pages.NEW_PAGE.format(name=name), encoding="utf-8")
    title = pages.words(page.read_text(encoding="utf-8")).title
    if study.curve:
        plots.compare(curves, picture, title, study.curve)
        return
    cells = table.cells_of(found)
    if study.base:  # too many rows for a picture: CML-dagger is in the table
        cells = {row: cell for row, cell in cells.items() if "CML-dagger" not in row}
    plots.points(cells, picture, title, table.metric_of(found))


def combined(repeats: list[Results]) -> Results:
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
        tests.append({**same[0], **over, "num_tasks": same[0]["num_tasks"], "values": values})
    return replace(
        first,
        test=tests[0],
        test_all=tests,
        wall_seconds=sum(run.wall_seconds for run in repeats),
        runs=[{"best_step": run.validation["step"]} for run in repeats],
    )


def write_pages(docs: Path) -> None:
    """Fills the page of every study that is stored, and the page that leads to them.

    Args:
      docs: The folder of results.md and of results/.
    """
    written = {}
    for name, study in STUDIES.items():
        path = docs / "results" / f"{name}.md"
        if path.exists():
            page = path.read_text(encoding="utf-8")
            parts = page_parts(name, study, docs / "results", pages.words(page).title)
            written[name] = pages.fill(page, parts)
            path.write_text(written[name], encoding="utf-8")
    path = docs / "results.md"
    filled = pages.fill(path.read_text(encoding="utf-8"), {"studies": pages.front(written)})
    path.write_text(filled, encoding="utf-8")


def page_parts(name: str, study: Study, results: Path, title: str) -> dict[str, str]:
    """The generated parts of a study's page.

    Args:
      name: Name of the study.
      study: Its runs.
      results: The folder of NAME.json and of the pictures.
      title: Title of the page.
    """
    stored = json.loads((results / f"{name}.json").read_text(encoding="utf-8"))
    commands = {label: values.pop("command") for label, values in stored.items()}
    runs = {label: Results.from_dict(values) for label, values in stored.items()}
    if study.curve:
        numbers = table.of_tests(runs)
    else:
        numbers = table.of_methods(runs, study.base, study.beside)
    first = next(iter(runs.values()))
    tasks = f"{first.test['num_tasks']} test tasks"
    if seeds := first.test.get("num_seeds"):
        tasks += f" for each of {seeds} seeds, intervals over seeds"
    pictures = [f"![{title}]({name}.png)"]
    for label in runs:
        file = f"{name}-{_file_name(label)}.png"
        if (results / file).exists():
            pictures.append(f"{label}: the first test tasks\n\n![{label}]({file})")
    return {
        "table": f"{numbers}\n\n{tasks}, {first.plan}.",
        "pictures": "\n\n".join(pictures),
        "commands": table.of_commands(runs, commands),
    }


def _command(study: Study, label: str) -> list[str]:
    module = "experiments.main" if label in study.runs else "experiments.linear_probing"
    settings = study.runs.get(label) or study.probes.get(label, ())
    return ["-m", module, f"--config={study.config}", *(f"--config.{o}" for o in settings)]


def _workdirs(name: str, study: Study, label: str) -> list[Path]:
    """The folder of each repeat of a run."""
    workdir, count = _RUNS / name / _file_name(label), len(study.repeats)
    return [workdir / str(i) for i in range(count)] if count > 1 else [workdir]


def _file_name(label: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", label.lower().replace("++", "-plus-plus"))


if __name__ == "__main__":
    sys.exit(main())
