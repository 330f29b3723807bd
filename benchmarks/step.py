"""Times one meta-step of cml_jax: `python -m benchmarks.step --workload=W1 --json`."""

import json
import os
import resource
import time
from functools import partial
from importlib.metadata import version

import numpy as np
from absl import app, flags, logging

from benchmarks.workloads import WORKLOADS
from experiments import platform
from experiments.config import default_config

_WORKLOAD = flags.DEFINE_enum("workload", "W1", list(WORKLOADS), "what is timed")
_RUNS = flags.DEFINE_integer("runs", 15, "timed steps", lower_bound=1)
_JSON = flags.DEFINE_boolean("json", False, "print one JSON line instead of words")
_DEVICES = flags.DEFINE_integer("devices", 0, "0: chosen, as in --config.plan.devices")
_CHUNK = flags.DEFINE_integer("chunk", 0, "0: chosen, as in --config.plan.chunk")
_MALLOC = flags.DEFINE_boolean("malloc", True, "as --config.plan.malloc")
_REMAT = flags.DEFINE_boolean("remat", False, "as --config.remat")
_INNER_STEPS = flags.DEFINE_integer("inner_steps", 0, "0: the workload's own")
_TASKS = flags.DEFINE_integer("tasks", 0, "0: the workload's own")
_EXPORT = flags.DEFINE_string("export", "", "write the initial parameters to this npz")


def main(_):
    logging.set_verbosity(logging.WARNING)
    workload = WORKLOADS[_WORKLOAD.value]
    workload = workload._replace(
        inner_steps=_INNER_STEPS.value or workload.inner_steps, tasks=_TASKS.value or workload.tasks
    )
    config = default_config()
    config.tasks_per_step = workload.tasks
    config.model.name = "conv4" if workload.ways else "mlp"
    config.plan.devices, config.plan.chunk = _DEVICES.value, _CHUNK.value
    config.plan.malloc, config.plan.compilation_cache = _MALLOC.value, False
    platform.configure(config)
    result = measure(workload, config)
    line = json.dumps({"workload": _WORKLOAD.value} | result)
    if _JSON.value:
        print(line)
    else:
        print("\n".join(f"{name:24} {value}" for name, value in json.loads(line).items()))


def measure(workload, config) -> dict:
    """Compiles, warms up and times `--runs` steps; the matrix product is timed between them."""
    import jax
    import jax.numpy as jnp
    import optax

    import cml_jax

    plan = platform.make_plan(config)
    method = build(workload)
    optimizer = optax.adam(1e-3)
    s_inputs, s_targets, q_inputs, q_targets = workload.data()
    tasks = cml_jax.Task(cml_jax.Batch(s_inputs, s_targets), cml_jax.Batch(q_inputs, q_targets))
    state = cml_jax.init(method, optimizer, jax.random.key(0), jnp.asarray(s_inputs[0]))
    if _EXPORT.value:
        leaves = jax.tree_util.tree_leaves_with_path(state.params)
        arrays = {jax.tree_util.keystr(k, simple=True, separator="/"): v for k, v in leaves}
        np.savez(_EXPORT.value, **arrays)
    tasks, state = jax.device_put((tasks, state), (plan.tasks, plan.replicated))
    step = partial(cml_jax.meta_step, method, optimizer, chunk=plan.chunk)
    started = time.perf_counter()
    compiled = jax.jit(step, donate_argnums=0).lower(state, tasks).compile()
    compile_s = time.perf_counter() - started
    state, metrics = compiled(state, tasks)
    first_loss = float(metrics["loss"])

    n = 2048 if jax.default_backend() == "cpu" else 8192
    left = jnp.ones((n, n), jnp.float32)
    product = jax.jit(lambda a: a @ a)
    times, peaks = [], []
    product(left).block_until_ready()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(_RUNS.value):
        started = time.perf_counter()
        state, metrics = compiled(state, tasks)
        jax.block_until_ready(state)
        times.append(time.perf_counter() - started)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    for _ in range(5):
        started = time.perf_counter()
        product(left).block_until_ready()
        peaks.append(2 * n**3 / (time.perf_counter() - started) / 1e9)
    median = float(np.median(times))
    gflops = workload.gflop() / median
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "ms_median": 1e3 * median,
        "ms_min": 1e3 * min(times),
        "runs": len(times),
        "gflops": gflops,
        "fraction_of_matmul_peak": gflops / max(peaks),
        "matmul_gflops": max(peaks),
        "peak_rss_mb": usage.ru_maxrss / 1024,
        "faults_per_step": faults / len(times),
        "compile_s": compile_s,
        "first_loss": first_loss,
        "load": os.getloadavg()[0],
        "plan": str(plan),
        "device": jax.devices()[0].device_kind,
        "versions": {name: version(name) for name in ("jax", "jaxlib")},
    }


def build(workload):
    """The method of a workload."""
    import cml_jax
    from cml_jax import models

    rates = {"learning_rate": workload.inner_rate, "num_steps": workload.inner_steps}
    if not workload.ways:
        return cml_jax.maml(models.mlp(), cml_jax.squared_error, **rates, remat=_REMAT.value)
    loss = cml_jax.cross_entropy
    method = cml_jax.maml(models.conv4(workload.ways), loss, **rates, remat=_REMAT.value)
    if workload.co_learner:
        return cml_jax.cml(method, models.conv_co_learner(workload.ways), loss, scale=1.0)
    return method


if __name__ == "__main__":
    app.run(main)
