"""What a user waits for: seconds from the command to the first report, and to the end.

    python -m benchmarks.wait [--starts=glyphs,omniglot] [--rounds=3]

Every workload is started twice in each round, with an empty cache (of data and of compiled
programs) and with what that start left in it, and makes 20 meta-steps, one validation and the
config's test. The times are those at which the program's messages appear; the table has their
medians. "whole run" is the config's own number of meta-steps and validations at the pace that was
measured after compilation, and the share of it that its validations and its test take.
"""

import json
import os
import re
import runpy
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from absl import app, flags

from experiments.report.table import markdown
from experiments.run_folder import folder as files

_WORKLOADS = {
    "glyphs": ("configs/glyphs.py", ()),
    "sinusoid": ("configs/sinusoid.py", ()),
    "omniglot": ("configs/omniglot.py", ("co_learner=conv",)),
    "cifar_fs": ("configs/cifar_fs.py:5way-1shot", ()),
    "nodes": ("configs/nodes.py", ("data.name=citeseer",)),
}
_NAMES = flags.DEFINE_list("starts", list(_WORKLOADS), "what to start")
_ROUNDS = flags.DEFINE_integer("rounds", 1, "how often", lower_bound=1)
_TIMES = flags.DEFINE_string("times", "", "a JSON file of all times, or nothing")

_STEPS = 20
# The message that ends a part of the start; what is between it and the one before is the part.
_PARTS = {
    "import, settings": re.compile("run: "),
    "data": re.compile("compiling$"),
    "trace, compile": re.compile("plan: "),
    "10 steps": re.compile(r"step 10/"),
    "10 more, validation": re.compile(rf"step {_STEPS}/"),
}


def main(_):
    rows = []
    for name in _NAMES.value:
        if name not in _WORKLOADS:
            raise app.UsageError(f"no workload {name}: choose from {', '.join(_WORKLOADS)}")
        for _ in range(_ROUNDS.value):
            with tempfile.TemporaryDirectory() as cache:
                for state in ("cold", "warm"):
                    rows.append({"workload": name, "cache": state, **_start(name, cache)})
                    print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    if _TIMES.value:
        files.write_json(Path(_TIMES.value), rows)
    print(_table(rows))


def _start(name: str, cache: str) -> dict:
    """Starts a workload; returns the seconds of its parts."""
    config, settings = _WORKLOADS[name]
    settings = (*settings, f"train_steps={_STEPS}", f"eval.every={_STEPS}", "log_every_seconds=0")
    settings += ("plan.steps_per_dispatch=10", "eval.patience=0")
    with tempfile.TemporaryDirectory() as workdir:
        command = [sys.executable, "-m", "experiments.main", f"--config={config}"]
        command += [f"--config.{setting}" for setting in settings]
        environment = os.environ | {"CML_JAX_CACHE": cache, "PYTHONUNBUFFERED": "1"}
        began = time.monotonic()
        seen = []
        with subprocess.Popen(
            [*command, f"--workdir={workdir}/run"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            for line in process.stdout or ():
                seen.append((time.monotonic() - began, line.rstrip()))
        if process.returncode:
            raise RuntimeError(f"{' '.join(command[1:])} failed: {seen[-1][1]}")
        ended = time.monotonic() - began
    times, before = {}, 0.0
    for part, message in _PARTS.items():
        at = next(at for at, line in seen if message.match(line))
        times[part], before = at - before, at
    times["test, report"] = ended - before
    return {part: round(seconds, 2) for part, seconds in times.items()}


def _table(rows: list[dict]) -> str:
    """The medians, in Markdown: a row for each workload and state of the cache."""
    parts = [*_PARTS, "test, report"]
    lines = []
    for name, state in dict.fromkeys((row["workload"], row["cache"]) for row in rows):
        own = [row for row in rows if (row["workload"], row["cache"]) == (name, state)]
        times = {part: median(row[part] for row in own) for part in parts}
        first = sum(times[part] for part in parts[:4])
        shares = _shares(name, times) if state == "warm" else ""
        ended = sum(times.values())
        cells = [f"{times[part]:.1f}" for part in parts]
        lines.append([name, state, *cells, f"**{first:.1f}**", f"{ended:.1f}", shares])
    header = ["workload", "cache", *parts, "to the first report", "to the end", "whole run"]
    return markdown(header, lines)


def _shares(name: str, times: dict[str, float]) -> str:
    """How long the config's own run takes, and what of it are validations and the test."""
    path, _, text = _WORKLOADS[name][0].partition(":")
    config = runpy.run_path(path)["get_config"](*filter(None, [text]))
    # With a warm cache little but the steps is in these parts.
    step = times["10 steps"] / 10
    validation = max(times["10 more, validation"] - times["10 steps"], 0.0)
    training = config.train_steps * step
    validations = config.train_steps // config.eval.every * validation
    test = times["test, report"]
    whole = training + validations + test
    return f"{whole / 60:.0f} min, {validations / whole:.0%} + {test / whole:.0%}"


if __name__ == "__main__":
    app.run(main)
