"""Meta-training: one flat loop, read from top to bottom."""

import math
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp

import cml_jax
from cml_jax.tasks import task_keys
from experiments import build, hosts, platform
from experiments.checkpoints import Checkpoints, stop_requested
from experiments.config import rewrite
from experiments.evaluate import interval, scorer
from experiments.metrics import MetricsFile, Progress


def train(config, workdir: Path) -> bool:
    """Trains to `train_steps`, from the last checkpoint in `workdir` where there is one.

    Returns:
      True when finished; False when a signal asked to stop before (the state is saved).

    Raises:
      ValueError: when the data cannot give such tasks.
      FloatingPointError: when a loss or gradient is no longer finite.
    """
    problem = build.problem(config)
    plan = platform.make_plan(config)
    name = problem.metric_name

    state = build.initial_state(config, problem)
    checkpoints = Checkpoints(workdir)
    restored = checkpoints.restore_last(state)
    best, seconds = None, 0.0
    if restored is not None:
        _, state, extra = restored
        best, seconds = extra["best"], extra["seconds"]
        if hosts.is_first():
            rewrite(config, workdir)
    step = saved_step = int(state.step)

    state = hosts.replicate(state, plan.replicated)
    images = {split: hosts.replicate(a, plan.replicated) for split, a in problem.data.items()}
    base = build.base_method(config, problem, config.num_steps)
    validate = scorer(config, problem, plan, base, "validation")

    log = MetricsFile(workdir / "metrics.jsonl", step, config.tensorboard)
    progress = Progress(config.train_steps, step, config.log_every_seconds)
    progress.say("compiling")
    plan, advance = platform.fitting(
        config, plan, lambda plan: compile_steps(config, problem, plan, state, images["train"])
    )
    progress.say(f"plan: {plan}")
    if step:
        progress.say(f"resuming at step {step} of {config.train_steps} in {workdir}")
    clock = started = saved = time.monotonic()
    while step < config.train_steps and not stop_requested():
        boundary = min((step // config.eval.every + 1) * config.eval.every, config.train_steps)
        steps = min(plan.steps_per_dispatch, boundary - step)
        state, sums = advance(state, images["train"], steps)
        report = {f"train/{k}": float(v) / steps for k, v in sums.items()}
        step += steps
        bad = [k for k, v in report.items() if not math.isfinite(v)]
        if bad:
            raise FloatingPointError(
                f"{bad[0]} is {report[bad[0]]} in steps {step - steps + 1}-{step}: lower "
                f"--config.inner_learning_rate={config.inner_learning_rate} or "
                f"--config.outer_learning_rate={config.outer_learning_rate}; the checkpoints "
                f"before are kept in {workdir}"
            )
        elapsed, clock = time.monotonic() - clock, time.monotonic()
        report["tasks_per_second"] = steps * config.tasks_per_step / elapsed
        report["seconds"] = seconds + clock - started
        if step == boundary:
            [values] = validate(
                state.params, images["validation"], count=config.eval.validation_tasks
            )
            value = report[f"validation/{name}"] = interval(name, values)[name]
            sign = 1 if problem.larger_is_better else -1
            if best is None or sign * value > sign * best["value"]:
                best = {"value": value, "step": step}
                checkpoints.save_best(step, {"params": state.params}, best)
            clock = time.monotonic()
        progress.update(step, log.write(step, report))
        due = clock - saved > 60 * config.checkpoint_every_minutes
        if step == boundary or hosts.any_process(due):
            checkpoints.save_last(step, state, {"best": best, "seconds": report["seconds"]})
            saved, saved_step = time.monotonic(), step
    if saved_step < step:
        seconds += time.monotonic() - started
        checkpoints.save_last(step, state, {"best": best, "seconds": seconds})
    for resource in (checkpoints, log, progress):
        resource.close()
    return step == config.train_steps


def compile_steps(config, problem, plan, state, images):
    """Compiles `(state, images, steps) -> (state, sums)`: meta-steps and the sums of their metrics.

    The number of steps is traced: one program for the last, shorter dispatch too.
    """
    optimizer = build.outer_optimizer(config)
    weigh = getattr(cml_jax, config.weighting)
    sharp = config.method == "sharp_maml" and config.sharp in ("upper", "both")
    radius = config.radius if sharp else None
    metrics = {"loss": problem.loss, problem.metric_name: problem.metric}
    key = jax.random.key(config.seed)
    sample = partial(problem.sample, queries=config.data.queries)

    def one_step(state, images):
        keys = task_keys(key, "train", state.step * config.tasks_per_step, config.tasks_per_step)
        keys = jax.lax.with_sharding_constraint(keys, plan.tasks)
        tasks = jax.vmap(sample, (0, None))(keys, images)
        method = build.train_method(config, problem, plan.remat, state.step / config.train_steps)
        return cml_jax.meta_step(
            method,
            optimizer,
            state,
            tasks,
            weigh=weigh,
            weigh_on=config.weigh_on,
            radius=radius,
            chunk=plan.chunk,
            metrics=metrics,
        )

    def advance(state, images, steps):
        def body(_, carry):
            state, report = one_step(carry[0], images)
            return state, jax.tree.map(jnp.add, carry[1], report)

        shapes = jax.eval_shape(one_step, state, images)[1]
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.fori_loop(0, steps, body, (state, zeros))

    # Replicated, or a process would hold a part of the parameters only.
    whole = {"donate_argnums": 0, "out_shardings": plan.replicated}
    return jax.jit(advance, **whole).lower(state, images, 1).compile()
