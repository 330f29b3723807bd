"""The allocator of glibc, as XLA on CPU needs it."""

import os
import platform
import sys

# Huge pages, and freed memory is kept. XLA allocates its buffers afresh in every execution; by
# default large ones are mapped anew each time and the kernel zeroes them 4 KB at a time. One arena
# per thread must stay (glibc's default): with one arena for all a step takes twice as long.
_MALLOC = {"hugetlb": 1, "mmap_max": 0, "trim_threshold": 2**40, "top_pad": 2**28}


def restart_with_huge_pages(enabled: bool) -> None:
    """Starts this program again, once, with the allocator's settings in the environment.

    glibc reads them when a program starts and never again, so they cannot be set from within. Does
    nothing where GLIBC_TUNABLES sets the allocator already, and on systems without glibc. Must come
    before anything is written or jax starts.

    Args:
      enabled: Whether the user wants it, `--config.plan.malloc`.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if not enabled or "glibc.malloc." in tunables or platform.libc_ver()[0] != "glibc":
        return
    ours = [f"glibc.malloc.{name}={value}" for name, value in _MALLOC.items()]
    os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, [tunables, *ours]))
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
