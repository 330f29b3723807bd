"""How much memory a compiled step needs, and how much there is."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.machine import processes
from experiments.machine.devices import Plan

# Of a CPU's memory: what a process takes beside its step (jax, compiled programs, holes in the
# heap). With ResNet-12 2 GB beside 8 and 18 GB by the compiler's count.
_FOR_STEPS = 0.85


def fitting(
    plan: Plan, program: Callable[[Plan], Any], remat_auto: bool, shared: int = 0
) -> tuple[Plan, Any]:
    """Compiles `program(plan)`; where it does not fit in memory, once more with `remat`.

    Args:
      plan: The layout on the devices.
      program: Compiles a step for a plan.
      remat_auto: Whether `remat` may be switched on here.
      shared: Bytes of arguments that all devices share, as `memory_needed` takes it.

    Returns:
      The plan that fits, with its need of memory, and its compiled program.

    Raises:
      ValueError: None fits; the message has the estimate, and nothing has run yet.
    """
    plans = [plan]
    if remat_auto:
        plans.append(plan._replace(remat=True))
    limit = processes.smallest(memory_limit())
    for plan in plans:
        compiled = program(plan)
        plan = plan._replace(memory=memory_needed(compiled, plan.devices, shared))
        if not limit or plan.memory <= limit:
            return plan, compiled
    raise ValueError(
        f"a step does not fit in {limit / 1e9:.2f} GB of memory, by the compiler's count ({plan}): "
        "lower --config.plan.chunk, --config.plan.devices, --config.data.queries or "
        "--config.tasks_per_step, or set --config.plan.remat=on"
    )


def memory_needed(compiled, devices: int, shared: int = 0) -> int:
    """How much memory an execution of a compiled program takes, as its compiler counts it.

    Args:
      compiled: What `jax.jit(...).lower(...).compile()` returned.
      devices: How many devices it runs on.
      shared: Bytes of arguments that the CPU devices of a process share, in place of one copy each.

    Returns:
      Bytes on a device, or 0 where the compiler cannot tell. The CPU devices of a process share
      one memory: there it is the sum over them.
    """
    import jax

    sizes = compiled.memory_analysis()
    if sizes is None:
        return 0
    outputs = sizes.output_size_in_bytes - sizes.alias_size_in_bytes  # donated: counted once
    total = sizes.argument_size_in_bytes + outputs + sizes.temp_size_in_bytes
    if jax.default_backend() != "cpu":
        return total
    return (total - shared) * (devices // jax.process_count()) + shared


def memory_limit() -> int:
    """Bytes of memory that a step may take; 0 where unknown.

    Of all memory of a device (CPU: of 85% of the machine's or the container's), not of what is free
    just now: what is decided by it must not change when a run resumes.
    """
    import jax

    if jax.default_backend() != "cpu":
        return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", 0)
    limits = []
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # cgroups 2 and 1
        try:
            limits.append(int(Path("/sys/fs/cgroup", name).read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return int(_FOR_STEPS * min(limits, default=0))
