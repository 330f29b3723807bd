"""Meta-training: one flat loop, read from top to bottom."""

import contextlib
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import cml_jax
from cml_jax.tasks import task_keys
from experiments.build import graphs
from experiments.build import problem as build
from experiments.build.replicas import names, runs, side_by_side
from experiments.evaluate import scorer
from experiments.machine import devices, memory, processes
from experiments.machine.stop_signals import stop_requested
from experiments.run_folder import health
from experiments.run_folder.best import Best, no_best
from experiments.run_folder.checkpoints import CheckpointError, Checkpoints
from experiments.run_folder.folder import read
from experiments.run_folder.metrics_file import MetricsFile
from experiments.run_folder.progress import Progress
from experiments.settings.record import changed, record_data, rewrite

_NEW = {"seconds": 0.0, "lost": 0, "best": 0}  # what a checkpoint has beside the state


def train(config, workdir: Path, problem: build.Problem | None = None) -> bool:
    """Trains to `train_steps`, from the last checkpoint in `workdir` where there is one.

    With `eval.patience` it ends earlier, after so many validations without a better one.

    Args:
      config: the checked config.
      workdir: the run's folder.
      problem: `build.problem(config)`, where it is there already.

    Returns:
      True when finished; False when a signal asked to stop before (the state is saved).

    Raises:
      ValueError: when the data cannot give such tasks.
      FloatingPointError: when a loss or gradient is not finite and `config.non_finite` is "stop",
        when it was in no step for long, or when no validation was.
      CheckpointError: the run was further than its checkpoints are, or one cannot be written.
      OSError: a report cannot be written.
    """
    with contextlib.ExitStack() as closing:
        return _train(config, workdir, problem or build.problem(config), closing)


def _train(config, workdir, problem, closing):
    plan = devices.make_plan(config)
    name = problem.metric_name

    checkpoints = Checkpoints(workdir)
    state, best, since = _begin(config, problem, workdir, checkpoints)
    seconds, lost = since["seconds"], since["lost"]
    step = saved_step = int(state.step.max())

    state = processes.replicate(state, plan.replicated)
    best = best._replace(params=processes.replicate(best.params, plan.replicated))
    data = {split: processes.replicate(a, plan.replicated) for split, a in problem.data.items()}
    validate = _validation(config, problem, plan, data["validation"])
    accepted = processes.on_process_zero(lambda: bool(changed(config, workdir)))
    processes.on_process_zero(
        lambda: record_data(problem.split_hash, workdir, step > 0 and not accepted)
    )
    if accepted:
        if np.any(best.about["step"]):  # what it reached was by the old settings
            best = best.scored(validate(best.params)[0], problem.larger_is_better)
            checkpoints.save_best(
                int(np.max(best.about["step"])), {"params": best.params}, best.about
            )
        if processes.is_process_zero():
            rewrite(config, workdir)

    log = closing.enter_context(
        contextlib.closing(MetricsFile(workdir / "metrics.jsonl", step, config.tensorboard))
    )
    watching = health.HealthCheck(config, read(workdir / "metrics.jsonl"))
    warned = watching.warnings()
    progress = closing.enter_context(
        contextlib.closing(Progress(config.train_steps, step, config.log_every_seconds))
    )
    if problem.graph:
        progress.say(graphs.in_words(problem.graph))
    progress.say("compiling")
    plan, advance = memory.fitting(
        config, plan, lambda plan: compile_steps(config, problem, plan, state, data["train"])
    )
    progress.say(f"plan: {plan}")
    if step:
        progress.say(f"resuming at step {step} of {config.train_steps} in {workdir}")
    clock = started = saved = time.monotonic()

    def save():
        log.sync()
        about = {"seconds": report["seconds"], "lost": lost, "best": best.about["step"]}
        checkpoints.save_last(step, state, about)

    while not _ended(config, step, best) and not stop_requested():
        boundary = min((step // config.eval.every + 1) * config.eval.every, config.train_steps)
        steps = min(plan.steps_per_dispatch, boundary - step)
        state, seen = advance(state, data["train"], steps)
        seen = jax.tree.map(np.asarray, seen)
        step += steps
        lost = lost + steps if (seen.skipped == steps).all() else 0
        if line := health.must_stop(config, seen, step, lost):
            raise FloatingPointError(f"{line}; the checkpoints are kept in {workdir}")
        report = {}
        for metric, values in health.means(seen, steps).items():
            report |= _by_run(config, f"train/{metric}", values)
        if config.non_finite == "skip" or seen.skipped.any():
            report["skipped"] = seen.skipped.sum()
            report |= {f"skipped/{i}": seen.skipped[int(i)] for i in names(config)}
        elapsed, clock = time.monotonic() - clock, time.monotonic()
        tasks = steps * config.tasks_per_step * len(runs(config))
        report["tasks_per_second"] = tasks / elapsed
        report["seconds"] = seconds + clock - started
        if step == boundary:
            value, scores = validate(state.params)
            report |= scores
            new = best.after(state.params, value, step, problem.larger_is_better)
            if new is not best:
                best = new
                checkpoints.save_best(step, {"params": best.params}, best.about)
            clock = time.monotonic()
        row = log.write(step, report)
        progress.update(step, row)
        watching.see(row)
        if step == boundary:
            for line in watching.warnings():
                if line not in warned:
                    progress.say(f"warning: {line}")
                    warned.append(line)
        due = clock - saved > 60 * config.checkpoint_every_minutes
        if step == boundary or processes.any_process(due):
            save()
            saved, saved_step = time.monotonic(), step
    if saved_step < step:
        save()
    ended = _ended(config, step, best)
    if ended and not np.any(best.about["step"]):
        raise FloatingPointError(
            f"validation/{name} was never finite: lower "
            f"--config.inner_learning_rate={config.inner_learning_rate} in a new run"
        )
    if ended and step < config.train_steps:
        progress.say(f"no better validation in {config.eval.patience}: training ends")
    checkpoints.close()
    return ended


def _begin(config, problem, workdir, checkpoints):
    """The state and the best of the last checkpoint, and what was saved with it; or the start.

    Raises:
      CheckpointError: the run was further than its checkpoints are.
    """
    state = build.initial_state(config, problem)
    best = no_best(state.params, state.step.shape, problem.larger_is_better)
    restored = checkpoints.restore_last(state)
    at = restored[0] if restored else 0
    processes.on_process_zero(lambda: _check_reports(config, workdir / "metrics.jsonl", at))
    if restored is None:
        return state, best, _NEW
    _, state, since = restored
    since = _NEW | since
    if found := checkpoints.restore_best({"params": state.params}):
        best = Best(found[1]["params"], found[2])
    elif np.any(since["best"]):
        raise CheckpointError(
            f"{workdir}/best has no checkpoint, but the best is of step {np.max(since['best'])}: "
            "restore it from a backup, or choose another --workdir"
        )
    return state, best, since


def _check_reports(config, path, restored):
    """Raises a CheckpointError where reports and checkpoints were not left by one run."""
    steps = {row["step"] for row in read(path)}
    if restored and restored not in steps:
        raise CheckpointError(
            f"{path} has no report of step {restored}, where the checkpoint is: restore it, or "
            f'accept the gap by a line {{"step": {restored}}} at its end'
        )
    if not restored and max(steps, default=0) > config.eval.every:  # it was saved at a validation
        raise CheckpointError(
            f"{path} goes to step {max(steps)} but {path.parent / 'last'} has no checkpoint: "
            "restore it from a backup, or choose another --workdir"
        )
    return True


def _validation(config, problem, plan, data):
    """`(params) -> (value, report)`: what decides which is best, `[]` or `[runs]`, and its rows."""
    name, count = problem.metric_name, config.eval.validation_tasks
    scorers = {
        who: scorer(config, problem, plan, partial(_validated, who, problem), "validation")
        for who in build.validated(config, problem)
    }

    def validate(params):
        values = {
            f"{who}/{name}": np.asarray(score(params, data, count=count)[0], np.float64).mean(-1)
            for who, score in scorers.items()
        }
        report = {}
        for metric, value in values.items():
            report |= _by_run(config, metric, value)
        return np.mean(list(values.values()), 0), report

    return validate


def _ended(config, step, best):
    """After train_steps, or `eval.patience` validations of which none was better, in any run."""
    without_better = (step - np.max(best.about["step"])) // config.eval.every
    return step == config.train_steps or 0 < config.eval.patience <= without_better


def compile_steps(config, problem, plan, state, data):
    """Compiles `(state, data, steps) -> (state, DispatchReport)`: meta-steps and what they report.

    A step that is not finite leaves the state as it was, whatever `config.non_finite` is. The
    number of steps is traced: one program for the last, shorter dispatch too. Several runs are a
    leading axis of the state and of what is seen.
    """
    weigh = getattr(cml_jax, config.weighting)
    sharp = config.method == "sharp_maml" and config.sharp in ("upper", "both")
    metrics = {"loss": problem.loss, problem.metric_name: problem.metric}

    def one_step(c, state, data):
        key, count = jax.random.key(c.seed), c.tasks_per_step
        keys = task_keys(key, "train", state.step * count, count)
        keys = jax.lax.with_sharding_constraint(keys, plan.tasks)
        tasks = jax.vmap(problem.train_sample, (0, None))(keys, data)
        return cml_jax.meta_step(
            build.train_method(
                c, build.with_data(problem, data), plan.remat, state.step / c.train_steps
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

    def watched(c, state, seen, data):
        return health.keep_finite(state, *one_step(c, state, data), seen)

    first = side_by_side(config, lambda c, *a: health.nothing_seen(one_step(c, *a)[1]), (0, None))
    all_runs = side_by_side(config, watched, (0, 0, None))
    look = side_by_side(config, lambda _, *a: health.look_at_params(*a), (0, 0))

    def advance(state, data, steps):
        shapes = jax.eval_shape(first, state, data)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        carry = (state, zeros)
        state, seen = jax.lax.fori_loop(0, steps, lambda _, c: all_runs(*c, data), carry)
        return state, look(seen, state.params)

    # Replicated, or a process would hold a part of the parameters only.
    whole = {"donate_argnums": 0, "out_shardings": plan.replicated}
    return jax.jit(advance, **whole).lower(state, data, 1).compile()


def _validated(who, problem, config, data):
    return build.validated(config, build.with_data(problem, data))[who]


def _by_run(config, name, values):
    """A metric as rows have it: the mean over runs, and each run's own, behind its number."""
    parts = names(config)
    finite = values[np.isfinite(values)]
    mean = finite.mean() if parts and finite.size else np.mean(values)
    own = parts if name.endswith(("loss", "accuracy", "mse")) else []
    return {name: mean} | {f"{name}/{part}": values[int(part)] for part in own}
