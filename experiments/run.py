"""One run, from a config to results: what `main` and notebooks call."""

import contextlib
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ml_collections import ConfigDict

from experiments.choices.key import ConfigError
from experiments.choices.methods import METHODS
from experiments.machine import lock, processes
from experiments.run_folder import folder
from experiments.run_folder.results import Results, read_results
from experiments.settings.checks import check
from experiments.settings.config import flat
from experiments.settings.record import changed, record, rewrite

if TYPE_CHECKING:
    from experiments.build import Learner, Problem, Schedule
    from experiments.machine.devices import Plan
    from experiments.score import Scores


class Parts(NamedTuple):
    """What a run is made of: see `experiments.train.train` and `experiments.evaluate.evaluate`."""

    learner: "Learner"
    problem: "Problem"
    plan: "Plan"
    schedule: "Schedule"
    score: "dict[str, Callable[..., Scores]]"
    about: dict[str, Any]


class Stopped(Exception):
    """A signal asked the run to stop. What it reached is saved: the same call resumes."""


def run(
    config: ConfigDict,
    workdir: str | Path,
    problem: "Problem | None" = None,
    *,
    evaluate_only: bool = False,
    accept_changes: bool = False,
    given: Collection[str] = (),
) -> Results | None:
    """Trains a meta-learner, then tests the checkpoint that was best in validation.

    Nothing is done twice: a run resumes from the last checkpoint in `workdir`, and a finished run
    returns its results.

    Args:
      config: Settings, such as a config file's `get_config()` or `default_config()` with changes.
      workdir: The run's folder, made when it is missing.
      problem: Model, tasks, loss and metric of your own, instead of what `config.data` and
        `config.model` name.
      evaluate_only: Whether to test a trained run and do nothing else.
      accept_changes: Whether a run that was started with other settings resumes with these.
      given: The settings that the user named, each of which a chosen row must read.

    Returns:
      The results, as they are in results.json; None in all processes but process 0.

    Raises:
      ConfigError: A mistake in the settings, the folder or the data: one line.
      LockError: Another program is at work in the folder.
      CheckpointError: A checkpoint could not be written or read.
      FloatingPointError: Training is not finite.
      Stopped: A signal asked the run to stop.
    """
    check(config, given, own_problem=problem is not None)
    with _mistakes():
        workdir = folder.check_workdir(workdir)
    with contextlib.ExitStack() as held:
        # In process 0 alone, so that what has changed is printed once.
        to_do = processes.on_process_zero(
            lambda: _prepare(config, workdir, held, evaluate_only, accept_changes)
        )
        if not to_do:
            return read_results(workdir) if processes.is_process_zero() else None
        lock_file = workdir / folder.LOCK  # process 0 has just written it
        if not processes.same(lock_file.read_bytes() if lock_file.exists() else b""):
            raise ConfigError(
                f"{workdir} is not one folder on all machines: put it on a shared disk"
            )
        parts = assemble(config, problem)
        if not evaluate_only and not train(config, parts, workdir):
            raise Stopped("stopped before the end: the same command resumes from here")
        return evaluate(parts, workdir)


def _prepare(config, workdir, held, evaluate_only, accept_changes):
    """Locks the folder and records the config; False where there is nothing left to do."""
    try:
        if not evaluate_only:
            workdir.mkdir(parents=True, exist_ok=True)
        if workdir.exists():
            held.enter_context(lock.hold(workdir / folder.LOCK))
            folder.remove_temporary_files(workdir)
    except OSError as error:
        raise ConfigError(f"cannot write {workdir} ({error.strerror}): choose --workdir") from None
    accepted = record(config, workdir, evaluate_only, accept_changes and not evaluate_only)
    if (workdir / folder.RESULTS).exists() and not evaluate_only and not accepted:
        with _mistakes():
            read_results(workdir)
        print(f"finished: {workdir / folder.RESULTS} (--evaluate tests it again)")
        return False
    print(f"run: {workdir}", flush=True)
    if accepted:
        print(f"accepted: {', '.join(accepted)}", flush=True)
    return True


def assemble(config: ConfigDict, problem: "Problem | None" = None) -> Parts:
    """Makes the parts of a run from a config, which nothing below this function sees.

    Args:
      config: The checked config.
      problem: The caller's problem; None makes the config's.

    Raises:
      ConfigError: The data cannot give such tasks, or the plan does not fit the machine.
    """
    # Imported only here: a mistake in the settings is told before jax is loaded.
    from experiments import build
    from experiments.machine.devices import make_plan
    from experiments.machine.feed import gather_on_host
    from experiments.score import scorers

    settings = flat(config)
    with _mistakes():
        made = build.problem(settings) if problem is None else build.own(problem)
        plan = make_plan(
            config.tasks_per_step,
            devices=config.plan.devices,
            chunk=config.plan.chunk,
            steps_per_dispatch=config.plan.steps_per_dispatch,
            remat=config.plan.remat == "on",
            small=made.small,
        )
        learner = build.learner(settings, made)
        gather = gather_on_host(
            config.plan.images, made.data, made.draw, len(learner.replicas.values)
        )
    about = _about(settings, made, own=problem is not None)
    plan = plan._replace(gather=gather)
    schedule = build.schedule(settings)
    return Parts(learner, made, plan, schedule, scorers(learner, made, plan), about)


def train(config: ConfigDict, parts: Parts, workdir: Path) -> bool:
    """Trains to the end; False when a signal asked to stop before."""
    from experiments.train import train as train_parts

    accepted = processes.on_process_zero(lambda: changed(config, workdir))
    accept = (lambda: rewrite(config, workdir)) if accepted else None
    begin = None
    if config.init_from:
        from experiments.run_folder.init_from import with_body_of

        begin = partial(with_body_of, config.init_from)
    return train_parts(*parts[:4], workdir, parts.score, accept, begin)


def evaluate(parts: Parts, workdir: Path) -> Results | None:
    """Tests the best checkpoint and writes the results."""
    from experiments.evaluate import evaluate as evaluate_parts

    with _mistakes():
        return evaluate_parts(*parts[:4], workdir, parts.score, parts.about)


def _about(settings: Mapping[str, Any], problem: "Problem", own: bool) -> dict[str, Any]:
    """What results.json says of the settings."""
    has_inner_steps = METHODS[settings["method"]].has_inner_steps
    return {
        "method": settings["method"],
        "weighting": settings["weighting"],
        "co_learner": ("own" if problem.co_learner else "none") if own else settings["co_learner"],
        "seed": settings["seed"],
        "protocol": {
            "ways": problem.ways or None,
            "shots": None if own else settings["data.shots"],
            "queries": None if own else settings["eval.queries"],
            "num_steps_train": settings["num_steps"] if has_inner_steps else 0,
            "tasks_per_step": settings["tasks_per_step"],
            "train_steps": settings["train_steps"],
        }
        | ({"init_from": settings["init_from"]} if settings["init_from"] else {}),
    }


@contextlib.contextmanager
def _mistakes():
    """Makes a ValueError of data, folders and plans a mistake in what the user asked for."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(error) from error
