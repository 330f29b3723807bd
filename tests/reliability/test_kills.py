"""Runs that are killed at random moments, or whose disk is full, lose nothing and end the same."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest
from support.runs import GLYPHS, ROOT, SINUSOID, command, rows

BOTH = ("--config.weighting=gradient_agreement", "--config.plan.compilation_cache=True")
CONFIGS = {
    "sinusoid": (*SINUSOID, *BOTH, "--config.co_learner=mlp", "--config.eval.num_steps=1,")
    + ("--config.eval.num_tasks=20", "--config.eval.validation_tasks=20"),
    "glyphs": (*GLYPHS, *BOTH, "--config.co_learner=linear", "--config.train_steps=20")
    + ("--config.eval.every=10", "--config.plan.steps_per_dispatch=2", "--config.model.filters=4")
    + ("--config.log_every_seconds=0", "--config.eval.num_steps=1,"),
}
SAVES = "--config.checkpoint_every_minutes=0"  # after every dispatch


def start(folder, name, *arguments, before=()):
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "CML_JAX_CACHE": str(folder / "cache")}
    return subprocess.Popen(
        [*before, *command(folder / name, *arguments)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(folder, name, *arguments, before=()):
    process = start(folder, name, *arguments, before=before)
    errors = process.communicate(timeout=300)[1]
    return process.returncode, errors


def steps(workdir):
    """The steps of the checkpoints to resume from."""
    folder = workdir / "last"
    return [int(p.name) for p in folder.iterdir() if p.name.isdigit()] if folder.exists() else []


def ending(workdir):
    """All that a run leaves: the bits of its last state, its reports, its test."""
    about = workdir / "last" / str(max(steps(workdir))) / "about" / "metadata"
    test = json.loads((workdir / "results.json").read_text())["test_all"]
    return json.loads(about.read_text())["leaves_digest"], rows(workdir), test


@pytest.mark.parametrize(("name", "kills"), [("sinusoid", 4), ("glyphs", 1)])
def test_a_run_that_is_killed_at_random_moments_ends_with_the_same_bits(tmp_path, name, kills):
    code, errors = finish(tmp_path, "calm", *CONFIGS[name])
    assert code == 0, errors
    rng, at, expected = random.Random(0), [], [0]
    for _ in range(kills):
        process = start(tmp_path, "hurt", *CONFIGS[name], SAVES)
        reports, pause = rng.randrange(4), rng.uniform(0, 0.3)
        for line in process.stderr:
            if line.startswith("resuming at step "):
                at.append(int(re.search(r"\d+", line)[0]))
                assert at[-1] == max(expected), "a checkpoint that was whole is not resumed from"
            reports -= line.startswith("step ")
            if reports < 0:
                break
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, "it ended before the kill"
        expected = steps(tmp_path / "hurt") or [0]
    code, errors = finish(tmp_path, "hurt", *CONFIGS[name], SAVES)
    assert code == 0, errors
    assert len(set(at)) > 1 or kills < 3  # it did make steps in between
    assert ending(tmp_path / "hurt") == ending(tmp_path / "calm")
    reported = [row["step"] for row in rows(tmp_path / "hurt")]
    assert reported == sorted(set(reported))


def own_lines(errors):
    """The program's errors. Threads of tensorstore, whose writes fail after orbax has stopped
    waiting for them, may print that an event loop is closed, before and after: not ours to stop."""
    assert "/experiments/" not in errors, errors
    return re.findall(r"error: checkpoint .*", errors)


def test_files_that_may_not_grow_are_one_line_and_the_run_resumes_afterwards(tmp_path):
    """The kernel refuses what a full disk refuses: writes beyond 12 kB fail."""
    process = start(tmp_path, "run", *CONFIGS["sinusoid"], SAVES)
    for line in process.stderr:
        if line.startswith("step 120/"):
            break
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    good = max(steps(tmp_path / "run"))
    limit = ("bash", "-c", 'ulimit -f 12; exec "$@"', "bash")
    code, errors = finish(tmp_path, "run", *CONFIGS["sinusoid"], SAVES, before=limit)
    assert code == 1, errors
    assert len(own_lines(errors)) == 1 and "not saved" in own_lines(errors)[0], errors
    assert max(steps(tmp_path / "run")) == good
    code, errors = finish(tmp_path, "run", *CONFIGS["sinusoid"], SAVES)
    assert code == 0 and f"resuming at step {good} of" in errors, errors
    assert [row["step"] for row in rows(tmp_path / "run")] == list(range(20, 401, 20))


ON_A_DISK_OF_ITS_OWN = """
mount -t tmpfs -o size=4m tmpfs "$1" || exit 9
out=$PWD; disk=$1; shift
( until ls -d "$disk"/run/last/*0; do sleep 0.05; done; cat /dev/zero > "$disk/ballast" ) 2> fill &
"$@" --workdir="$disk/run" > out 2> full; echo $? > full-code
wait
ls "$disk/run/last" > kept
rm "$disk/ballast"
"$@" --workdir="$disk/run" > out 2> again; echo $? > again-code
cp "$disk/run/metrics.jsonl" .
"""


def test_a_full_disk_is_one_line_and_the_run_resumes_afterwards(tmp_path):
    """A file system of its own with no space left, where the kernel lets a test make one."""
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        probe = [*namespace, "mount", "-t", "tmpfs", "tmpfs", str(disk)]
        subprocess.run(probe, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("FULL DISK NOT TESTED: no file system can be mounted here (unshare, tmpfs)")
    program = [sys.executable, "-m", "experiments.main", *CONFIGS["sinusoid"], SAVES]
    program = [argument.replace("configs/", f"{ROOT}/configs/") for argument in program]
    environment = {"CML_JAX_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [*namespace, "bash", "-c", ON_A_DISK_OF_ITS_OWN, "bash", str(disk), *program],
        check=True,
        cwd=tmp_path,
        env=os.environ | environment,
        timeout=300,
    )
    full, again = ((tmp_path / name).read_text() for name in ("full", "again"))
    assert int((tmp_path / "full-code").read_text()) == 1, full
    assert len(own_lines(full)) == 1 and "o space left" in own_lines(full)[0], full
    kept = [int(name) for name in (tmp_path / "kept").read_text().split() if name.isdigit()]
    assert int((tmp_path / "again-code").read_text()) == 0, again
    assert f"resuming at step {max(kept)} of" in again
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(20, 401, 20))
