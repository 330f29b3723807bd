"""Times one meta-step of cml_jax: `python -m benchmarks.step --workload=W1 --profile`."""

import json
import os
import resource
import time
from functools import partial
from importlib.metadata import version

import numpy as np
from absl import app, flags, logging

from benchmarks import profile
from benchmarks.workloads import WORKLOADS
from experiments.machine import allocator, devices
from experiments.machine.memory import memory_needed
from experiments.settings.config import KEYS

_WORKLOAD = flags.DEFINE_enum("workload", "W1", list(WORKLOADS), "workload to time")
_RUNS = flags.DEFINE_integer("runs", 15, "timed executions", lower_bound=1)
_STEPS = flags.DEFINE_integer(
    "steps", 1, "meta-steps of an execution, as --config.plan.steps_per_dispatch", lower_bound=1
)
_JSON = flags.DEFINE_boolean("json", False, "print one JSON line instead of a table")
_DEVICES = flags.DEFINE_integer("devices", 0, "as --config.plan.devices")
_CHUNK = flags.DEFINE_integer("chunk", 0, "as --config.plan.chunk")
_MALLOC = flags.DEFINE_boolean("malloc", True, "as --config.plan.malloc")
_REMAT = flags.DEFINE_enum("remat", "off", ["on", "off"], "as --config.plan.remat")
_PRECISION = flags.DEFINE_enum(
    "precision", "default", KEYS["precision"].allowed, "as --config.precision"
)
_INNER_STEPS = flags.DEFINE_integer("inner_steps", 0, "0: the workload's own")
_TASKS = flags.DEFINE_integer("tasks", 0, "0: the workload's own")
_SIZE = flags.DEFINE_integer("size", 0, "of an image; 0: the workload's own")
_SUPPORT = flags.DEFINE_integer("support", 0, "examples; 0: the workload's own")
_QUERY = flags.DEFINE_integer("query", 0, "examples; 0: the workload's own")
_WAYS = flags.DEFINE_integer("ways", 0, "classes; 0: the workload's own")
_FILTERS = flags.DEFINE_integer("filters", 0, "of conv4; 0: the workload's own")
_SEEDS = flags.DEFINE_integer("seeds", 1, "as --config.num_seeds", lower_bound=1)
_EXPORT = flags.DEFINE_string("export", "", "write the initial parameters to this npz")
_PROFILE = flags.DEFINE_boolean("profile", False, "also say where the time of two steps goes")


def main(_):
    logging.set_verbosity(logging.WARNING)
    workload = WORKLOADS[_WORKLOAD.value]
    workload = workload._replace(
        inner_steps=_INNER_STEPS.value or workload.inner_steps,
        tasks=_TASKS.value or workload.tasks,
        size=_SIZE.value or workload.size,
        support=_SUPPORT.value or workload.support,
        query=_QUERY.value or workload.query,
        ways=_WAYS.value or workload.ways,
        filters=_FILTERS.value or workload.filters,
    )
    allocator.restart_with_huge_pages(_MALLOC.value)
    devices.configure(_DEVICES.value, compilation_cache=False, precision=_PRECISION.value)
    plan = plan_of(workload, _DEVICES.value, _CHUNK.value, _REMAT.value == "on")
    result = measure(
        workload,
        plan,
        _RUNS.value,
        export=_EXPORT.value,
        profiled=_PROFILE.value,
        seeds=_SEEDS.value,
        steps=_STEPS.value,
    )
    result = {"workload": _WORKLOAD.value, "precision": _PRECISION.value} | result
    if _JSON.value:
        print(json.dumps(result))
        return
    profiled = result.pop("profile", None)
    print("\n".join(f"{name:24} {value}" for name, value in result.items()))
    if profiled:
        print(profile.describe(profiled))


def plan_of(workload, count: int = 0, chunk: int = 0, remat: bool = False) -> devices.Plan:
    """The program's layout of a workload: the number of devices and of tasks at a time."""
    return devices.make_plan(
        workload.tasks, devices=count, chunk=chunk, remat=remat, small=not workload.ways
    )


def measure(
    workload,
    plan,
    runs: int,
    export: str = "",
    profiled: bool = False,
    seeds: int = 1,
    steps: int = 1,
) -> dict:
    """Compiles, warms up and times `runs` executions, then a matrix product in the same precision.

    Args:
      workload: One of `WORKLOADS`.
      plan: The layout on the devices, from `plan_of`.
      runs: How many executions are timed.
      export: Path of an npz to which the initial parameters are written; "" writes none.
      profiled: Whether two more executions are traced, into the entry "profile".
      seeds: How many runs, each with a state and with tasks of its own, are side by side.
      steps: How many steps, on the same tasks, an execution has; times and faults are of one.
    """
    import jax
    import jax.numpy as jnp
    import optax

    import cml_jax

    method = build(workload, plan.remat)
    optimizer = optax.adam(1e-3)
    s_inputs, s_targets, q_inputs, q_targets = workload.data()
    tasks = cml_jax.Task(cml_jax.Batch(s_inputs, s_targets), cml_jax.Batch(q_inputs, q_targets))
    state = cml_jax.init(method, optimizer, jax.random.key(0), jnp.asarray(s_inputs[0]))
    if export:
        leaves = jax.tree_util.tree_leaves_with_path(state.params)
        arrays = {jax.tree_util.keystr(k, simple=True, separator="/"): v for k, v in leaves}
        np.savez(export, **arrays)
    tasks, state = jax.device_put((tasks, state), (plan.tasks, plan.replicated))
    step = partial(cml_jax.meta_step, method, optimizer, chunk=plan.chunk)
    started = time.perf_counter()
    if seeds > 1:
        step = jax.vmap(step)
        state, tasks = jax.tree.map(lambda x: jnp.stack([x] * seeds), (state, tasks))
    if steps > 1:
        step = _repeated(step, steps)
    compiled = jax.jit(step, donate_argnums=0).lower(state, tasks).compile()
    compile_s = time.perf_counter() - started
    state, metrics = compiled(state, tasks)
    first_loss = float(jnp.mean(metrics["loss"]))

    times = []
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(runs):
        started = time.perf_counter()
        state, metrics = compiled(state, tasks)
        jax.block_until_ready(state)
        times.append((time.perf_counter() - started) / steps)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    on_device = jax.devices()[0].memory_stats()  # before the product: its arrays are not the step's
    product = matmul_gflops()
    median = float(np.median(times))
    gflop = seeds * workload.gflop()
    result = {
        "ms_median": 1e3 * median,
        "ms_min": 1e3 * min(times),
        "runs": len(times),
        "tasks_per_second": seeds * workload.tasks / median,
        "gflop": gflop,
        "gflops": gflop / median,
        "fraction_of_matmul_peak": gflop / median / product,
        "matmul_gflops": product,
        "compiled_mb": memory_needed(compiled, plan.devices) / 2**20,
        "peak_rss_mb": usage.ru_maxrss / 1024,
        "faults_per_step": (usage.ru_minflt - faults) / len(times) / steps,
        "compile_s": compile_s,
        "first_loss": first_loss,
        "load": os.getloadavg()[0],
        "plan": str(plan),
        "device": jax.devices()[0].device_kind,
        "versions": {name: version(name) for name in ("jax", "jaxlib")},
    }
    if on_device:
        result["peak_device_mb"] = on_device["peak_bytes_in_use"] / 2**20
    if profiled:
        on_cpu = jax.default_backend() == "cpu"
        lanes = devices.available_cores() if on_cpu else plan.devices
        result["profile"] = profile.trace(compiled, state, tasks, lanes)
    return result


def _repeated(step, count):
    """`count` steps in one program; it reports what the first of them does."""
    import jax

    def repeated(state, tasks):
        state, reports = jax.lax.scan(lambda state, _: step(state, tasks), state, length=count)
        return state, jax.tree.map(lambda x: x[0], reports)

    return repeated


def matmul_gflops() -> float:
    """The best of five float32 matrix products, in the precision that jax is set to."""
    import jax

    n = 2048 if jax.default_backend() == "cpu" else 8192
    left = jax.random.normal(jax.random.key(0), (n, n))
    product = jax.jit(lambda a: a @ a)
    product(left).block_until_ready()
    rates = []
    for _ in range(5):
        started = time.perf_counter()
        product(left).block_until_ready()
        rates.append(2 * n**3 / (time.perf_counter() - started) / 1e9)
    return max(rates)


def build(workload, remat: bool):
    """The method of a workload."""
    import cml_jax
    from cml_jax import models

    rates = {"learning_rate": workload.inner_rate, "num_steps": workload.inner_steps}
    if not workload.ways:
        return cml_jax.maml(models.mlp(), cml_jax.squared_error, **rates, remat=remat)
    loss = cml_jax.cross_entropy
    filters = {"filters": workload.filters}
    networks = {
        "conv4": (partial(models.conv4, **filters), partial(models.conv_co_learner, **filters)),
        "resnet12": (models.resnet12, models.resnet12_co_learner),
    }
    network, co_learner = networks[workload.network]
    method = cml_jax.maml(network(workload.ways), loss, **rates, remat=remat)
    if workload.co_learner:
        return cml_jax.cml(method, co_learner(workload.ways), loss, scale=1.0)
    return method


if __name__ == "__main__":
    app.run(main)
