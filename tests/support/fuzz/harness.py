"""One damaged copy of a file, read in a process of its own, and what is wrong with the outcome."""

import hashlib
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from support.fuzz.damages import Damage

MEMORY = 256 << 20  # above what the process had before the case
SECONDS = 10
_FILE_BYTES = 64 << 20
_ALLOWED_WRITES = ("/dev/null",)
_FORBIDDEN = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork")
_FORBIDDEN += ("socket.connect", "pickle.find_class", "os.symlink", "ctypes.dlopen")


class Target(NamedTuple):
    """A loader.

    Attributes:
      make: writes good files into a folder.
      read: the folder to what the loader makes of it.
      errors: names of the exceptions that it may raise.
      cases: how many damaged copies are tried.
      damages: `(folder, rng) -> None`, tried in turn.
      right: `(read, good) -> bool`: whether what was read is no wrong result.
    """

    make: Callable[[Path], None]
    read: Callable[[Path], Any]
    errors: tuple[str, ...]
    cases: int
    damages: tuple[Damage, ...]
    right: Callable[[Any, Any], bool] = lambda read, good: read == good


def digest(*arrays: Any) -> str:
    """Of the values, the shapes and the dtypes of arrays."""
    of = hashlib.sha256()
    for array in arrays:
        of.update(f"{array.dtype.str} {array.shape}".encode() + array.tobytes())
    return of.hexdigest()


def forked(target: Target, good: Any, template: Path, seed: int, folder: Path) -> list:
    folder.mkdir()
    started = time.monotonic()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        signal.alarm(SECONDS)
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            outcome = _case(target, good, template, seed, folder)
        except BaseException as error:
            outcome = f"WRONG: the case itself: {error!r}"
        os.write(writer, outcome.encode())
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        outcome = pipe.read().decode()
    _, status = os.waitpid(pid, 0)
    if status:
        outcome = f"WRONG: ended with {status}, a crash or {SECONDS} seconds [{seed}]"
    shutil.rmtree(folder)
    return [seed, outcome, time.monotonic() - started]


def _watch_for(folder: Path, found: list[str]) -> None:
    inside = (str(folder), *_ALLOWED_WRITES)

    def hook(event: str, arguments: tuple) -> None:
        if event == "open" and isinstance(arguments[0], (str, bytes)):
            writes = arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes and not os.path.realpath(os.fsdecode(arguments[0])).startswith(inside):
                found.append(f"wrote {arguments[0]!r}")
        elif event in ("os.rename", "os.remove", "os.mkdir"):
            if not os.path.realpath(os.fsdecode(arguments[0])).startswith(inside):
                found.append(f"{event} {arguments[0]!r}")
        elif event in _FORBIDDEN:
            found.append(f"{event} {arguments!r}")

    sys.addaudithook(hook)


def _case(target: Target, good: Any, template: Path, seed: int, folder: Path) -> str:
    """What is wrong with the outcome of a case, or how it ended."""
    rng = random.Random(seed)
    data = folder / "data"
    shutil.copytree(template, data)
    damage = target.damages[seed % len(target.damages)]
    damage(data, rng)
    os.chdir(folder)
    found: list[str] = []
    held = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_BYTES,) * 2)
    _watch_for(folder, found)
    try:
        value = target.read(data)
        outcome = "right" if target.right(value, good) else f"WRONG: read {str(value)[:200]}"
    except Exception as error:
        name, text = type(error).__name__, str(error)
        outcome = "refused"
        if name not in target.errors:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            outcome = f"WRONG: {name}: {text[:200]} ({frame.filename}:{frame.lineno})"
        elif not text or "\n" in text or len(text) > 1000:
            outcome = f"WRONG: not one line: {text[:300]!r}"
    if found:
        outcome = f"WRONG: {found}"
    if (folder / "escaped").exists() or (data / "escaped").exists():
        outcome = "WRONG: code was run"
    return f"{outcome} [{damage.__name__}]"
