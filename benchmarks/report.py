"""The generated part of docs/performance.md."""

import numpy as np

from benchmarks import forms
from benchmarks.workloads import WORKLOADS

_BEGIN, _END = "<!-- measured: begin -->", "<!-- measured: end -->"
EMPTY = f"# Performance\n\n{_BEGIN}\n{_END}\n"


def replace(text: str, measured: str) -> str:
    """`text` with `measured` between its two marks; what is written around them stays.

    Raises:
      ValueError: A mark is missing, or the marks are in the wrong order.
    """
    before, begin, rest = text.partition(_BEGIN + "\n")
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"docs/performance.md lacks the lines {_BEGIN}, {_END}: put them back")
    return f"{before}{begin}\n{measured}\n{end}{after}"


def measured(store: dict, gpu: dict | None = None) -> str:
    """Tables of what `benchmarks.compare` stored and, where it has run, `benchmarks.gpu`."""
    lines = [
        f"Written by `{store['command']}` on {store['cores']} CPU cores ({_versions(store)}).",
        "",
        "![time against torch.func, inner steps and tasks](results/performance.png)",
        "",
        "Medians over the pairs; the ratio is cml_jax's time over the other's, pair by pair. Where",
        "the pairs differ much the machine was not quiet: read both. *Same allocator*: torch.func",
        "under the GLIBC_TUNABLES that cml_jax sets for itself. Peak MB is the process's, compiler",
        "and all.",
        "",
        *_table(store, "GFLOP/s", 1),
    ]
    if gpu:
        lines += ["", *_gpu(gpu)]
    return "\n".join(lines) + "\n"


def _table(store, unit, gflops_in_unit):
    heads = ["workload", "program", "ms a step", "ratio (each pair)", "tasks/s", unit]
    heads += ["of matmul peak", "peak MB", "faults a step", "load before"]
    lines = [_line(heads), _line(["---"] * len(heads))]
    for name, workload in WORKLOADS.items():
        for program, rows in store.get(name, {"rows": {}})["rows"].items():
            ratios = store[name]["ratios"].get(program, [])
            each = ", ".join(f"{ratio:.3f}" for ratio in ratios)
            peak = store[name]["rows"]["cml_jax"][-1]["matmul_gflops"]
            gflops = np.median([row["gflops"] for row in rows])
            memory = max(row.get("peak_device_mb", row["peak_rss_mb"]) for row in rows)
            rates = [row["tasks_per_second"] for row in rows if "tasks_per_second" in row]
            last = rows[-1]
            lines.append(
                _line(
                    [
                        f"{name}: {workload.meaning}" if program == "cml_jax" else "",
                        program,
                        f"{np.median([row['ms_median'] for row in rows]):.1f}",
                        f"**{np.median(ratios):.3f}** ({each})" if ratios else "",
                        f"{np.median(rates):,.0f}" if rates else "",
                        f"{gflops / gflops_in_unit:.1f}",
                        f"{gflops / peak:.0%}",
                        f"{memory:.0f}",
                        f"{last['faults_per_step']:.0f}" if "faults_per_step" in last else "",
                        ", ".join(f"{r['load_before']:.1f}" for r in rows if "load_before" in r),
                    ]
                )
            )
    return lines


def _gpu(gpu):
    lines = ["## On a GPU", "", f"Written by `{gpu['command']}`."]
    for precision, store in gpu["precisions"].items():
        if not store:
            continue
        row = next(iter(store.values()))["rows"]["cml_jax"][-1]
        peak = row["matmul_gflops"] / 1e3
        lines += [
            "",
            f"{row['device']}, precision {precision} (a matrix product: {peak:.0f} TFLOP/s; "
            f"{_versions(store)}):",
            "",
            *_table(store, "TFLOP/s", 1e3),
        ]
    if timed := gpu.get("convolutions"):
        lines += ["", f"`{timed['origin']['command']}`, ms of a block's part of a step:", ""]
        lines.append(forms.table(timed["rows"]))
    run = gpu.get("run")
    if run and run["reached"]:
        at = run["reached"]
        lines += [
            "",
            f"`{run['command']}` reached {run['target']:.1%} on validation at step {at['step']}, "
            f"{at['seconds']:.0f} s after training began and {at['wall_seconds']:.0f} s after the "
            "program was started.",
        ]
    for name, runs in gpu.get("studies", {}).items():
        lines += ["", f"`{name}`:", "", _line(["run", "steps", "minutes"]), _line(["---"] * 3)]
        for label, run in runs.items():
            of = "" if run["ended"] else ", not at its end"
            lines.append(_line([label, f"{run['step']:,}{of}", f"{run['wall_seconds'] / 60:.1f}"]))
    lines += [f"\nNot measured: {part}: {reason}" for part, reason in gpu["failed"].items()]
    return lines


def _versions(store):
    versions = {}
    for name in WORKLOADS:
        for rows in store.get(name, {"rows": {}})["rows"].values():
            versions |= rows[-1]["versions"]
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def _line(cells):
    return f"| {' | '.join(cells)} |"
