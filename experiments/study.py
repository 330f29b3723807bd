"""Studies: runs that belong together, their tables and their pictures.

    python -m experiments.study omniglot
    python -m experiments.study cifar_fs --only="1-shot: MAML" --minutes=60
    python -m experiments.study nodes --jobs=4
    python -m experiments.study --pages

makes the runs of a study under runs/. Each is stored in docs/results/NAME.json as soon as it has
ended: a study that is started again makes what is missing, and resumes what was interrupted. What
others start from comes first, then what a study tunes: on validation tasks, with the same budget
for every row. Then docs/results/NAME.md and docs/results.md are filled from what is stored;
`--pages` does only that. Several jobs at a time share the cores.
"""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from threading import Lock

from experiments.machine.devices import available_cores
from experiments.report import cells, study_pages
from experiments.run_folder import folder
from experiments.studies import STUDIES, Study
from experiments.studies.study import Cell, cells_of, starts_of, tuning_of

_DOCS = Path("docs")
_STOPPED = 1  # the exit code of a run that was asked to stop, and has saved what it had


def main() -> int:
    """Makes the named studies and writes the pages; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("studies", nargs="*", metavar="NAME", help=", ".join(STUDIES))
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="the run of that label, or all with TEXT in it"
    )
    parser.add_argument(
        "--minutes", type=float, help="of training a run gets; then it is tested as far as it is"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, which share the cores")
    parser.add_argument("--pages", action="store_true", help="only the pages, from what is stored")
    arguments = parser.parse_args()
    if not 1 <= arguments.jobs <= available_cores():
        parser.error(f"--jobs={arguments.jobs}: needs 1 to {available_cores()}, a core each")
    if arguments.minutes is not None and not arguments.minutes > 0:
        parser.error(f"--minutes={arguments.minutes}: give a positive number, or leave it out")
    for name in arguments.studies:
        if name not in STUDIES:
            parser.error(f"there is no study {name}: choose from {', '.join(STUDIES)}")
    if bool(arguments.studies) == arguments.pages:
        parser.error("name one or more studies, or give --pages alone")
    for name in arguments.studies:
        study, how = STUDIES[name], (arguments.jobs, arguments.minutes)
        rounds = [*tuning_of(name, study), cells_of(name, study)]
        labels = {cell.label for cell in rounds[-1]}
        wanted = {arguments.only} & labels or {label for label in labels if arguments.only in label}
        tuned = {study.tuned_as.get(label, label) for label in wanted}
        rounds = [
            [cell for cell in own if cell.label in (tuned if cell.tunes else wanted)]
            for own in rounds
        ]
        if not rounds[-1]:
            parser.error(f"--only={arguments.only} is in no label of {name}: leave it out")
        # What is tuned, too, may start from them.
        if not run_all(name, study, starts_of(name, study, rounds[-1]), *how, folders=True):
            return 1
        if not all(run_all(name, study, own, *how) for own in rounds):
            return 1
        study_pages.draw(name, study, _DOCS / "results")
    study_pages.write_pages(_DOCS, STUDIES)
    return 0


def run_all(
    name: str,
    study: Study,
    wanted: Sequence[Cell],
    jobs: int,
    minutes: float | None = None,
    folders: bool = False,
) -> bool:
    """Makes runs of a study until one fails; returns whether all of them ended well.

    What is stored as ended is not made again.

    Args:
      name: Name of the study.
      study: Its runs.
      wanted: Those to make.
      jobs: How many runs are made at a time.
      minutes: How long each may train; None is to its end.
      folders: Whether a run is made again, too, whose folder is not here, as on another machine.
    """
    path = _DOCS / "results" / f"{name}.json"
    stored = cells.load(path)
    pins = jobs > 1 and hasattr(os, "sched_setaffinity")
    cores = sorted(os.sched_getaffinity(0)) if pins else []
    free: SimpleQueue[list[int]] = SimpleQueue()
    for i in range(jobs):
        free.put(cores[i::jobs])
    writing = Lock()

    def make(cell: Cell) -> bool:
        share = free.get()
        chosen = cells.chosen(stored.get(study.tuned_as.get(cell.label, cell.label), {}))
        command = [*study.command(cell.label, (*chosen, *cell.settings))]
        command.append(f"--workdir={cell.workdir}")
        try:
            print(f"== python {' '.join(command)}", flush=True)
            ended = _run(command, cell.workdir, share, minutes)
            if ended is None:
                return False
            with writing:
                if cell.tunes:
                    cells.store_tuned(path, cell.label, cell.repeat, cell.workdir)
                    return True
                command = "python " + " ".join(study.command(cell.label, chosen))
                cells.store(path, cell.label, cell.repeat, command, cell.workdir, ended)
            if not ended:  # else the run would count as finished
                (cell.workdir / folder.RESULTS).unlink()
            return True
        finally:
            free.put(share)

    left = [
        cell
        for cell in wanted
        if not cells.is_done(stored, cell)
        or (folders and not (cell.workdir / folder.RESULTS).exists())
    ]
    with ThreadPoolExecutor(jobs) as pool:
        return all(pool.map(make, left))


def _run(
    command: Sequence[str], workdir: Path, share: Sequence[int], minutes: float | None
) -> bool | None:
    """Makes a run; whether it came to its end, or None where it failed."""
    pinned = {"preexec_fn": lambda: os.sched_setaffinity(0, share)} if share else {}
    command = [sys.executable, *command]
    with subprocess.Popen(command, **pinned) as process:
        try:
            return True if process.wait(minutes and 60 * minutes) == 0 else None
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            if process.wait() not in (0, _STOPPED):
                return None
    if (workdir / folder.RESULTS).exists():  # it was already testing
        return True
    return False if subprocess.run([*command, "--evaluate"], **pinned).returncode == 0 else None


if __name__ == "__main__":
    sys.exit(main())
