"""Two programs at once: in one run's folder, on one data cache."""

import errno
import fcntl
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cml_jax.data.cache import read_images
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
from cml_jax.data import Split
from cml_jax.data.cache import write_images
sys.stdin.readline()
for i in range(60):
    classes = [(name, np.full((9, 100, 100, 1), int(sys.argv[2]), np.uint8)) for name in "abc"]
    images = write_images(Path(sys.argv[1]), "set", Split("a", "b", "c"), str(i), classes)
    assert (images.pixels == int(sys.argv[2])).all()
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
    path = tmp_path / "cache" / "set"
    programs = [program(_FILL, path, number) for number in (1, 2)]
    try:
        for each in programs:  # both are loaded before either writes
            each.stdin.write("\n")
            each.stdin.flush()
        seen = set()
        while any(each.poll() is None for each in programs):
            if (path / "images.json").exists():
                pixels = read_images(path)[0].pixels
                assert pixels.shape == (27, 100, 100, 1) and len(np.unique(pixels)) == 1
                seen.add(int(pixels.max()))
        assert [each.returncode for each in programs] == [0, 0]
        assert seen <= {1, 2} and seen
    finally:
        for each in programs:
            each.kill()
            each.communicate()
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    read_images(path)
