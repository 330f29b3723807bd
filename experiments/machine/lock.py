"""One program at a time in a run's folder."""

import errno
import fcntl
import os
import socket
from pathlib import Path
from typing import IO

from absl import logging

_HELD = (errno.EWOULDBLOCK, errno.EACCES, errno.EAGAIN)


class LockError(Exception):
    """Another program is at work in the folder: one line."""


def hold(path: Path) -> IO:
    """Locks a run's folder for as long as the returned file is open.

    The operating system holds the lock (`flock` on a file in the folder) and releases it when the
    process ends, however it ends. Where the file system has no locks (some network disks,
    gcsfuse), that is logged and the program continues: then nothing keeps a second one out.

    Args:
      path: The lock file, in the folder that is locked; the folder must exist.

    Returns:
      The open file, to be kept open; its text tells the process: `PID on HOST`.

    Raises:
      LockError: Another program holds the lock.
      OSError: The file cannot be written.
    """
    file = open(path, "a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise LockError(
                f"{path.parent} is in use by process {holder}: wait for it, stop it, or choose "
                "another --workdir"
            ) from None
        logging.warning(
            "%s cannot be locked (%s): do not start a second program", path, error.strerror
        )
    file.truncate(0)
    file.write(f"{os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    return file
