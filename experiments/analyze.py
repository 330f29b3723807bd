"""Analyses of a trained run: `python -m experiments.analyze --workdir=RUN`.

Writes RUN/analysis.json and a picture of each analysis to RUN/analysis/. docs/analysis.md says what
they show.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.choices.key import ConfigError
from experiments.machine import backend, devices, lock
from experiments.machine.printing import spell_what_cannot_be_printed
from experiments.run_folder import folder
from experiments.settings.checks import check
from experiments.settings.command_line import fail
from experiments.settings.config import flat
from experiments.settings.record import record_data, recorded

if TYPE_CHECKING:
    from experiments.analyses import Subject
    from experiments.build import Problem


def main(arguments: list[str] | None = None) -> int:
    """Analyses the run that the command line names; returns the exit code."""
    spell_what_cannot_be_printed()
    parser = argparse.ArgumentParser(
        prog="python -m experiments.analyze", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--workdir", required=True, metavar="RUN", help="folder of a trained run")
    parser.add_argument("--checkpoint", default="best", choices=["best", "last"])
    parser.add_argument("--split", default="test", choices=["train", "validation", "test"])
    parser.add_argument(
        "--num_tasks", type=int, default=100, help="rounded up to whole meta-batches"
    )
    parser.add_argument(
        "--replica", type=int, default=0, help="which of several seeds or swept values, from 0"
    )
    parser.add_argument(
        "--embedding", default="pca", choices=["pca", "tsne"], help="of features, in the picture"
    )
    parser.add_argument(
        "--only", default="", metavar="NAME,NAME", help="these analyses alone, by their names"
    )
    asked = vars(parser.parse_args(arguments))
    asked["only"] = tuple(filter(None, asked["only"].split(",")))
    from experiments.run_folder.checkpoints import CheckpointError

    try:
        config = _config(asked["workdir"])
        devices.configure(config.plan.devices, config.plan.compilation_cache, config.precision)
        backend.start()
        analyze(**asked)
    except (ConfigError, lock.LockError, backend.BackendError) as error:
        fail(error, 2)
    except (CheckpointError, OSError) as error:
        fail(error, 1)
    return 0


def analyze(
    workdir: str | Path,
    problem: "Problem | None" = None,
    *,
    checkpoint: str = "best",
    split: str = "test",
    num_tasks: int = 100,
    replica: int = 0,
    embedding: str = "pca",
    only: Sequence[str] = (),
) -> dict[str, Any]:
    """Computes every analysis that applies to a run, and writes numbers and pictures.

    Tasks are those of the test: `eval.queries` queries, and no noise.

    Args:
      workdir: The run's folder.
      problem: The problem, where the run was started with one of the caller's own.
      checkpoint: "best" in validation, or "last".
      split: Whose tasks, "train", "validation" or "test".
      num_tasks: The number of tasks, rounded up to whole meta-batches.
      replica: Which of several seeds or swept values, from 0.
      embedding: "pca" or "tsne", of the picture of features.
      only: Names of the analyses that are made; () is all of them.

    Returns:
      What is in analysis.json, see docs/analysis.md.

    Raises:
      ConfigError: There is no run in the folder, or an argument does not fit it.
      LockError: Another program is at work in the folder.
      CheckpointError: A checkpoint cannot be read.
      OSError: A file cannot be written.
    """
    from experiments.analyses import ANALYSES, NotApplicable
    from experiments.report import analysis_numbers, analysis_plots

    if num_tasks < 1:
        raise ConfigError(f"--num_tasks={num_tasks}: needs 1 or more")
    analysis_plots.check_embedding(embedding)
    for name in only:
        if name not in ANALYSES:
            raise ConfigError(f"--only={name}: there is no such analysis in {', '.join(ANALYSES)}")
    config, workdir = _config(workdir), Path(workdir).expanduser()
    check(config, own_problem=problem is not None)
    with lock.hold(workdir / folder.LOCK):
        run, step = _subject(config, workdir, problem, checkpoint, split, num_tasks, replica)
        batches, tasks_per_batch = run.keys.shape
        report: dict[str, Any] = {
            "checkpoint": checkpoint,
            "step": step,
            "split": split,
            "num_tasks": batches * tasks_per_batch,
            "tasks_per_batch": tasks_per_batch,
            "num_steps": run.num_steps,
            **run.swept,
        }
        left_out = {}
        for name in only or ANALYSES:
            try:
                found = ANALYSES[name](run)
            except NotApplicable as reason:
                left_out[name] = str(reason)
                print(f"left out: {name}: {reason}", file=sys.stderr)
                continue
            report[name] = getattr(analysis_numbers, name)(found, run.problem.metric_name)
            said = analysis_numbers.in_words(name, report[name], report["num_tasks"])
            print(f"{name}: {said}", flush=True)
            path = workdir / folder.ANALYSIS_PICTURES / f"{name}.png"
            path.parent.mkdir(exist_ok=True)
            title = f"{workdir.name}, {split}, step {step}"
            analysis_plots.draw(name, found, report[name], path, title, embedding)
        report["left_out"] = left_out
        _draw_over_training(workdir)
        folder.write_json(workdir / folder.ANALYSIS, report)
    print(f"numbers: {workdir / folder.ANALYSIS}")
    return report


def _draw_over_training(workdir):
    """Draws what `eval.analyze_every` has found while the run was trained, and says it."""
    from experiments.report import over_training

    rows = folder.read_rows(workdir)
    for name in over_training.followed(rows):
        print(f"{name} over training: {over_training.sentence(name, rows)}", flush=True)
        path = workdir / folder.ANALYSIS_PICTURES / f"{name}_over_training.png"
        path.parent.mkdir(exist_ok=True)
        over_training.draw(name, rows, path, f"{workdir.name}: {name} over training")


def _config(workdir):
    """The config that the run in a folder was started with."""
    try:
        return recorded(folder.check_workdir(workdir))
    except ValueError as error:
        raise ConfigError(error) from None


def _subject(
    config, workdir, problem, checkpoint, split, num_tasks, replica
) -> tuple["Subject", int]:
    """The run with the parameters of a checkpoint, and the checkpoint's step."""
    import jax
    import numpy as np

    from cml_jax.tasks import task_keys
    from experiments import build
    from experiments.analyses import ALONE, Subject, observed
    from experiments.machine.placement import place
    from experiments.run import assemble

    parts = assemble(config, problem)
    # A method without inner steps reads the features itself.
    seen = observed(parts.problem) if parts.learner.num_steps else parts.problem
    learner = build.learner(flat(config), seen)
    record_data(seen.split_hash, workdir, compare=True)
    values = learner.replicas.values
    if not 0 <= replica < len(values):
        raise ConfigError(f"--replica={replica} but there are {len(values)}, counted from 0")
    steps, params = _restore(learner, seen, workdir, checkpoint)
    step = int(np.broadcast_to(steps, len(values))[replica])
    if learner.replicas.have_axis():
        params = jax.tree.map(lambda leaf: leaf[replica], params)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(params))):
        raise ConfigError(f"the parameters of --replica={replica} are not finite: choose another")
    tasks_per_batch = config.tasks_per_step if config.tasks_per_step > 1 else ALONE
    batches = -(-num_tasks // tasks_per_batch)
    swept = values[replica]
    keys = task_keys(jax.random.key(swept["seed"]), split, 0, batches * tasks_per_batch)
    run = Subject(
        learner=learner,
        problem=seen,
        plan=parts.plan,
        swept=swept,
        params=jax.device_put(params, parts.plan.replicated),
        data=place(seen.data[split], parts.plan),
        keys=keys.reshape(batches, tasks_per_batch),
        num_steps=learner.num_steps,
    )
    return run, step


def _restore(learner, problem, workdir, checkpoint):
    """The step of a checkpoint, or a list of the replicas' steps, and its parameters."""
    import jax

    from experiments.run_folder.checkpoints import Checkpoints
    from experiments.train import initial_state

    template = jax.eval_shape(lambda: initial_state(learner, problem.data["train"]))
    checkpoints = Checkpoints(workdir)
    if checkpoint == "best":
        found = checkpoints.restore_best({"params": template.params})
    else:
        found = checkpoints.restore_last(template)
    checkpoints.close()
    if found is None:
        raise ConfigError(f"{workdir} has no checkpoint in {checkpoint}/: train it first")
    step, tree, extra = found
    return (extra["step"], tree["params"]) if checkpoint == "best" else (step, tree.params)


if __name__ == "__main__":
    sys.exit(main())
