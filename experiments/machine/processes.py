"""One run in many processes: they find each other, agree, and notice when one of them is gone.

Every process runs the same program on the same config (but for `hosts.index`). What decides the way
a program goes (a signal, a clock, a file) must be agreed upon here first: a process that waits for
the others in an exchange that they never start waits forever.
"""

import ctypes
import importlib.util
import json
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
    "training goes on from the last checkpoint"
)
_libc = ctypes.CDLL(None)
_joined = False
_code: int | None = None  # of `end`
_noise: str | None = None  # the file that has what jaxlib writes to descriptor 2


class HostsError(Exception):
    """The processes of a run did not find each other, or do not fit together: one line."""


def may_be_distributed(config) -> bool:
    """Whether there may be other processes, without loading jax.

    By `hosts.count`; where it is 0, under SLURM and Open MPI by their counts, and on a machine with
    TPU software always: only jax can ask Cloud TPU, in `join`.

    Raises:
      HostsError: such a count is no number.
    """
    if config.hosts.count:
        return config.hosts.count > 1
    if all(name in os.environ for name in _SLURM):
        return _count("SLURM_NTASKS") > 1
    if "OMPI_MCA_orte_hnp_uri" in os.environ:
        return _count("OMPI_COMM_WORLD_SIZE") > 1
    return importlib.util.find_spec("libtpu") is not None


def join(config, evaluate: bool) -> None:
    """Connects this process to the others; must run before jax touches a device.

    Args:
      config: of all processes, but for `hosts` and `data.dir`.
      evaluate: whether the run is only evaluated; of all processes, too.

    Raises:
      HostsError: they do not answer, or were started with other settings.
    """
    import jax

    hosts = config.hosts
    given = {}
    if hosts.count:
        given = {
            "coordinator_address": hosts.coordinator,
            "num_processes": hosts.count,
            "process_id": hosts.index,
            "cluster_detection_method": "deactivate",
        }
        _check_port(hosts)
    jax.config.update("jax_enable_preemption_service", False)  # it takes SIGTERM away
    _set_noise_aside()
    _libc.signal(signal.SIGABRT, _aborted)
    try:
        jax.distributed.initialize(
            **given,
            initialization_timeout=hosts.timeout_seconds,
            heartbeat_timeout_seconds=hosts.timeout_seconds,
        )
    except ValueError:
        if given:
            raise
        # No cluster: the only process.
    except RuntimeError as error:
        raise HostsError(f"{_ABSENT} ({reason(error)})") from error
    if jax.process_count() == 1:
        _libc.signal(signal.SIGABRT, None)
        os.dup2(sys.stderr.fileno(), 2)
        _forget_noise()
        return
    global _joined
    _joined = True
    settings = config.to_dict()
    del settings["hosts"], settings["data"]["dir"]
    if not same(json.dumps([settings, evaluate], sort_keys=True).encode()):
        raise HostsError(
            "the processes were started differently: only --config.hosts.index and "
            "--config.data.dir may differ"
        )


def leave() -> None:
    """Waits for the others and disconnects: the last thing of a run that ends well."""
    if _many():
        import jax

        jax.distributed.shutdown()
        _forget_noise()


def end(code: int) -> NoReturn:
    """Ends a process that has failed, at once: without waiting for others, or for threads."""
    global _code
    _code = code
    _forget_noise()
    sys.stdout.flush()
    sys.stderr.flush()
    if _many() and is_process_zero():
        time.sleep(1)  # the others abort without it: first they may tell a failure of their own
    os._exit(code)


def is_lost_connection(error: BaseException) -> bool:
    """Whether an error of a process of many is that of an exchange with the others."""
    import jax

    errors = (error, error.__cause__, error.__context__)
    return _many() and any(isinstance(each, jax.errors.JaxRuntimeError) for each in errors)


def is_process_zero() -> bool:
    """Whether this process is the one that writes files and speaks."""
    if not _many():
        return True
    import jax

    return jax.process_index() == 0


def on_process_zero(action: Callable[[], bool]) -> bool:
    """Runs `action` in process 0; all processes return what it returned.

    Raises:
      HostsError: in the other processes, when it raised.
    """
    if not _many():
        return action()
    outcome = _REFUSED
    try:
        if is_process_zero():
            outcome = int(action())
    finally:
        outcome = int(_gather(outcome)[0])
    if outcome == _REFUSED:
        raise HostsError("process 0 has ended this run: its own line tells why")
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
    """Arrays that every process has whole, on all devices of `sharding`.

    Raises:
      HostsError: the processes have different arrays.
    """
    import jax

    if not _many():
        return jax.device_put(tree, sharding)
    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, tree))
    if not same(b"".join(zlib.crc32(leaf.tobytes()).to_bytes(4) for leaf in leaves)):
        raise HostsError("the processes have read different data: give all of them the same files")
    put = [jax.make_array_from_callback(x.shape, sharding, lambda i, x=x: x[i]) for x in leaves]
    return jax.tree.unflatten(structure, put)


def reason(error: BaseException) -> str:
    """The start of a message of jaxlib's."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _many() -> bool:
    # Whoever has not joined is alone; asking so starts no backend.
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def _count(name: str) -> int:
    text = os.environ.get(name, "1")
    try:
        return int(text)
    except ValueError:
        raise HostsError(
            f"{name}={text!r} is no number of processes: set it to one, or --config.hosts.count=1 "
            "for one alone"
        ) from None


def _gather(value: Any) -> np.ndarray:
    """`[processes, ...]`, the value of each."""
    if not _many():
        return np.asarray(value)[None]
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(np.asarray(value))


def _check_port(hosts) -> None:
    # jaxlib may crash where the port is taken.
    if hosts.index == 0:
        try:
            socket.create_server(("", int(hosts.coordinator.rpartition(":")[2]))).close()
        except (OSError, OverflowError) as error:
            raise HostsError(
                f"hosts.coordinator={hosts.coordinator}: its port cannot be opened ({error}): "
                "choose one that is free"
            ) from error


def _set_noise_aside() -> None:
    """Sends what C++ writes to descriptor 2 to a file; Python's stderr stays where it was.

    jaxlib tells of a lost process by two pages. With --verbosity=1 they are shown.
    """
    global _noise
    if logging.get_verbosity() >= logging.INFO:
        return
    with tempfile.NamedTemporaryFile(prefix="cml_jax-", suffix=".log", delete=False) as file:
        sys.stderr.flush()
        sys.stderr = open(os.dup(2), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
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
    """Makes jaxlib's abort() one line; Python's own handlers never run in an aborting thread."""
    if _code is None:
        why = f" (jaxlib's words: {_noise})" if _noise else ""
        os.write(sys.stderr.fileno(), f"error: {GONE if _joined else _ABSENT}{why}\n".encode())
    os._exit(_code or 1)
