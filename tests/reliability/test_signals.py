"""Stop signals: one asks, two end; at once, whatever the program is doing."""

import os
import pty
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINE = "stopping at the next report with a checkpoint; once more: at once\n"
HANDLED = (
    "import signal, sys, time\n"
    "from experiments.machine.stop_signals import handle_stop_signals, stop_requested\n"
    "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
    "handle_stop_signals()\n"
    "assert not stop_requested()\n"
)
ASKED = (
    "print('ready', flush=True)\n"
    "while not stop_requested(): time.sleep(0.01)\n"
    "print('asked', flush=True)\n"
)
LONG = (
    "import jax\n"
    "endless = jax.jit(lambda x: jax.lax.while_loop(lambda x: x < 2, lambda x: x / 2, x))\n"
    "endless = endless.lower(1.0).compile()\n"
    "print('ready', flush=True)\n"
    "endless(1.0).block_until_ready()\n"
)


def start(code, **options):
    """What starts the tests in the background may have signals ignored: here they are not."""
    usual = (
        "import signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "for number in (signal.SIGTERM, signal.SIGHUP): signal.signal(number, signal.SIG_DFL)\n"
    )
    return subprocess.Popen([sys.executable, "-c", usual + code], cwd=ROOT, **options)


@contextmanager
def started(code):
    """A child that runs `code` and has said that it is ready."""
    child = start(code, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "ready\n"
        yield child
    finally:
        child.kill()
        child.communicate()


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_and_the_second_kills(second):
    with started(HANDLED + ASKED + "time.sleep(60)\n") as child:
        child.send_signal(signal.SIGTERM)
        assert child.stdout.readline() == "asked\n"
        child.send_signal(second)
        assert child.wait(timeout=30) == -second
        assert child.stderr.read() == LINE


def test_two_signals_end_one_long_dispatch():
    with started(HANDLED + LONG) as child:
        child.send_signal(signal.SIGINT)
        assert child.stderr.readline() == LINE
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=20) == -signal.SIGTERM
        assert child.stderr.read() == ""


def test_two_equal_signals_in_one_moment_are_two():
    with started(HANDLED + LONG) as child:
        child.send_signal(signal.SIGINT)
        time.sleep(0.01)
        child.send_signal(signal.SIGINT)
        assert child.wait(timeout=20) == -signal.SIGINT


def test_a_reader_that_has_paused_does_not_delay_the_second_signal():
    full = "import os\nos.set_blocking(2, False)\n"
    full += "try:\n while os.write(2, b'x' * 4096): pass\nexcept BlockingIOError: pass\n"
    with started(full + "os.set_blocking(2, True)\n" + HANDLED + LONG) as child:
        child.send_signal(signal.SIGTERM)
        time.sleep(0.01)
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=20) == -signal.SIGTERM


def test_hanging_up_asks_as_often_as_it_happens():
    """Where a connection breaks, an interactive bash and the kernel send a SIGHUP each."""
    with started(HANDLED + ASKED + "time.sleep(0.5)\n") as child:
        for _ in range(3):
            child.send_signal(signal.SIGHUP)
            time.sleep(0.01)
        assert child.stdout.readline() == "asked\n"
        assert child.wait(timeout=30) == 0


def test_under_nohup_hanging_up_is_nothing():
    nohup = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    with started(nohup + HANDLED + ASKED) as child:
        child.send_signal(signal.SIGHUP)
        time.sleep(0.1)
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=30) == 0
        assert child.stderr.read() == LINE


def test_a_terminal_that_goes_asks_and_no_output_fails_afterwards(tmp_path):
    done = tmp_path / "done"
    code = (
        "import fcntl, termios\n"
        "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
        + HANDLED
        + ASKED
        + "print('a report', file=sys.stderr, flush=True)\n"
        f"open({str(done)!r}, 'w').close()\n"
    )
    ours, theirs = pty.openpty()
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
    child = start(code, start_new_session=True, **streams)
    os.close(theirs)
    said = b""
    while not said.endswith(b"ready\r\n"):
        said += os.read(ours, 4096)
    os.close(ours)
    assert child.wait(timeout=30) == 0 and done.exists()
