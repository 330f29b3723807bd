"""Kills and damages runs for an hour: `python -m benchmarks.soak --minutes=60`.

Every round, with a seed of its own, makes two runs: one that nothing disturbs, whose memory is
watched, and the same one killed at random moments (-9, -15), with random damage before each
restart. Both must end with the same bits. Finished rounds are kept in soak.json, so that the same
command resumes.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from absl import app, flags

from experiments.run_folder import folder as files
from experiments.run_folder.results import read_results

_MINUTES = flags.DEFINE_float("minutes", 60.0, "minutes after which no round starts", lower_bound=0)
_FOLDER = flags.DEFINE_string("folder", "runs/soak", "folder of the runs and of soak.json")
_STEPS = flags.DEFINE_integer("steps", 20_000, "meta-steps of a run", lower_bound=1000)
_CLOCKS = ("seconds", "tasks_per_second")


class Failure(Exception):
    """A run lost something, or differs from the undisturbed one."""


def main(_):
    folder = Path(_FOLDER.value).absolute()
    table = folder / "soak.json"
    rounds = json.loads(table.read_text()) if table.exists() else []
    end = time.monotonic() + 60 * _MINUTES.value
    while time.monotonic() < end:
        seed = len(rounds)
        for name in ("calm", "hurt"):
            shutil.rmtree(folder / name, ignore_errors=True)
        result = {"seed": seed} | _calm(folder, seed)
        result |= _hurt(folder, seed)
        rounds.append(result | _compare(folder / "calm", folder / "hurt"))
        files.write_json(table, rounds)
        print(json.dumps(rounds[-1]), flush=True)
    print(_table(rounds))


def _start(folder: Path, name: str, seed: int) -> tuple[subprocess.Popen, Path]:
    """Starts or resumes a run; returns its process and the file with its messages."""
    command = [sys.executable, "-m", "experiments.main", "--config=configs/sinusoid.py"]
    changes = {
        "seed": seed,
        "train_steps": _STEPS.value,
        "co_learner": "mlp",
        "weighting": "gradient_agreement",
        "outer_schedule": "cosine",
        "tasks_per_step": 4,
        "plan.steps_per_dispatch": 100,
        "eval.every": _STEPS.value // 10,
        "eval.num_tasks": 50,
        "eval.validation_tasks": 50,
        "eval.num_steps": "1,",
        "checkpoint_every_minutes": 0.01,
        "log_every_seconds": 0,
    }
    command += [f"--config.{k}={v}" for k, v in changes.items()]
    messages = folder / f"{name}.log"
    messages.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"CML_JAX_CACHE": str(folder / "cache"), "MPLBACKEND": "Agg"}
    with open(messages, "w") as file:
        process = subprocess.Popen(
            [*command, f"--workdir={folder / name}"], env=environment, stdout=file, stderr=file
        )
    return process, messages


def _calm(folder: Path, seed: int) -> dict:
    """Makes a run that nothing disturbs; returns how much memory it took while it trained."""
    process, messages = _start(folder, "calm", seed)
    memory = []
    while process.poll() is None:
        time.sleep(0.5)
        training = re.search(r"^step \d+/", messages.read_text(), re.MULTILINE)
        if training and "test:" not in messages.read_text():
            memory.append(_resident(process.pid))
    if process.returncode:
        raise Failure(f"the calm run ended with {process.returncode}: {messages}")
    memory = [bytes_ for bytes_ in memory if bytes_]
    middle, last = (sorted(part)[len(part) // 2] for part in (_part(memory, 1), _part(memory, 2)))
    return {"mb_middle_third": round(middle / 1e6, 1), "mb_last_third": round(last / 1e6, 1)}


def _part(values: list[int], third: int) -> list[int]:
    size = max(len(values) // 3, 1)
    return values[third * size :][:size] or values[-1:]


def _resident(pid: int) -> int:
    """Bytes of a process that are in memory; 0 when it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _hurt(folder: Path, seed: int) -> dict:
    """Makes the same run, killed and damaged until it is done; returns what was done to it."""
    rng, workdir = random.Random(seed), folder / "hurt"
    counts, expected, doubtful = Counter(), {0}, set()
    while True:
        process, messages = _start(folder, "hurt", seed)
        try:
            process.wait(_moment(rng, messages))
        except subprocess.TimeoutExpired:
            pass
        ended = process.poll()
        sent = rng.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM))
        if ended is None:
            process.send_signal(sent)
            counts[sent.name] += 1
        process.wait()
        text = messages.read_text()
        resumed = re.search(r"^resuming at step (\d+)", text, re.MULTILINE)
        if resumed and int(resumed[1]) not in expected:
            raise Failure(f"resumed at {resumed[1]} and not at one of {expected}: {messages}")
        if not resumed and 0 not in expected and re.search(r"^step \d+/", text, re.MULTILINE):
            raise Failure(f"started again and not at one of {expected}: {messages}")
        if ended == 0:
            return {"kills": dict(counts)}
        if ended is not None:
            raise Failure(f"ended with {ended}: {messages}")
        steps = _steps(workdir)
        newest = max(steps, default=0)
        fault = rng.choice(list(_FAULTS))
        if fault == "damaged checkpoint" and len(steps) < 2:
            fault = "none"
        if _FAULTS[fault](workdir, rng):
            counts[fault] += 1
        if fault == "damaged checkpoint":
            doubtful.add(newest)
        # A damaged one may still be good: the byte may be one that nobody reads.
        expected = set(steps) if newest in doubtful else {newest}


def _moment(rng: random.Random, messages: Path) -> float:
    """Seconds until the kill, counted from the start (one time in four) or from a report."""
    if rng.random() < 0.25:
        return rng.uniform(0, 15)
    for _ in range(600):
        if re.search(r"^(step \d+/|test of step|finished)", messages.read_text(), re.MULTILINE):
            break
        if "error:" in messages.read_text():
            break
        time.sleep(0.1)
    return rng.uniform(0, 5)


def _steps(workdir: Path) -> list[int]:
    """The steps of the checkpoints to resume from."""
    folder = workdir / files.LAST
    return (
        sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.exists() else []
    )


def _damage_checkpoint(workdir: Path, rng: random.Random) -> bool:
    newest = workdir / files.LAST / str(_steps(workdir)[-1])
    path = rng.choice([p for p in sorted(newest.rglob("*")) if p.is_file() and p.stat().st_size])
    data = bytearray(path.read_bytes())
    kind = rng.randrange(3)
    if kind == 0:
        path.unlink()
    elif kind == 1:
        path.write_bytes(data[: rng.randrange(len(data))])
    else:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
    return True


def _cut_metrics(workdir: Path, rng: random.Random) -> bool:
    """Writes half a line after the last one, as a kill in the middle of a write does."""
    path = workdir / files.METRICS
    if not path.exists():
        return False
    with open(path, "ab") as file:
        file.write(b'{"step": 123, "train/lo')
    return True


def _leave_temporary_files(workdir: Path, rng: random.Random) -> bool:
    if not (workdir / files.LAST).exists():
        return False
    (workdir / f".{files.METRICS}.host.{rng.randrange(10**6)}").write_bytes(b"{")
    step = max(_steps(workdir), default=0) + 1
    half = workdir / files.LAST / f"{step}.orbax-checkpoint-tmp" / "state"
    half.mkdir(parents=True, exist_ok=True)
    (half / "manifest.ocdbt").write_bytes(rng.randbytes(20))
    return True


_FAULTS = {
    "none": lambda workdir, rng: True,
    "damaged checkpoint": _damage_checkpoint,
    "cut metrics": _cut_metrics,
    "temporary files": _leave_temporary_files,
}


def _compare(calm: Path, hurt: Path) -> dict:
    """Compares the bits of the last state, of every report, and of the test."""
    step = _steps(calm)[-1]
    about = [
        json.loads((each / files.LAST / str(step) / "about" / "metadata").read_text())
        for each in (calm, hurt)
    ]
    if about[0]["leaves_digest"] != about[1]["leaves_digest"]:
        raise Failure(f"the parameters of step {step} differ: {hurt}")
    rows = [
        [{k: v for k, v in row.items() if k not in _CLOCKS} for row in files.read_rows(each)]
        for each in (calm, hurt)
    ]
    if rows[0] != rows[1]:
        raise Failure(f"the reports differ: {hurt}")
    tests = [read_results(each).test_all for each in (calm, hurt)]
    if tests[0] != tests[1]:
        raise Failure(f"the tests differ: {hurt}")
    return {"steps": step, "same": True, "digest": about[0]["leaves_digest"][:12]}


def _table(rounds: list[dict]) -> str:
    lines = ["| seed | steps | kills and damage | MB, middle and last third | same bits |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for row in rounds:
        kills = ", ".join(f"{count} {name}" for name, count in sorted(row["kills"].items()))
        memory = f"{row['mb_middle_third']}, {row['mb_last_third']}"
        lines.append(f"| {row['seed']} | {row['steps']} | {kills} | {memory} | yes |")
    return "\n".join(lines)


if __name__ == "__main__":
    app.run(main)
