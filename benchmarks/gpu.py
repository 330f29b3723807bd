"""Measures everything that is to be known of a GPU, in one command of bounded time.

    python -m benchmarks.gpu --out=gpu
    python -m benchmarks.gpu --out=gpu -- --config=configs/omniglot.py --config.data.dir=FOLDER

First the forms of the convolutions, which sets the device's row of cml_jax/ops/forms.json for all
that follows (OUT/forms.json is a copy, to be kept). Then W1-W6 in cml_jax and in torch.func, in the
device's own precision and in float32; and how long the program takes, from its start, to 98.7% on
validation tasks of Omniglot (what comes after `--` is its command line). Last the papers' tables:
MAML and MAML + CML on CIFAR-FS and on miniImageNet, 30,000 steps each.

OUT/gpu.json is written after each part; a part that fails or takes too long is named in "failed",
and the others still run. The same command, given again, does what is left: training goes on from
its last checkpoint, on another machine too where OUT was carried there. Copied to
docs/results/gpu.json, gpu.json becomes part of the report of `benchmarks.compare`; OUT/NAME.json of
a study is its docs/results/NAME.json.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from absl import app, flags

from benchmarks import programs, training
from benchmarks.workloads import WORKLOADS
from cml_jax.ops import forms
from experiments.run_folder import folder
from experiments.studies import STUDIES

_OUT = flags.DEFINE_string("out", "gpu", "folder of gpu.json, of the run and of its log")
_MINUTES = flags.DEFINE_float("minutes", 8.5, "most minutes for everything")
_TARGET = flags.DEFINE_float("target", 0.987, "validation accuracy to be reached")
_WORKLOADS = flags.DEFINE_list(
    "workloads", ["W1", "W3", "W5", "W6", "W2", "W4"], "workloads to time"
)
_FORMS = flags.DEFINE_list("forms", ["W1", "W3", "W6"], "workloads whose convolutions are timed")
_RUNS = flags.DEFINE_integer("runs", 20, "timed steps")
_TASKS = flags.DEFINE_integer("tasks", 0, "tasks in a meta-batch; 0: the workload's own")
_STUDIES = flags.DEFINE_list(
    "studies", ["cifar_fs_full", "mini_imagenet_full"], "studies whose runs are made"
)
_SETTINGS = flags.DEFINE_list("settings", [], "more settings of these runs, as train_steps=10")
_DEVICE = flags.DEFINE_enum("device", "cuda", ["cuda", "cpu"], "cpu is for trying the program out")

# First losses may differ by this part: TF32 keeps three digits, and the inner step widens that.
_TOLERANCE = {"default": 5e-2, "float32": 1e-3}


def main(argv):
    for flag, known in ((_STUDIES, STUDIES), (_WORKLOADS, WORKLOADS), (_FORMS, WORKLOADS)):
        for name in flag.value:
            if name not in known:
                raise app.UsageError(f"--{flag.name}={name}: choose from {', '.join(known)}")
    end = time.monotonic() + 60 * _MINUTES.value
    out = Path(_OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    store = {"precisions": {p: {} for p in _TOLERANCE}, "done": [], "studies": {}}
    if (out / "gpu.json").exists():
        store = folder.read_json(out / "gpu.json")
    store["command"] = shlex.join(["python", "-m", "benchmarks.gpu", *sys.argv[1:]])
    store["failed"] = {}

    def part(name, function, *arguments):
        if name in store["done"]:
            return
        try:
            function(store, *arguments)
            store["done"].append(name)
        except (RuntimeError, ValueError, OSError, subprocess.TimeoutExpired) as error:
            store["failed"][name] = str(error)
            print(f"{name}: {error}", flush=True)
        folder.write_json(out / "gpu.json", store)

    if "forms" in store["done"]:
        shutil.copy(out / "forms.json", forms.PATH)
    elif _FORMS.value:
        part("forms", set_forms, out, 0.3 * _MINUTES.value)
    # Time is kept for the run, which comes before what matters least.
    for name in _WORKLOADS.value:
        part(f"{name}, default", compare, name, "default", out, end - 0.4 * 60 * _MINUTES.value)
    part("run", to_target, argv[1:] or ["--config=configs/omniglot.py"], out, end)
    for name in _WORKLOADS.value:
        part(f"{name}, float32", compare, name, "float32", out, end)
    for name in _STUDIES.value:
        part(name, train, name, out, end)


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


def to_target(store: dict, arguments: list[str], out: Path, end: float) -> None:
    """Adds to `store` how long experiments.main takes to the target."""
    _left(end)
    store["run"] = run = training.to_target(arguments, _TARGET.value, out, end)
    if not run["reached"]:
        last = (out / "run.log").read_text().strip().splitlines()[-1:]
        raise RuntimeError(f"the run ended before it reached {_TARGET.value:.1%}: {last}")


def train(store: dict, name: str, out: Path, end: float) -> None:
    """Makes the runs of a study, and adds to `store` how far each got."""
    done = store["studies"].setdefault(name, {})
    training.study_cells(name, done, _SETTINGS.value, out, end)


def _left(end):
    left = end - time.monotonic()
    if left < 2 * training.TO_STOP:
        raise RuntimeError("no time was left: allow more --minutes")
    return left


if __name__ == "__main__":
    app.run(main)
