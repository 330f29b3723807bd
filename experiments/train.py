"""Meta-training: one flat loop, read from top to bottom."""

import contextlib
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun

from cml_jax.tasks import task_keys
from cml_jax.types import MetaState
from experiments.analyses_over_training import analyses_over_training
from experiments.build import Learner, Problem, Schedule
from experiments.build.replicas import Replicas, side_by_side
from experiments.machine import memory, processes
from experiments.machine.devices import Plan
from experiments.machine.feed import Feed
from experiments.machine.placement import shared_bytes
from experiments.machine.stop_signals import stop_requested
from experiments.run_folder import health
from experiments.run_folder.best import Best, no_best
from experiments.run_folder.checkpoints import CheckpointError, Checkpoints
from experiments.run_folder.folder import BEST, LAST, METRICS, read_rows
from experiments.run_folder.metrics_file import MetricsFile
from experiments.run_folder.progress import Progress
from experiments.score import Scores, draw_batch
from experiments.settings.record import record_data

_NEW = {"seconds": 0.0, "lost": 0, "best": 0}  # what a checkpoint holds beside the state


def train(
    learner: Learner,
    problem: Problem,
    plan: Plan,
    schedule: Schedule,
    workdir: Path,
    score: Mapping[str, Callable[..., Scores]],
    accept: Callable[[], None] | None = None,
    begin: Callable[[MetaState], MetaState] | None = None,
) -> bool:
    """Trains to the end, from the last checkpoint in `workdir` where there is one.

    Args:
      learner: The functions of the run.
      problem: What is learned.
      plan: How the run is laid out on the devices.
      schedule: How long, and when it validates, saves and reports.
      workdir: The run's folder.
      score: What `scorers` returned.
      accept: Called once the checkpoints fit settings that have changed; None where none has.
      begin: Changes the state at step 0, as `with_body_of` does; not called where a run resumes.

    Returns:
      True when finished; False when a signal asked to stop before (the state is saved).

    Raises:
      FloatingPointError: A loss or gradient is not finite (and such steps are not skipped), was
        not for many steps in a row, or no validation was.
      CheckpointError: The run was further than its checkpoints are, or one cannot be written.
      OSError: A report cannot be written.
    """
    with contextlib.ExitStack() as closing:
        return _train(learner, problem, plan, schedule, workdir, score, accept, begin, closing)


def _train(learner, problem, plan, schedule, workdir, score, accept, begin, closing):
    replicas = learner.replicas
    if begin is not None and not (workdir / LAST).exists():  # told before the run has begun
        begin(jax.eval_shape(lambda: initial_state(learner, problem.data["train"])))
    checkpoints = Checkpoints(workdir)
    state, best, since = _begin(learner, problem, schedule, workdir, checkpoints, begin)
    seconds, lost = since["seconds"], since["lost"]
    step = saved_step = int(state.step.max())

    state = processes.replicate(state, plan.replicated)
    best = best._replace(params=processes.replicate(best.params, plan.replicated))
    train_feed, validation_feed = (
        Feed(problem.data[split], plan, problem.draw, split, replicas.seed())
        for split in ("train", "validation")
    )
    for feed in (train_feed, validation_feed):
        closing.enter_context(contextlib.closing(feed))
    validate = _validation(learner, problem, schedule, score, validation_feed)
    count = schedule.tasks_per_step
    analyze = analyses_over_training(learner, problem, plan, count, validation_feed)
    rows = train_feed.rows(count, plan.steps_per_dispatch)
    compare = step > 0 and accept is None
    processes.on_process_zero(lambda: record_data(problem.split_hash, workdir, compare))
    if accept is not None:
        if np.any(best.about["step"]):  # its value was reached with the old settings
            best = best.scored(validate(best.params)[0], problem.larger_is_better)
            checkpoints.save_best(
                int(np.max(best.about["step"])), {"params": best.params}, best.about
            )
        if processes.is_process_zero():
            accept()

    log = MetricsFile(workdir, step, schedule.tensorboard)
    closing.callback(log.close)
    check = health_check(learner, problem, schedule, read_rows(workdir))
    warned = check.warnings()
    progress = Progress(schedule.train_steps, step, schedule.log_seconds, problem.metric_name)
    closing.callback(progress.close)
    if problem.description:
        progress.say(problem.description)
    progress.say("compiling")
    data = train_feed.tasks(step * count, rows, count, 0)
    plan, advance = memory.fitting(
        plan,
        lambda plan: compile_steps(learner, problem, plan, schedule, state, data),
        schedule.remat_auto,
        shared_bytes(data, plan),
    )
    progress.say(f"plan: {plan}")
    if step:
        progress.say(f"resuming at step {step} of {schedule.train_steps} in {workdir}")
    clock = started = saved = time.monotonic()

    def save():
        log.sync()
        about = {"seconds": report["seconds"], "lost": lost, "best": best.about["step"]}
        checkpoints.save_last(step, state, about)

    while not _ended(schedule, step, best) and not stop_requested():
        next_validation = (step // schedule.validate_every + 1) * schedule.validate_every
        boundary = min(next_validation, schedule.train_steps)
        steps = min(rows, boundary - step)
        data = train_feed.tasks(step * count, rows, count, steps)
        state, seen = advance(state, data, steps)
        seen = jax.tree.map(np.asarray, seen)
        step += steps
        lost = lost + steps if (seen.skipped == steps).all() else 0
        stop = health.must_stop(
            seen,
            step,
            lost,
            skip=schedule.skip_non_finite,
            tasks_per_step=schedule.tasks_per_step,
            replicas=replicas.values,
            remedy=schedule.remedy,
        )
        if stop:
            raise FloatingPointError(f"{stop}; the checkpoints are kept in {workdir}")
        report = {}
        for metric, values in health.means(seen, steps).items():
            report |= _by_replica(replicas, problem, f"train/{metric}", values)
        if schedule.skip_non_finite or seen.skipped.any():
            report["skipped"] = seen.skipped.sum()
            report |= {f"skipped/{i}": seen.skipped[int(i)] for i in replicas.names()}
        elapsed, clock = time.monotonic() - clock, time.monotonic()
        tasks = steps * schedule.tasks_per_step * len(replicas.values)
        report["tasks_per_second"] = tasks / elapsed
        report["seconds"] = seconds + clock - started
        if step == boundary:
            value, scores = validate(state.params)
            report |= scores
            new = best.after(state.params, value, step, problem.larger_is_better)
            if new is not best:
                best = new
                checkpoints.save_best(step, {"params": best.params}, best.about)
            if schedule.analyze_every and step % schedule.analyze_every == 0:
                for name, values in analyze(state.params).items():
                    report |= _by_replica(replicas, problem, name, values)
            clock = time.monotonic()
        row = log.write(step, report)
        progress.update(step, row)
        check.see(row)
        if step == boundary:
            for line in check.warnings():
                if line not in warned:
                    progress.say(f"warning: {line}")
                    warned.append(line)
        due = clock - saved > schedule.checkpoint_seconds
        if step == boundary or processes.any_process(due):
            save()
            saved, saved_step = time.monotonic(), step
    if saved_step < step:
        save()
    ended = _ended(schedule, step, best)
    if ended and not np.any(best.about["step"]):
        raise FloatingPointError(
            f"validation/{problem.metric_name} was never finite: {schedule.remedy}"
        )
    if ended and step < schedule.train_steps:
        progress.say(f"no better validation in {schedule.patience}: training ends")
    checkpoints.close()
    return ended


def initial_state(learner: Learner, data: Any) -> MetaState:
    """The state at step 0; several replicas are a leading axis."""
    return jax.jit(side_by_side(learner.replicas, learner.init, (None,)))(data)


def health_check(
    learner: Learner, problem: Problem, schedule: Schedule, rows: list[Any]
) -> health.HealthCheck:
    """The check of a run's reports for signs that it learns nothing."""
    return health.HealthCheck(
        train_steps=schedule.train_steps,
        tasks_per_step=schedule.tasks_per_step,
        # Of all training classes at once an accuracy of chance is no sign: there may be thousands.
        chance=1 / problem.ways if problem.ways and not problem.train_classes else None,
        agreement=schedule.compares_tasks,
        replicas=learner.replicas.names(),
        metric=problem.metric_name,
        rows=rows,
    )


def compile_steps(
    learner: Learner, problem: Problem, plan: Plan, schedule: Schedule, state: MetaState, data: Any
) -> Callable[..., tuple[MetaState, health.DispatchReport]]:
    """Compiles `(state, data, steps) -> (state, DispatchReport)`: meta-steps and what they report.

    A step that is not finite leaves the state as it was. The number of steps is traced: one
    program for the last, shorter dispatch too. Several replicas are a leading axis of the state
    and of the report.
    """
    count = schedule.tasks_per_step

    def one_step(swept, state, data, row):
        key = jax.random.key(swept["seed"])
        keys = task_keys(key, "train", state.step * count, count)
        keys = jax.lax.with_sharding_constraint(keys, plan.tasks)
        tasks = draw_batch(problem.train_sample, keys, data, row)
        return learner.meta_step(swept, state, tasks, data, plan.remat, plan.chunk)

    each = partial(side_by_side, learner.replicas)
    step = jax.jit(each(one_step, (0, None, None)))
    nothing = each(lambda _, report: health.nothing_seen(report), (0,))
    keep = each(lambda _, *seen: health.keep_finite(*seen), (0, 0, 0, 0))
    look = each(lambda _, *seen: health.look_at_params(*seen), (0, 0))

    def advance(state, data, steps):
        # Traced once, for what it reports and for the loop: that takes seconds.
        traced = step.trace(state, data, steps)
        call, tree = jaxpr_as_fun(traced.jaxpr), jax.tree.structure(traced.out_info)

        def once(i, carry):
            state, seen = carry
            new = jax.tree.unflatten(tree, call(*jax.tree.leaves((state, data, i))))
            return keep(state, *new, seen)

        nothing_seen = jax.eval_shape(nothing, traced.out_info[1])
        carry = state, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), nothing_seen)
        state, seen = jax.lax.fori_loop(0, steps, once, carry)
        return state, look(seen, state.params)

    # Replicated, or a process would hold a part of the parameters only.
    whole = {"donate_argnums": 0, "out_shardings": plan.replicated}
    return jax.jit(advance, **whole).lower(state, data, np.int32(1)).compile()


def _begin(learner, problem, schedule, workdir, checkpoints, begin):
    """The state, the best parameters and what was saved with them: of the last checkpoint, or new.

    Raises:
      CheckpointError: The run was further than its checkpoints are.
    """
    state = initial_state(learner, problem.data["train"])
    best = no_best(state.params, state.step.shape, problem.larger_is_better)
    restored = checkpoints.restore_last(state)
    at = restored[0] if restored else 0
    processes.on_process_zero(lambda: _check_reports(schedule, workdir, at))
    if restored is None:
        return begin(state) if begin else state, best, _NEW
    _, state, since = restored
    since = _NEW | since
    if found := checkpoints.restore_best({"params": state.params}):
        best = Best(found[1]["params"], found[2])
    elif np.any(since["best"]):
        raise CheckpointError(
            f"{workdir / BEST} has no checkpoint, but the best is of step {np.max(since['best'])}: "
            "restore it from a backup, or choose another --workdir"
        )
    return state, best, since


def _check_reports(schedule, workdir, restored):
    """Raises a CheckpointError where reports and checkpoints were not left by one run."""
    steps = {row["step"] for row in read_rows(workdir)}
    path = workdir / METRICS
    if restored and restored not in steps:
        raise CheckpointError(
            f"{path} has no report of step {restored}, where the checkpoint is: restore it, or "
            f'accept the gap by a line {{"step": {restored}}} at its end'
        )
    if not restored and max(steps, default=0) > schedule.validate_every:  # there it was saved
        raise CheckpointError(
            f"{path} goes to step {max(steps)} but {workdir / LAST} has no checkpoint: "
            "restore it from a backup, or choose another --workdir"
        )


def _validation(learner, problem, schedule, score, feed):
    """`(params) -> (value, report)`: the value that decides which is best, `[]` or `[replicas]`."""

    def validate(params):
        values = {}
        for prefix, who in learner.validated.items():
            found = score[who](params, feed, schedule.validation_tasks, learner.num_steps)
            values[f"{prefix}/{problem.metric_name}"] = np.asarray(found.values, float).mean(-1)
        report = {}
        for metric, value in values.items():
            report |= _by_replica(learner.replicas, problem, metric, value)
        return np.mean(list(values.values()), 0), report

    return validate


def _ended(schedule, step, best):
    """Whether training is over: train_steps are made, or `patience` validations were no better."""
    without_better = (step - np.max(best.about["step"])) // schedule.validate_every
    return step == schedule.train_steps or 0 < schedule.patience <= without_better


def _by_replica(replicas: Replicas, problem: Problem, name: str, values: np.ndarray):
    """The entries of a report for a metric: its mean over replicas, and each replica's value."""
    parts = replicas.names()
    finite = values[np.isfinite(values)]
    mean = finite.mean() if parts and finite.size else np.mean(values)
    each = name.startswith("analysis/") or name.endswith(("loss", problem.metric_name))
    own = parts if each else []
    return {name: mean} | {f"{name}/{part}": values[int(part)] for part in own}
