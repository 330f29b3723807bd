"""Measures everything that is to be known of a GPU, in one command of bounded time.

    python -m benchmarks.gpu --out=gpu
    python -m benchmarks.gpu --out=gpu -- --config=configs/omniglot.py --config.data.dir=FOLDER

First the forms of the convolutions, which sets the device's row of cml_jax/ops/forms.json for all
that follows (OUT/forms.json is a copy, to be kept). Then W1-W3 in cml_jax and in torch.func, in the
device's own precision and in float32; and how long the program takes, from its start, to 98.7% on
validation tasks of Omniglot (what comes after `--` is its command line). OUT/gpu.json is written
after each part; a part that fails or takes too long is named in "failed", and the others still run.
Copied to docs/results/gpu.json, it becomes part of the report of `benchmarks.compare`.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from absl import app, flags

from benchmarks import programs
from cml_jax.ops import forms
from experiments.run_folder import folder

_OUT = flags.DEFINE_string("out", "gpu", "folder of gpu.json, of the run and of its log")
_MINUTES = flags.DEFINE_float("minutes", 8.5, "most minutes for everything")
_TARGET = flags.DEFINE_float("target", 0.987, "validation accuracy to be reached")
_WORKLOADS = flags.DEFINE_list("workloads", ["W1", "W2", "W3"], "workloads to time")
_FORMS = flags.DEFINE_list("forms", ["W1", "W3", "W6"], "workloads whose convolutions are timed")
_RUNS = flags.DEFINE_integer("runs", 20, "timed steps")
_TASKS = flags.DEFINE_integer("tasks", 0, "tasks in a meta-batch; 0: the workload's own")
_DEVICE = flags.DEFINE_enum("device", "cuda", ["cuda", "cpu"], "cpu is for trying the program out")

_TO_STOP = 20.0  # seconds that a run has to write its last checkpoint
# First losses may differ by this part: TF32 keeps three digits, and the inner step widens that.
_TOLERANCE = {"default": 5e-2, "float32": 1e-3}


def main(argv):
    end = time.monotonic() + 60 * _MINUTES.value
    out = Path(_OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["python", "-m", "benchmarks.gpu", *sys.argv[1:]])
    store = {"command": command, "precisions": {p: {} for p in _TOLERANCE}, "failed": {}}

    def part(name, function, *arguments):
        try:
            function(store, *arguments)
        except (RuntimeError, ValueError, OSError, subprocess.TimeoutExpired) as error:
            store["failed"][name] = str(error)
            print(f"{name}: {error}", flush=True)
        folder.write_json(out / "gpu.json", store)

    if _FORMS.value:
        part("forms", set_forms, out, 0.3 * _MINUTES.value)
    # Time is kept for the run, which comes before what matters least.
    for name in _WORKLOADS.value:
        part(f"{name}, default", compare, name, "default", out, end - 0.4 * 60 * _MINUTES.value)
    part("run", train, argv[1:] or ["--config=configs/omniglot.py"], out, end)
    for name in _WORKLOADS.value:
        part(f"{name}, float32", compare, name, "float32", out, end)


def set_forms(store: dict, out: Path, minutes: float) -> None:
    """Times the forms of the convolutions, sets the device's row and adds the times to `store`."""
    times = out / "convolutions.json"
    command = [sys.executable, "-m", "benchmarks.convolutions", "--write", f"--times={times}"]
    command += [f"--workloads={','.join(_FORMS.value)}", f"--minutes={minutes:g}"]
    environment = os.environ | {"JAX_PLATFORMS": _DEVICE.value}
    # The last shape may begin just before the end.
    done = subprocess.run(command, env=environment, timeout=60 * minutes + 60, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:])} failed ({done.returncode})")
    store["convolutions"] = json.loads(times.read_text())
    shutil.copy(forms.PATH, out / "forms.json")


def compare(store: dict, name: str, precision: str, out: Path, end: float) -> None:
    """Adds a workload's rows and ratio to `store`; rows stay where a later program fails."""
    entry = {"rows": {}, "ratios": {}}
    for program in ("cml_jax", "torch.func"):
        row = programs.run(
            program,
            f"--workload={name}",
            f"--runs={_RUNS.value}",
            f"--tasks={_TASKS.value}",
            f"--precision={precision}",
            params=str(out / f"{name}.npz"),
            device=_DEVICE.value,
            seconds=_left(end),
        )
        entry["rows"][program] = [row]
        store["precisions"][precision][name] = entry
        print(name, precision, program, f"{row['ms_median']:.2f} ms", flush=True)
    entry["ratios"] = programs.ratios(entry["rows"])
    programs.check_losses(name, entry["rows"], _TOLERANCE[precision])


def train(store: dict, arguments: list[str], out: Path, end: float) -> None:
    """Runs experiments.main and notes when its validation accuracy first reaches the target."""
    if (out / "run").exists():
        raise ValueError(f"{out / 'run'} has an older run, which would be resumed: remove it")
    command = ["-m", "experiments.main", *arguments, f"--workdir={out / 'run'}"]
    rows, reached = [], None
    limit = time.monotonic() + _left(end) - _TO_STOP
    started = time.monotonic()
    with open(out / "run.log", "w") as log:
        process = subprocess.Popen([sys.executable, *command], stdout=log, stderr=log)
        while True:
            ended = process.poll() is not None
            rows = folder.read_rows(out / "run")
            accuracies = [(row.get("validation/accuracy") or 0.0, row) for row in rows]
            first = next((row for value, row in accuracies if value >= _TARGET.value), None)
            if first and not reached:
                reached = first | {"wall_seconds": time.monotonic() - started}
                store["run"] = {"reached": reached}
            if ended or time.monotonic() > limit:
                break
            time.sleep(0.2)
        if not ended:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_TO_STOP)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    results = out / "run" / folder.RESULTS
    store["run"] = {
        "command": shlex.join(["python", "-m", "experiments.main", *arguments]),
        "target": _TARGET.value,
        "reached": reached,
        "wall_seconds": time.monotonic() - started,
        "validations": [row for row in rows if "validation/accuracy" in row],
        "test": json.loads(results.read_text())["test"] if results.exists() else None,
    }
    if not reached:
        last = (out / "run.log").read_text().strip().splitlines()[-1:]
        raise RuntimeError(f"the run ended before it reached {_TARGET.value:.1%}: {last}")


def _left(end):
    left = end - time.monotonic()
    if left < 2 * _TO_STOP:
        raise RuntimeError("no time was left: allow more --minutes")
    return left


if __name__ == "__main__":
    app.run(main)
