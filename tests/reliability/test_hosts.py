"""Two real processes on this machine: the numbers of one, a stop on any, a peer that is killed."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from experiments.machine import processes
from experiments.settings.checks import check
from experiments.settings.config import ConfigError, default_config

ROOT = Path(__file__).parents[2]
SECONDS = 300  # of patience with one start: a loaded machine is slow
ARGUMENTS = (
    "--config=configs/sinusoid.py",
    "--config.co_learner=mlp",
    "--config.weighting=gradient_agreement",
    "--config.tasks_per_step=8",
    "--config.train_steps=100",
    "--config.eval.every=50",
    "--config.eval.num_tasks=64",
    "--config.eval.validation_tasks=64",
    "--config.eval.num_steps=1,",
    "--config.plan.devices=4",
    "--config.plan.malloc=False",
    "--config.plan.compilation_cache=False",
    "--config.log_every_seconds=0",
)
PROGRAM = """
from absl import app
from experiments import main
from experiments.settings.command_line import parse_flags
app.run(main.main, flags_parser=parse_flags)
"""
# The newest checkpoint, which others can read.
UNREADABLE = """
from experiments.run_folder import checkpoints
def read(manager, step, template, real=checkpoints._read):
    if step == 100 and manager.directory.name == "last":
        raise {}
    return real(manager, step, template)
checkpoints._read = read
"""
FAST, SLOW = (f"--config.plan.steps_per_dispatch={steps}" for steps in (50, 1))


@contextmanager
def started(workdir, *arguments, processes=2, seconds=60, broken=None):
    """The processes of one run; what they say is in the files of `said`. None is left over.

    `broken` is `(index, code)`: what that process alone runs before the program.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # The same programs again and again: compiled once.
    cache = workdir.parent.parent / "compiled"
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "TMPDIR": str(workdir.parent),
    }
    children = []
    for index in range(processes):
        command = [sys.executable, "-m", "experiments.main", *ARGUMENTS, f"--workdir={workdir}"]
        if broken and index == broken[0]:
            command[1:3] = ["-c", broken[1] + PROGRAM]
        if processes > 1:
            command += [
                f"--config.hosts.coordinator=127.0.0.1:{port}",
                f"--config.hosts.count={processes}",
                f"--config.hosts.index={index}",
                f"--config.hosts.timeout_seconds={seconds}",
            ]
        with open(said(workdir, index), "wb") as stderr:
            children.append(
                subprocess.Popen(
                    [*command, *arguments],
                    cwd=ROOT,
                    env=environment,
                    stdout=subprocess.DEVNULL,
                    stderr=stderr,
                )
            )
    try:
        yield children
    finally:
        for child in children:
            child.kill()
            child.wait()


def said(workdir, index):
    return workdir.with_name(f"{workdir.name}-stderr-{index}")


def lines(workdir, index):
    return said(workdir, index).read_text().splitlines()


def wait_for(workdir, pattern):
    """Until process 0 has said it."""
    end = time.monotonic() + SECONDS
    while not re.search(pattern, said(workdir, 0).read_text(), re.MULTILINE):
        assert time.monotonic() < end, lines(workdir, 0)
        time.sleep(0.02)


def codes(children, seconds=SECONDS):
    end = time.monotonic() + seconds
    return [child.wait(timeout=max(end - time.monotonic(), 0)) for child in children]


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def numbers(workdir):
    """What the end of a run says, without the clocks."""
    last = rows(workdir)[-1]
    test = json.loads((workdir / "results.json").read_text())["test"]
    kept = {k: v for k, v in last.items() if "second" not in k}
    return kept | {"test": test["mse"], "ci95": test["ci95"]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One process with four devices, never interrupted."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    with started(workdir, FAST, processes=1) as children:
        assert codes(children) == [0], lines(workdir, 0)
    return workdir


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """Two processes with two devices each; a SIGTERM to the second alone."""
    workdir = tmp_path_factory.mktemp("two") / "run"
    with started(workdir, SLOW) as children:
        wait_for(workdir, "^compiling")  # the folder is in use; steps would pass too quickly
        second = subprocess.run(
            [sys.executable, "-m", "experiments.main", *ARGUMENTS, f"--workdir={workdir}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert second.returncode == 2
        assert f"is in use by process {children[0].pid} on " in second.stderr
        wait_for(workdir, "^step 3/")
        children[1].send_signal(signal.SIGTERM)
        assert codes(children) == [1, 1], lines(workdir, 1)
    return workdir


def test_a_signal_to_one_process_stops_all_at_one_step(stopped):
    assert [lines(stopped, index)[-1] for index in (0, 1)] == [
        "error: stopped before the end: the same command resumes from here"
    ] * 2
    assert lines(stopped, 1)[0].startswith("stopping at the next report")
    assert "plan: 4 x cpu of 2 processes" in said(stopped, 0).read_text()
    [saved] = (stopped / "last").iterdir()
    assert int(saved.name) == rows(stopped)[-1]["step"] < 50
    assert not (stopped / "results.json").exists()


@pytest.fixture(scope="module")
def killed(stopped):
    """The same run, started again twice; each process was killed once."""
    survivors = []
    for victim in (0, 1):
        with started(stopped, SLOW, seconds=10) as children:
            wait_for(stopped, r"^resuming at step (.*\n)+step ")
            children[victim].kill()
            code = codes([children[1 - victim]], seconds=40)
            survivors.append((code, lines(stopped, 1 - victim)))
    return stopped, survivors


def test_the_survivor_of_a_killed_process_ends_with_a_line(killed):
    for code, told in killed[1]:
        assert code == [1], told
        ours = [line for line in told if not re.match("step |compiling|plan: |resuming ", line)]
        assert len(ours) == 1 and ours[0].startswith(f"error: {processes.GONE}")


@pytest.mark.parametrize("processes", [2, 1])
def test_the_run_resumes_in_two_processes_or_in_one(killed, whole, tmp_path, processes):
    workdir = shutil.copytree(killed[0], tmp_path / "run")
    with started(workdir, FAST, processes=processes) as children:
        assert codes(children) == [0] * processes, lines(workdir, 0)
    if processes == 2:
        assert lines(workdir, 1) == []  # process 0 speaks for all
    steps = [row["step"] for row in rows(workdir)]
    assert steps == sorted(set(steps)) and steps[-2:] == [50, 100]
    actual, expected = numbers(workdir), numbers(whole)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-5, err_msg=name)


@pytest.fixture
def again(whole, tmp_path):
    """The run of one process, as if it had been killed before its test: checkpoints of 50, 100."""
    workdir = shutil.copytree(whole, tmp_path / "run")
    (workdir / "results.json").unlink()
    return workdir


@pytest.mark.parametrize("broken", [None, (1, UNREADABLE.format("ValueError('bits')"))])
def test_a_checkpoint_that_is_damaged_to_one_process_is_left_by_all(again, broken):
    if broken is None:
        for path in (again / "last" / "100" / "state").rglob("*"):
            if path.is_file() and (data := bytearray(path.read_bytes())):
                data[len(data) // 2] ^= 4
                path.write_bytes(data)
    with started(again, FAST, seconds=30, broken=broken) as children:
        assert codes(children) == [0, 0], [lines(again, index) for index in (0, 1)]
    assert "resuming at step 50 of" in said(again, 0).read_text()
    assert "last/100 is damaged, now damaged-last-100: " in said(again, 0).read_text()
    assert (again / "damaged-last-100").exists() and "damaged" not in said(again, 1).read_text()


@pytest.mark.parametrize("index", [0, 1])
def test_a_disk_that_one_process_cannot_read_ends_all_and_nothing_else(again, index):
    failing = UNREADABLE.format("OSError(5, 'Input/output error')")
    before = sorted(again.rglob("*"))
    with started(again, FAST, seconds=30, broken=(index, failing)) as children:
        assert codes(children, seconds=60) == [1, 1]
    told = [[line for line in lines(again, i) if line.startswith("error")] for i in (0, 1)]
    assert [len(errors) for errors in told] == [1, 1], told
    assert "last/100 cannot be read ([Errno 5] Input/output error)" in told[index][0]
    assert told[1 - index][0].startswith(f"error: {processes.GONE}")
    assert "delete" not in str(told)
    assert sorted(again.rglob("*")) == before


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 2}, r"hosts.coordinator='' with hosts.count=2: give the machine"),
        ({"count": 2, "coordinator": "here"}, r"hosts.coordinator='here' with"),
        (
            {"count": 2, "coordinator": "a:1", "index": 2},
            r"hosts.index=2 and .*hosts.count=2: set",
        ),
        ({"coordinator": "a:1"}, r"hosts.coordinator='a:1' with hosts.count=0: set"),
    ],
)
def test_hosts_that_cannot_be_are_refused(values, message):
    config = default_config()
    config.hosts.update(values)
    with pytest.raises(ConfigError, match=message):
        check(config)


def test_a_cluster_is_looked_for_where_there_may_be_one(monkeypatch):
    monkeypatch.setattr(processes.importlib.util, "find_spec", lambda name: None)
    for name in ("OMPI_MCA_orte_hnp_uri", "SLURM_STEP_NODELIST"):
        monkeypatch.delenv(name, raising=False)
    assert not processes.may_be_distributed(0)
    for name in ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID"):
        monkeypatch.setenv(name, "1")
    for tasks in (1, 2):
        monkeypatch.setenv("SLURM_NTASKS", str(tasks))
        assert processes.may_be_distributed(0) == (tasks == 2)
    monkeypatch.setenv("SLURM_NTASKS", "2(x2)")
    with pytest.raises(processes.ProcessesError, match=r"SLURM_NTASKS='2\(x2\)' is not a number"):
        processes.may_be_distributed(0)
    assert not processes.may_be_distributed(1)


def test_a_taken_port_is_a_line():
    with socket.create_server(("", 0)) as taken:
        coordinator = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(processes.ProcessesError, match="its port cannot be opened .*in use"):
            processes._check_port(coordinator)


def test_alone_there_is_nothing_to_agree_upon():
    assert (
        processes.is_process_zero()
        and processes.any_process(True)
        and not processes.any_process(False)
    )
    assert processes.same(b"anything") and processes.smallest(2**40 + 1) == 2**40 + 1
    assert processes.on_process_zero(lambda: True) and not processes.on_process_zero(lambda: False)
