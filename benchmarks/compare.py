"""Times cml_jax beside torch.func in turn, and writes docs/performance.md.

    pip install -e '.[benchmarks]'
    python -m benchmarks.compare

Both start from the same parameters and tasks and must report the same first loss. The two programs
run A B A B, each in a process of its own, and the ratio is taken pair by pair; before each pair the
machine's load is waited for to fall, and what it was is in the table.
"""

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import app, flags

from benchmarks.workloads import WORKLOADS

_WORKLOADS = flags.DEFINE_list("workloads", list(WORKLOADS), "which")
_PAIRS = flags.DEFINE_integer("pairs", 3, "how often both are run", lower_bound=1)
_MINUTES = flags.DEFINE_float("minutes", 10.0, "at most, for one program in one pair")
_MAX_LOAD = flags.DEFINE_float("max_load", 1.0, "of the machine, before a pair starts")
_WAIT = flags.DEFINE_float("wait_minutes", 3.0, "at most, for the load to fall")
_GROWTH = flags.DEFINE_boolean("growth", True, "also time W4 and W1 over inner steps and tasks")

_STORE = Path("docs/results/performance.json")
_RUNS = {"W1": 10, "W2": 3, "W3": 5, "W4": 50}
_LOOPS = ("W3", "W4")  # also as a Python loop over tasks, as the released code has it


def main(_):
    store = json.loads(_STORE.read_text()) if _STORE.exists() else {}
    store["command"] = shlex.join(["python", "-m", "benchmarks.compare", *sys.argv[1:]])
    for name in _WORKLOADS.value:
        store[name] = compare(name)
        _write(store)
    if _GROWTH.value:
        store["growth"] = growth()
        _write(store)


def compare(name: str) -> dict:
    """Runs a workload's programs in turn; returns their rows and the ratios of their medians."""
    rows = {"cml_jax": [], "torch.func": []} | ({"torch loop": []} if name in _LOOPS else {})
    with tempfile.TemporaryDirectory() as folder:
        params = f"{folder}/params.npz"
        for _ in range(_PAIRS.value):
            load = _quiet()
            for program, done in rows.items():
                arguments = [f"--workload={name}", f"--runs={_RUNS[name]}"]
                if program == "cml_jax":
                    row = _run("benchmarks.step", *arguments, "--json", f"--export={params}")
                else:
                    loop = ["--loop"] if program == "torch loop" else []
                    row = _run("benchmarks.torch_step", *arguments, f"--params={params}", *loop)
                print(name, program, f"{row['ms_median']:.1f} ms", flush=True)
                done.append(row | {"load_before": load})
    losses = {program: done[0]["first_loss"] for program, done in rows.items()}
    if max(losses.values()) - min(losses.values()) > 1e-3 * max(losses.values()):
        raise ValueError(f"{name}: the programs do not compute the same loss: {losses}")
    ratios = {
        program: [
            a["ms_median"] / b["ms_median"] for a, b in zip(rows["cml_jax"], done, strict=True)
        ]
        for program, done in rows.items()
        if program != "cml_jax"
    }
    return {"rows": rows, "ratios": ratios}


def growth() -> dict:
    """Time and memory of cml_jax against inner steps (with and without remat) and tasks."""
    steps, tasks = (1, 2, 5, 10, 20), (4, 16, 64, 256)
    return {
        "inner steps": {
            remat: [
                _run(
                    "benchmarks.step",
                    "--workload=W1",
                    "--tasks=4",
                    f"--inner_steps={k}",
                    "--runs=5",
                    "--json",
                    f"--remat={remat}",
                )
                for k in steps
            ]
            for remat in ("false", "true")
        },
        "tasks": [
            _run("benchmarks.step", "--workload=W1", f"--tasks={t}", "--runs=3", "--json")
            for t in tasks
        ],
        "steps": steps,
        "counts": tasks,
    }


def _run(module, *arguments) -> dict:
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60 * _MINUTES.value, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()[-300:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _quiet() -> float:
    """Waits until the load is low, at most `--wait_minutes`; returns it."""
    give_up = time.monotonic() + 60 * _WAIT.value
    while os.getloadavg()[0] > _MAX_LOAD.value and time.monotonic() < give_up:
        time.sleep(5)
    return os.getloadavg()[0]


def _write(store):
    _STORE.parent.mkdir(parents=True, exist_ok=True)
    _STORE.write_text(json.dumps(store, indent=1) + "\n", encoding="utf-8")
    Path("docs/performance.md").write_text(report(store), encoding="utf-8")


def report(store: dict) -> str:
    """docs/performance.md from what was measured."""
    lines = [
        "# Performance",
        "",
        f"Written by `{store['command']}`.",
        "",
        "One second-order MAML step over a whole meta-batch, float32; the programs in turn, a",
        "process each, medians over the pairs; the ratio is cml_jax's time over the other's, pair",
        "by pair. Where the pairs differ much the machine was not quiet: read both.",
        "",
        "| workload | program | ms a step | ratio (each pair) | GFLOP/s | of matmul peak | peak MB "
        "| faults a step | load before |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, workload in WORKLOADS.items():
        if name not in store:
            continue
        for program, rows in store[name]["rows"].items():
            ratios = store[name]["ratios"].get(program, [])
            each = ", ".join(f"{r:.3f}" for r in ratios)
            ratio = f"**{np.median(ratios):.3f}** ({each})" if ratios else ""
            last = rows[-1]
            share = last.get("fraction_of_matmul_peak")
            cells = [
                f"{name}: {workload.meaning}" if program == "cml_jax" else "",
                program,
                f"{np.median([r['ms_median'] for r in rows]):.1f}",
                ratio,
                f"{np.median([r['gflops'] for r in rows]):.1f}",
                f"{share:.0%}" if share else "",
                f"{max(r['peak_rss_mb'] for r in rows):.0f}",
                f"{last['faults_per_step']:.0f}" if "faults_per_step" in last else "",
                ", ".join(f"{r['load_before']:.1f}" for r in rows),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    if "growth" in store:
        grown = store["growth"]
        plain, remat = grown["inner steps"]["false"], grown["inner steps"]["true"]
        lines += ["", "W1 with 4 tasks against inner steps:", ""]
        lines += ["| inner steps | ms | peak MB | ms, remat | peak MB, remat |"]
        lines += ["| --- | --- | --- | --- | --- |"]
        for k, a, b in zip(grown["steps"], plain, remat, strict=True):
            cells = [str(k)]
            for row in (a, b):
                cells += [f"{row['ms_median']:.0f}", f"{row['peak_rss_mb']:.0f}"]
            lines.append(f"| {' | '.join(cells)} |")
        lines += ["", "W1 against tasks:", "", "| tasks | ms | ms a task |", "| --- | --- | --- |"]
        for t, row in zip(grown["counts"], grown["tasks"], strict=True):
            lines.append(f"| {t} | {row['ms_median']:.0f} | {row['ms_median'] / t:.1f} |")
    versions = {}
    for name in WORKLOADS:
        for rows in store.get(name, {"rows": {}})["rows"].values():
            versions |= rows[-1]["versions"]
    lines += ["", f"{os.cpu_count()} CPU cores; {versions}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    app.run(main)
