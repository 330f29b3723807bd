"""Meta-training: one flat loop, read from top to bottom."""

import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import cml_jax
from cml_jax.tasks import task_keys
from experiments import build, hosts, platform
from experiments.best import Best, no_best
from experiments.checkpoints import Checkpoints, stop_requested
from experiments.config import rewrite
from experiments.evaluate import scorer
from experiments.metrics import MetricsFile, Progress
from experiments.runs import names, runs, side_by_side


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
    best = no_best(state.params, state.step.shape, problem.larger_is_better)
    seconds = 0.0
    if restored is not None:
        _, state, extra = restored
        seconds = extra["seconds"]
        if restored := checkpoints.restore_best({"params": state.params}):
            best = Best(restored[1]["params"], restored[2])
        if hosts.is_first():
            rewrite(config, workdir)
    step = saved_step = int(state.step.max())

    state = hosts.replicate(state, plan.replicated)
    best = best._replace(params=hosts.replicate(best.params, plan.replicated))
    images = {split: hosts.replicate(a, plan.replicated) for split, a in problem.data.items()}
    validators = {
        who: scorer(config, problem, plan, partial(_validated, who, problem), "validation")
        for who in build.validated(config, problem)
    }

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
        train_report = {k: np.asarray(v) / steps for k, v in sums.items()}
        step += steps
        _check_finite(config, train_report, step - steps + 1, step, workdir)
        report = {}
        for metric, values in train_report.items():
            report |= _by_run(config, f"train/{metric}", values)
        elapsed, clock = time.monotonic() - clock, time.monotonic()
        tasks = steps * config.tasks_per_step * len(runs(config))
        report["tasks_per_second"] = tasks / elapsed
        report["seconds"] = seconds + clock - started
        if step == boundary:
            values = []
            for who, validate in validators.items():
                count = config.eval.validation_tasks
                [scores] = validate(state.params, images["validation"], count=count)
                values.append(np.asarray(scores, np.float64).mean(-1))
                report |= _by_run(config, f"{who}/{name}", values[-1])
            value = np.mean(values, 0)
            new = best.after(state.params, value, step, problem.larger_is_better)
            if new is not best:
                best = new
                checkpoints.save_best(step, {"params": best.params}, best.about)
            clock = time.monotonic()
        progress.update(step, log.write(step, report))
        due = clock - saved > 60 * config.checkpoint_every_minutes
        if step == boundary or hosts.any_process(due):
            checkpoints.save_last(step, state, {"seconds": report["seconds"]})
            saved, saved_step = time.monotonic(), step
    if saved_step < step:
        seconds += time.monotonic() - started
        checkpoints.save_last(step, state, {"seconds": seconds})
    for resource in (checkpoints, log, progress):
        resource.close()
    return step == config.train_steps


def compile_steps(config, problem, plan, state, images):
    """Compiles `(state, images, steps) -> (state, sums)`: meta-steps and the sums of their metrics.

    The number of steps is traced: one program for the last, shorter dispatch too. Several runs are
    a leading axis of the state and of the sums.
    """
    weigh = getattr(cml_jax, config.weighting)
    sharp = config.method == "sharp_maml" and config.sharp in ("upper", "both")
    metrics = {"loss": problem.loss, problem.metric_name: problem.metric}

    def one_step(c, state, images):
        key, count = jax.random.key(c.seed), c.tasks_per_step
        keys = task_keys(key, "train", state.step * count, count)
        keys = jax.lax.with_sharding_constraint(keys, plan.tasks)
        tasks = jax.vmap(problem.train_sample, (0, None))(keys, images)
        return cml_jax.meta_step(
            build.train_method(
                c, build.on(problem, images), plan.remat, state.step / c.train_steps
            ),
            build.outer_optimizer(c),
            state,
            tasks,
            weigh=weigh,
            weigh_on=c.weigh_on,
            radius=c.radius if sharp else None,
            chunk=plan.chunk,
            metrics=metrics,
        )

    all_runs = side_by_side(config, one_step, (0, None))

    def advance(state, images, steps):
        def body(_, carry):
            state, report = all_runs(carry[0], images)
            return state, jax.tree.map(jnp.add, carry[1], report)

        shapes = jax.eval_shape(all_runs, state, images)[1]
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.fori_loop(0, steps, body, (state, zeros))

    # Replicated, or a process would hold a part of the parameters only.
    whole = {"donate_argnums": 0, "out_shardings": plan.replicated}
    return jax.jit(advance, **whole).lower(state, images, 1).compile()


def _validated(who, problem, config, images):
    return build.validated(config, build.on(problem, images))[who]


def _by_run(config, name, values):
    """A metric as rows have it: the mean over runs, and each run's own, behind its number."""
    parts = names(config)
    finite = values[np.isfinite(values)]
    mean = finite.mean() if parts and finite.size else np.mean(values)
    own = parts if name.endswith(("loss", "accuracy", "mse")) else []
    return {name: mean} | {f"{name}/{part}": values[int(part)] for part in own}


def _check_finite(config, report, first, last, workdir):
    """Stops where no run is finite: of several, one that diverges must not end the rest."""
    for name, values in report.items():
        if not np.isfinite(values).any():
            raise FloatingPointError(
                f"train/{name} is {np.mean(values)} in steps {first}-{last}: lower "
                f"--config.inner_learning_rate={config.inner_learning_rate} or "
                f"--config.outer_learning_rate={config.outer_learning_rate}; the checkpoints "
                f"before are kept in {workdir}"
            )
