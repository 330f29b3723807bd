"""Two programs at once: in one run's folder, on one data cache."""

import errno
import fcntl
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cml_jax.data.cache import read_arrays
from experiments.machine import lock

ROOT = Path(__file__).parents[2]
_HOLD = """
import sys, time
from pathlib import Path
from experiments.machine.lock import hold
held = hold(Path(sys.argv[1], "lock"))
print("held", flush=True)
time.sleep(120)
"""
_FILL = """
import sys
import numpy as np
from pathlib import Path
from cml_jax.data.cache import write_arrays
sys.stdin.readline()
for _ in range(60):
    write_arrays(Path(sys.argv[1]), {"a": np.full((300, 300), int(sys.argv[2]), np.uint8)})
"""


def program(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)


def test_a_second_program_is_told_of_the_first_until_that_is_killed(tmp_path):
    with program(_HOLD, tmp_path) as first:
        try:
            assert first.stdout.readline() == "held\n"
            who = f"in use by process {first.pid} on {socket.gethostname()}: wait for it"
            for _ in range(2):  # a refusal leaves the lock as it was
                with pytest.raises(lock.LockError, match=who) as error:
                    lock.hold(tmp_path / "lock")
            assert "\n" not in str(error.value)
        finally:
            first.kill()
            first.wait()
    with lock.hold(tmp_path / "lock"):
        with pytest.raises(lock.LockError):
            lock.hold(tmp_path / "lock")
    lock.hold(tmp_path / "lock").close()


def test_where_there_are_no_locks_it_says_so_and_continues(tmp_path, monkeypatch, caplog):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    lock.hold(tmp_path / "lock").close()
    assert (
        "lock cannot be locked (No locks available): do not start a second program" in caplog.text
    )


def test_two_programs_fill_one_cache_and_a_reader_never_sees_a_part(tmp_path):
    path = tmp_path / "cache" / "data.npz"
    programs = [program(_FILL, path, number) for number in (1, 2)]
    try:
        for each in programs:  # both are loaded before either writes
            each.stdin.write("\n")
            each.stdin.flush()
        seen = set()
        while any(each.poll() is None for each in programs):
            if path.exists():
                array = read_arrays(path, max_bytes=1 << 20)["a"]
                assert array.shape == (300, 300)
                seen |= set(np.unique(array).tolist())
        assert [each.returncode for each in programs] == [0, 0]
        assert seen <= {1, 2} and seen
    finally:
        for each in programs:
            each.kill()
            each.communicate()
    assert [each.name for each in path.parent.iterdir()] == [path.name]
