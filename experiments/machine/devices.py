"""The machine: what must be set before jax starts, and how a run is laid out on the devices."""

import os
from typing import NamedTuple


class Plan(NamedTuple):
    """How a run is laid out. Every plan gives the same numbers, up to rounding.

    Attributes:
      devices: How many devices the task axis is spread over.
      chunk: How many tasks are computed at a time, over all devices; None is all of them.
      steps_per_dispatch: Meta-steps in one call of the compiled program.
      remat: Whether inner steps are computed again in the backward pass, for less memory.
      tasks: Sharding of an array whose first axis is tasks.
      replicated: Sharding of everything else.
      query_chunk: How many queries of a task are predicted at a time, where each is predicted
        alone; None is all of them.
      gather: Whether images are gathered on the host, ahead of the devices.
      memory: Bytes that a dispatch needs, as the compiler counts them; 0 before it has.
    """

    devices: int
    chunk: int | None
    steps_per_dispatch: int
    remat: bool
    tasks: object
    replicated: object
    query_chunk: int | None = None
    gather: bool = False
    memory: int = 0

    def __str__(self):
        kind = self.tasks.mesh.devices.flat[0].device_kind
        parts = [
            f"{self.devices} x {kind}",
            f"{self.chunk or 'all'} tasks at a time",
            f"{self.steps_per_dispatch} meta-steps a dispatch",
            f"remat {'on' if self.remat else 'off'}",
        ]
        processes = len({device.process_index for device in self.tasks.mesh.devices.flat})
        if processes > 1:
            parts[0] += f" of {processes} processes"
        if self.gather:
            parts.append("images gathered on the host")
        if self.memory:
            parts.append(f"{self.memory / 1e9:.2f} GB")
        return ", ".join(parts)


def configure(devices: int = 0, compilation_cache: bool = True, precision: str = "default") -> None:
    """Sets the number of CPU devices, the compilation cache and the precision of products.

    Must run before jax touches a device.

    Args:
      devices: As how many devices a CPU counts; 0 is one for each core.
      compilation_cache: Whether compiled programs are kept in the user's cache folder.
      precision: Of matrix products; "default" is the device's own.
    """
    import jax

    from cml_jax.data.files import cache_dir

    jax.config.update("jax_num_cpu_devices", devices or available_cores())
    if compilation_cache and (folder := cache_dir()):
        jax.config.update("jax_compilation_cache_dir", str(folder / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
    if precision != "default":
        jax.config.update("jax_default_matmul_precision", precision)


def make_plan(
    tasks_per_step: int,
    *,
    devices: int = 0,
    chunk: int = 0,
    steps_per_dispatch: int = 0,
    remat: bool = False,
    small: bool = False,
) -> Plan:
    """The layout for this machine; 0 means choose.

    CPU: one device for each core and one task at a time on each, so that a task's activations stay
    in the core's cache, and likewise one query where each is predicted alone; a perceptron is too
    small to be worth spreading, and runs as one vmap on one device. GPU, TPU: all tasks at once.
    Many processes give the same number of devices each.

    Args:
      tasks_per_step: Tasks in a meta-batch.
      devices, chunk, steps_per_dispatch, remat: As in `Plan`.
      small: Whether a task is too little work to be spread over the cores of a CPU.

    Raises:
      ValueError: When tasks_per_step does not divide by the devices, the processes or the chunk.
    """
    import jax

    on_cpu = jax.default_backend() == "cpu"
    # Ids say nothing: on CPU those of process 1 start at 2048, on TPU they follow the torus.
    processes = jax.process_count()
    shares = [[d for d in jax.devices() if d.process_index == p] for p in range(processes)]
    available = processes * min(map(len, shares))
    if tasks_per_step % processes or devices % processes:
        raise ValueError(
            f"tasks_per_step={tasks_per_step} or plan.devices={devices} does not divide by "
            f"{processes} processes: change --config.tasks_per_step or --config.plan.devices"
        )
    limit = processes if small and on_cpu else available
    choices = range(processes, limit + 1, processes)
    count = devices or max(d for d in choices if tasks_per_step % d == 0)
    if count > available:
        raise ValueError(
            f"plan.devices={count} but there are {available}: lower --config.plan.devices"
        )
    if tasks_per_step % count:
        raise ValueError(
            f"tasks_per_step={tasks_per_step} does not divide by {count} devices: change "
            "one of --config.tasks_per_step and --config.plan.devices"
        )
    one_at_a_time = on_cpu and not small
    chunk = chunk or (count if one_at_a_time else None)
    if chunk and (tasks_per_step % chunk or chunk % count):
        raise ValueError(
            f"plan.chunk={chunk} must divide tasks_per_step={tasks_per_step} and be a "
            f"multiple of the {count} devices: change --config.plan.chunk, or 0 to have it chosen"
        )
    steps = steps_per_dispatch or (200 if small else 10 if on_cpu else 50)
    used = [device for share in shares for device in share[: count // processes]]
    mesh = jax.make_mesh(
        (count,), ("task",), axis_types=(jax.sharding.AxisType.Auto,), devices=used
    )
    spec = jax.sharding.PartitionSpec
    return Plan(
        count,
        chunk,
        steps,
        remat,
        jax.sharding.NamedSharding(mesh, spec("task")),
        jax.sharding.NamedSharding(mesh, spec()),
        query_chunk=1 if one_at_a_time else None,
    )


def available_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
