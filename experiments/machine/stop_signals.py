"""Stop signals: the first is a request, the second ends the program at once."""

import ctypes
import os
import select
import signal
import sys
import threading

from experiments.machine import processes

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_LINE = b"stopping at the next report with a checkpoint; once more: at once\n"
_STOP = threading.Event()
_libc = ctypes.CDLL(None)


def handle_stop_signals() -> None:
    """Makes the first SIGTERM, SIGINT or SIGHUP a request that `stop_requested` reports.

    The next SIGTERM or SIGINT kills. The next SIGHUP does not: when a terminal closes, the shell
    and the kernel send one each. Under nohup SIGHUP stays ignored. Call it once, from the main
    thread.
    """
    # Python runs handlers between two bytecodes of the main thread: never during a long dispatch or
    # a compilation. The bytes of the wakeup descriptor are written at once.
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_listen, args=(reading,), daemon=True).start()
    for number in _SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: None)  # without a handler there is no byte


def stop_requested() -> bool:
    """Whether a stop signal reached any process since `handle_stop_signals`.

    All processes must ask at the same points: each waits for the others' answers.
    """
    return processes.any_process(_STOP.is_set())


def _listen(reading: int) -> None:
    while True:
        [number] = os.read(reading, 1)
        if number not in _SIGNALS:
            continue
        if not _STOP.is_set():
            _tell()
            _STOP.set()
        elif number != signal.SIGHUP:
            # Not signal.signal, which is for the main thread.
            _libc.signal(number, ctypes.c_void_p(signal.SIG_DFL))
            os.kill(os.getpid(), number)
            os._exit(128 + number)  # the first process of a container survives its own signals


def _tell() -> None:
    """Prints that the program stops, where that is possible."""
    stderr = sys.stderr.fileno()
    if not select.select([], [stderr], [], 0)[1]:
        return  # its reader has paused: waiting for it would delay the second signal
    try:
        os.write(stderr, _LINE)
    except OSError:
        # The terminal is gone; what cannot be printed must not end the run before it saves.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for each in (sys.stdout.fileno(), stderr):
            os.dup2(nowhere, each)
