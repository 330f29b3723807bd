"""The machine: what must be set before jax starts, and how a run is laid out on the devices."""

import ctypes
import os
import sys
from typing import NamedTuple


class Plan(NamedTuple):
    """How a run is laid out. Every plan gives the same numbers, up to rounding.

    Attributes:
      devices: how many devices the task axis is spread over.
      chunk: tasks at a time (over all devices); None is all of them.
      steps_per_dispatch: meta-steps in one call of the compiled program.
      tasks: sharding of an array whose first axis is tasks.
      replicated: sharding of everything else.
    """

    devices: int
    chunk: int | None
    steps_per_dispatch: int
    tasks: object
    replicated: object

    def __str__(self):
        kind = self.tasks.mesh.devices.flat[0].device_kind
        return (
            f"{self.devices} x {kind}, {self.chunk or 'all'} tasks at a time, "
            f"{self.steps_per_dispatch} meta-steps a dispatch"
        )


def configure(config) -> None:
    """Sets the allocator, the number of CPU devices and the compilation cache.

    Must run before jax touches a device.
    """
    if config.plan.malloc:
        keep_freed_memory()
    import jax

    from cml_jax.data.places import cache_dir

    jax.config.update("jax_num_cpu_devices", config.plan.devices or available_cores())
    if config.plan.compilation_cache:
        jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


def make_plan(config) -> Plan:
    """The layout for this machine; 0 in `config.plan` means choose.

    CPU: one device a core and one task at a time on each, so that a task's activations stay in the
    core's cache; a perceptron is too small to be worth spreading, and runs as one vmap on one
    device. GPU, TPU: all tasks at once.

    Raises:
      ValueError: when tasks_per_step does not divide by the devices or the chunk.
    """
    import jax

    on_cpu = jax.default_backend() == "cpu"
    small = config.model.name == "mlp"
    count = config.plan.devices
    if not count:
        limit = 1 if small and on_cpu else len(jax.devices())
        count = max(d for d in range(1, limit + 1) if config.tasks_per_step % d == 0)
    if count > len(jax.devices()):
        raise ValueError(
            f"plan.devices={count} but there are {len(jax.devices())}: lower --config.plan.devices"
        )
    if config.tasks_per_step % count:
        raise ValueError(
            f"tasks_per_step={config.tasks_per_step} does not divide by {count} devices: change "
            "one of --config.tasks_per_step and --config.plan.devices"
        )
    chunk = config.plan.chunk or (count if on_cpu and not small else None)
    if chunk and (config.tasks_per_step % chunk or chunk % count):
        raise ValueError(
            f"plan.chunk={chunk} must divide tasks_per_step={config.tasks_per_step} and be a "
            f"multiple of the {count} devices: change --config.plan.chunk, or 0 to have it chosen"
        )
    steps = config.plan.steps_per_dispatch or (200 if small else 10 if on_cpu else 50)
    mesh = jax.make_mesh(
        (count,), ("task",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:count]
    )
    spec = jax.sharding.PartitionSpec
    return Plan(
        count,
        chunk,
        steps,
        jax.sharding.NamedSharding(mesh, spec("task")),
        jax.sharding.NamedSharding(mesh, spec()),
    )


def available_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_freed_memory() -> None:
    """Tells glibc to keep what is freed instead of returning it to the system (elsewhere: nothing).

    XLA on CPU allocates its buffers afresh in every execution; by default glibc maps large ones
    anew each time and the kernel zeroes them page by page, which costs more than the arithmetic.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    arena_max, mmap_max, trim_threshold, top_pad = -8, -4, -1, -2
    mallopt(arena_max, 1)
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, -1)  # never
    mallopt(top_pad, 256 << 20)
