"""Meta-training: one flat loop, read from top to bottom."""

import math
import time
from functools import partial
from pathlib import Path

import jax

import cml_jax
from cml_jax.tasks import task_keys
from experiments import build, platform, watch
from experiments.checkpoints import Checkpoints, stop_requested
from experiments.evaluate import interval, scorer
from experiments.metrics import MetricsFile, Progress, read


def train(config, workdir: Path) -> bool:
    """Trains to `train_steps`, from the last checkpoint in `workdir` where there is one.

    Returns:
      True when finished; False when a signal asked to stop before (the state is saved).

    Raises:
      ValueError: when the data cannot give such tasks.
      FloatingPointError: when a loss or gradient is not finite and `config.non_finite` is "stop",
        when it was in no step for long, or when no validation was.
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
    step = int(state.step)

    state = jax.device_put(state, plan.replicated)
    images = {split: jax.device_put(a, plan.replicated) for split, a in problem.data.items()}
    base = build.base_method(config, problem, config.num_steps)
    validate = scorer(config, problem, plan, base, "validation")

    log = MetricsFile(workdir / "metrics.jsonl", step, config.tensorboard)
    warned = watch.warnings(config, read(workdir / "metrics.jsonl"))
    lost = 0  # steps skipped since a good one
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
        state, seen = advance(state, images["train"], steps)
        step, skipped = step + steps, int(seen.skipped)
        kept = steps - skipped or math.nan
        report = {f"train/{k}": float(v) / kept for k, v in seen.sums.items()}
        if config.non_finite == "skip":
            report["skipped"] = skipped
        lost = lost + steps if skipped == steps else 0
        stop = (skipped and config.non_finite == "stop") or lost >= watch.LOST_STEPS
        if stop or not seen.params_finite:
            what = watch.not_finite(config, seen, step, lost)
            raise FloatingPointError(f"{what}; the checkpoints are kept in {workdir}")
        elapsed, clock = time.monotonic() - clock, time.monotonic()
        report["tasks_per_second"] = steps * config.tasks_per_step / elapsed
        report["seconds"] = seconds + clock - started
        if step == boundary:
            [values] = validate(
                state.params, images["validation"], count=config.eval.validation_tasks
            )
            value = report[f"validation/{name}"] = interval(name, values)[name]
            sign = 1 if problem.larger_is_better else -1
            better = best is None or sign * value > sign * best["value"]
            if math.isfinite(value) and better:
                best = {"value": value, "step": step}
                checkpoints.save_best(step, {"params": state.params}, best)
            clock = time.monotonic()
        progress.update(step, log.write(step, report))
        if step == boundary:
            for line in watch.warnings(config, read(workdir / "metrics.jsonl")):
                if line not in warned:
                    progress.say(f"warning: {line}")
                    warned.append(line)
        if step == boundary or clock - saved > 60 * config.checkpoint_every_minutes:
            checkpoints.save_last(step, state, {"best": best, "seconds": report["seconds"]})
            saved = time.monotonic()
    if step < config.train_steps:
        seconds += time.monotonic() - started
        checkpoints.save_last(step, state, {"best": best, "seconds": seconds})
    elif best is None:
        raise FloatingPointError(
            f"validation/{name} was never finite: lower "
            f"--config.inner_learning_rate={config.inner_learning_rate} in a new run"
        )
    for resource in (checkpoints, log, progress):
        resource.close()
    return step == config.train_steps


def compile_steps(config, problem, plan, state, images):
    """Compiles `(state, images, steps) -> (state, watch.Seen)`: meta-steps and what they report.

    A step that is not finite leaves the state as it was, whatever `config.non_finite` is. The
    number of steps is traced: one program for the last, shorter dispatch too.
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
            before, seen = carry
            return watch.keep_finite(before, *one_step(before, images), seen)

        start = watch.nothing_seen(jax.eval_shape(one_step, state, images)[1])
        state, seen = jax.lax.fori_loop(0, steps, body, (state, start))
        return state, watch.look_at_params(seen, state.params)

    return jax.jit(advance, donate_argnums=0).lower(state, images, 1).compile()
