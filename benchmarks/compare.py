"""Times cml_jax and torch.func in turn on the CPU and writes docs/performance.md.

    pip install -e '.[benchmarks]'
    python -m benchmarks.compare

Both start from the same parameters and tasks and must report the same first loss. The programs run
A B A B, each in a process of its own, and the ratio is taken pair by pair. Each pair waits until
the machine's load is low; the table shows the load at its start. `--workloads=` only writes the
text and the picture again. On a GPU: `python -m benchmarks.gpu`.
"""

import json
import os
import shlex
import sys
import tempfile
import time
from pathlib import Path

from absl import app, flags

from benchmarks import picture, programs, report
from benchmarks.workloads import WORKLOADS
from experiments.machine.devices import available_cores

_WORKLOADS = flags.DEFINE_list("workloads", list(WORKLOADS), "workloads to time")
_PAIRS = flags.DEFINE_integer("pairs", 3, "how often each program runs", lower_bound=1)
_MINUTES = flags.DEFINE_float("minutes", 10.0, "most minutes for one program in one pair")
_MAX_LOAD = flags.DEFINE_float("max_load", 1.0, "load of the machine at which a pair starts")
_WAIT = flags.DEFINE_float("wait_minutes", 3.0, "most minutes to wait for the load to fall")
_RUNS = flags.DEFINE_integer("runs", 0, "timed steps; 0: by the workload")
_TASKS = flags.DEFINE_integer("tasks", 0, "tasks in a meta-batch; 0: the workload's own")
_DOCS = flags.DEFINE_string("docs", "docs", "folder to write to")

_TIMED = {"W1": 10, "W2": 3, "W3": 5, "W4": 50, "W5": 10, "W6": 3, "W7": 5}
_ALLOCATOR = ("W1", "W2", "W3", "W5", "W6", "W7")  # also torch.func with cml_jax's allocator
_LOOPS = ("W3", "W4")  # also as a Python loop over tasks, as the released code has it


def main(_):
    path = Path(_DOCS.value, "results", "performance.json")
    store = json.loads(path.read_text()) if path.exists() else {}
    command = shlex.join(["python", "-m", "benchmarks.compare", *sys.argv[1:]])
    if _WORKLOADS.value:
        store |= {"command": command, "cores": available_cores()}
    for name in _WORKLOADS.value:
        store[name] = compare(name)
        _write(store, path)
    _write(store, path)


def compare(name: str) -> dict:
    """Runs a workload's programs in turn; returns their rows and the ratios of their medians."""
    chosen = ["cml_jax", "torch.func"]
    chosen += ["torch.func, same allocator"] * (name in _ALLOCATOR)
    chosen += ["torch loop"] * (name in _LOOPS)
    rows = {program: [] for program in chosen}
    arguments = [f"--workload={name}", f"--runs={_RUNS.value or _TIMED[name]}"]
    arguments += [f"--tasks={_TASKS.value}"]
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(_PAIRS.value):
            load = _quiet()
            for program, done in rows.items():
                row = programs.run(
                    program,
                    *arguments,
                    params=f"{folder}/params.npz",
                    seconds=60 * _MINUTES.value,
                )
                print(name, program, f"{row['ms_median']:.1f} ms", flush=True)
                done.append(row | {"load_before": load})
    programs.check_losses(name, rows, 1e-3)
    return {"rows": rows, "ratios": programs.ratios(rows)}


def _quiet() -> float:
    """Waits until the load is low, at most `--wait_minutes`; returns it."""
    give_up = time.monotonic() + 60 * _WAIT.value
    while os.getloadavg()[0] > _MAX_LOAD.value and time.monotonic() < give_up:
        time.sleep(5)
    return os.getloadavg()[0]


def _write(store, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(store, indent=1) + "\n", encoding="utf-8")
    picture.draw(store, path.with_suffix(".png"))
    gpu = path.with_name("gpu.json")
    page = Path(_DOCS.value, "performance.md")
    before = page.read_text() if page.exists() else report.EMPTY
    measured = report.measured(store, json.loads(gpu.read_text()) if gpu.exists() else None)
    page.write_text(report.replace(before, measured), encoding="utf-8")


if __name__ == "__main__":
    app.run(main)
