"""One run in many processes: they find each other, agree, and notice when one of them is gone.

Every process runs the same program with the same settings (but for the index of the process and
where its data are). What decides how a program continues (a signal, a clock, a file) must be agreed
upon here first: a process that waits for the others in an exchange that they never start waits
forever.
"""

import ctypes
import importlib.util
import os
import signal
import socket
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
from absl import logging

_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
_REFUSED = 2
_ABSENT = (
    "the other processes of this run do not answer: start all of them within "
    "--config.hosts.timeout_seconds, or set --config.hosts.count=1 for one alone"
)
GONE = (
    "another process of this run ended or does not answer any more: start all of them again, "
    "training resumes from the last checkpoint"
)
_libc = ctypes.CDLL(None)
_joining = _joined = False  # `join` has begun; has found the others
_code: int | None = None  # the exit code that `end` was called with
_noise: str | None = None  # the file with what jaxlib writes to descriptor 2


class ProcessesError(Exception):
    """The processes of a run did not find each other, or do not fit together: one line."""


def may_be_distributed(count: int) -> bool:
    """Whether there may be other processes, without loading jax.

    Where `count` is 0: under SLURM and Open MPI their variables tell; on a machine with TPU
    software the answer is always yes, since only jax can ask Cloud TPU, in `join`.

    Args:
      count: How many processes the run has; 0 where the user does not say.

    Raises:
      ProcessesError: A variable of SLURM or Open MPI is not a number.
    """
    if count:
        return count > 1
    if all(name in os.environ for name in _SLURM):
        return _count("SLURM_NTASKS") > 1
    if "OMPI_MCA_orte_hnp_uri" in os.environ:
        return _count("OMPI_COMM_WORLD_SIZE") > 1
    return importlib.util.find_spec("libtpu") is not None


def join(
    coordinator: str, count: int, index: int, timeout_seconds: int, *, settings: bytes
) -> None:
    """Connects this process to the others; must run before jax touches a device.

    Args:
      coordinator: HOST:PORT of process 0.
      count: How many processes there are; 0 where the cluster tells (and then all three).
      index: Which of them this is.
      timeout_seconds: Seconds to wait for the others, and of silence until one counts as gone.
      settings: What all processes must have been started with.

    Raises:
      ProcessesError: The others do not answer, or were started with other settings.
    """
    import jax

    global _joining, _joined
    given = {}
    if count:
        given = {
            "coordinator_address": coordinator,
            "num_processes": count,
            "process_id": index,
            "cluster_detection_method": "deactivate",
        }
        if index == 0:
            _check_port(coordinator)
    jax.config.update("jax_enable_preemption_service", False)  # it takes SIGTERM away
    _set_noise_aside()
    _libc.signal(signal.SIGABRT, _aborted)
    _joining = True
    try:
        jax.distributed.initialize(
            **given,
            initialization_timeout=timeout_seconds,
            heartbeat_timeout_seconds=timeout_seconds,
        )
    except ValueError:
        if given:
            raise
        # There is no cluster: this is the only process.
    except RuntimeError as error:
        raise ProcessesError(f"{_ABSENT} ({reason(error)})") from error
    if jax.process_count() == 1:
        _libc.signal(signal.SIGABRT, None)
        os.dup2(sys.stderr.fileno(), 2)
        _forget_noise()
        _joining = False
        return
    _joined = True
    if not same(settings):
        raise ProcessesError(
            "the processes were started differently: only --config.hosts.index and "
            "--config.data.dir may differ"
        )


def joined() -> bool:
    """Whether this process is one of many, or has tried to become one."""
    return _joining


def leave() -> None:
    """Waits for the others and disconnects: the last thing that a run does when it ends well."""
    if _many():
        import jax

        jax.distributed.shutdown()
        _forget_noise()


def end(code: int) -> NoReturn:
    """Ends a process that has failed, at once: without waiting for others, or for threads.

    Args:
      code: The exit code.
    """
    global _code
    _code = code
    _forget_noise()
    sys.stdout.flush()
    sys.stderr.flush()
    if _many() and is_process_zero():
        time.sleep(1)  # the others abort without it: first they may tell a failure of their own
    os._exit(code)


def end_if_joined(code: int) -> None:
    """Ends a process of many, as `end` does; returns where this one is alone.

    Args:
      code: The exit code.
    """
    if joined():
        end(code)


def is_lost_connection(error: BaseException) -> bool:
    """Whether an error in one of many processes comes from an exchange with the others."""
    import jax

    errors = (error, error.__cause__, error.__context__)
    return _many() and any(isinstance(each, jax.errors.JaxRuntimeError) for each in errors)


def is_process_zero() -> bool:
    """Whether this process is the one that writes files and speaks."""
    if not _many():
        return True
    import jax

    return jax.process_index() == 0


def on_process_zero(action: Callable[[], Any]) -> bool:
    """Runs `action` in process 0; all processes return whether its value is true.

    Args:
      action: A function without arguments.

    Raises:
      ProcessesError: In the other processes, when it raised.
    """
    if not _many():
        return bool(action())
    outcome = _REFUSED
    try:
        if is_process_zero():
            outcome = int(bool(action()))
    finally:
        outcome = int(_gather(outcome)[0])
    if outcome == _REFUSED:
        raise ProcessesError("process 0 has ended this run: its own line tells why")
    return bool(outcome)


def any_process(flag: bool) -> bool:
    """Whether `flag` is true in any process; all must call it at the same point, and all wait."""
    return bool(_gather(flag).any())


def smallest(number: int) -> int:
    """The smallest of the processes' numbers."""
    # As bytes: jax would make 32 bits of it.
    return int(_gather(np.frombuffer(np.int64(number), np.uint8)).view(np.int64).min())


def same(data: bytes) -> bool:
    """Whether all processes have the same bytes, by their checksum."""
    checksums = _gather(np.uint32(zlib.crc32(data)))
    return bool((checksums == checksums[0]).all())


def replicate(tree: Any, sharding: Any) -> Any:
    """Puts arrays that every process has whole on all devices of `sharding`.

    Args:
      tree: A pytree of arrays.
      sharding: A sharding that splits no axis.

    Raises:
      ProcessesError: The processes have different arrays.
    """
    import jax

    if not _many():
        return jax.device_put(tree, sharding)
    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, tree))
    checksums = (zlib.crc32(np.ascontiguousarray(x).reshape(-1).view(np.uint8)) for x in leaves)
    if not same(b"".join(checksum.to_bytes(4) for checksum in checksums)):
        raise ProcessesError(
            "the processes have read different data: give all of them the same files"
        )
    put = [jax.make_array_from_callback(x.shape, sharding, lambda i, x=x: x[i]) for x in leaves]
    return jax.tree.unflatten(structure, put)


def reason(error: BaseException) -> str:
    """The first line of a message, cut: jaxlib's are long."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _many() -> bool:
    # A process that has not joined is alone; to ask jax for its count would start a backend.
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def _count(name: str) -> int:
    text = os.environ.get(name, "1")
    try:
        return int(text)
    except ValueError:
        raise ProcessesError(
            f"{name}={text!r} is not a number of processes: set it to one, or "
            "--config.hosts.count=1 for one alone"
        ) from None


def _gather(value: Any) -> np.ndarray:
    """`[processes, ...]`, the value of each process."""
    if not _many():
        return np.asarray(value)[None]
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(np.asarray(value))


def _check_port(coordinator: str) -> None:
    # jaxlib may crash where the port is taken.
    try:
        socket.create_server(("", int(coordinator.rpartition(":")[2]))).close()
    except (OSError, OverflowError) as error:
        raise ProcessesError(
            f"hosts.coordinator={coordinator}: its port cannot be opened ({error}): choose one "
            "that is free"
        ) from error


def _set_noise_aside() -> None:
    """Sends what C++ writes to descriptor 2 to a file; Python's stderr stays where it was.

    jaxlib reports a lost process in two pages. With --verbosity=1 they are shown.
    """
    global _noise
    if logging.get_verbosity() >= logging.INFO:
        return
    with tempfile.NamedTemporaryFile(prefix="cml_jax-", suffix=".log", delete=False) as file:
        sys.stderr.flush()
        before = sys.stderr
        sys.stderr = open(
            os.dup(2), "w", buffering=1, encoding=before.encoding, errors=before.errors
        )
        os.dup2(file.fileno(), 2)
        _noise = file.name
    logging.get_absl_handler().python_handler.setStream(sys.stderr)


def _forget_noise() -> None:
    global _noise
    if _noise:
        os.unlink(_noise)
        _noise = None


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _aborted(_: int) -> None:
    """Makes one line of jaxlib's abort(); Python's own handlers never run in an aborting thread."""
    if _code is None:
        why = f" (jaxlib's words: {_noise})" if _noise else ""
        os.write(sys.stderr.fileno(), f"error: {GONE if _joined else _ABSENT}{why}\n".encode())
    os._exit(_code or 1)
