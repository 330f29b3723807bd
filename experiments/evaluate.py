"""The final test of the best checkpoint: numbers, each with its interval."""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cml_jax.tasks import task_keys
from experiments.build import Learner, Problem, Schedule
from experiments.machine import processes
from experiments.machine.devices import Plan
from experiments.machine.feed import Feed
from experiments.machine.stop_signals import stop_requested
from experiments.report.confusion import most_confused
from experiments.report.plots import fits, learning_curve
from experiments.report.run_report import try_report
from experiments.run_folder import folder
from experiments.run_folder.checkpoints import Checkpoints
from experiments.run_folder.results import Results, describe, interval, versions
from experiments.run_folder.task_values import write_task_values
from experiments.score import Scores
from experiments.settings.record import record_data
from experiments.train import health_check, initial_state


def evaluate(
    learner: Learner,
    problem: Problem,
    plan: Plan,
    schedule: Schedule,
    workdir: Path,
    score: Mapping[str, Callable[..., Scores]],
    about: Mapping[str, Any],
) -> Results | None:
    """Tests the best checkpoint; writes results.json and the pictures.

    Every combination of inner steps, all queries at once or each alone, and who predicts is scored
    on the same test tasks. The headline is the first: the meta-learner, all queries at once, after
    the first number of steps; of a sweep, with the value that was best in validation. Several
    seeds have one row, with the interval over seeds.

    Args:
      learner: The functions of the run.
      problem: What is learned.
      plan: How the run is laid out on the devices.
      schedule: How the run was trained, and how much it is tested.
      workdir: The run's folder.
      score: What `scorers` returned; after training in the same process some are compiled.
      about: What results.json says of the settings: "method", "protocol", ...

    Returns:
      The results; None in all processes but process 0, which writes them.

    Raises:
      ValueError: There is no checkpoint to score.
    """
    checkpoints = Checkpoints(workdir)
    template = jax.eval_shape(lambda: initial_state(learner, problem.data["train"]).params)
    best = checkpoints.restore_best({"params": template})
    if best is None:
        raise ValueError(f"{workdir} has no checkpoint to evaluate: train it first")
    step, tree, extra = best
    processes.on_process_zero(lambda: record_data(problem.split_hash, workdir, compare=True))
    trained = folder.read_rows(workdir)
    if not trained:
        raise ValueError(f"{workdir / folder.METRICS} has no report: restore it")
    params = processes.replicate(tree["params"], plan.replicated)
    feed = Feed(problem.data["test"], plan, problem.draw, "test", learner.replicas.seed())

    rows, values_of_rows, confusion = [], [], None
    labels = learner.replicas.groups()
    each_alone = problem.batch_statistics and schedule.test_each_alone
    for steps in schedule.test_steps:
        for who, score_tasks in score.items():
            if stop_requested():
                raise KeyboardInterrupt
            scores = score_tasks(params, feed, schedule.test_tasks, steps, each_alone)
            if not rows:  # of the headline
                confusion = scores.confusion
            for transductive, values in ((True, scores.values), (False, scores.alone)):
                if values is None:
                    continue
                values = values.reshape(-1, schedule.test_tasks)
                row = {"predicts": who, "num_steps": steps, "transductive": transductive}
                for label, members in labels.items():
                    row |= {"run": label} if label else {}
                    rows.append(row | interval(problem.metric_name, values[members]))
                    values_of_rows.append(values[members])
                    if processes.is_process_zero():
                        said = describe(problem.metric_name, rows[-1], each_alone)
                        print(f"test: {said}", file=sys.stderr)

    feed.close()
    checkpoints.close()
    if not processes.is_process_zero():
        return None
    validated = np.atleast_1d(extra["value"])
    means = {label: validated[members].mean() for label, members in labels.items()}
    chosen = (max if problem.larger_is_better else min)(means, key=means.get)
    protocol = about["protocol"] | {
        "checkpoint": f"best of validation on {schedule.validation_tasks} tasks every "
        f"{schedule.validate_every} steps: step {step}",
    }
    check = health_check(learner, problem, schedule, trained)
    headline = next(row for row in rows if row.get("run", "") == chosen)
    at_chance = check.at_chance(headline)
    for line in at_chance:
        print(f"warning: {line}", file=sys.stderr)
    results = Results(
        **{**about, "protocol": protocol},
        data=problem.name,
        split_hash=problem.split_hash,
        graph=problem.facts.get("graph"),
        images=problem.facts.get("images"),
        validation={problem.metric_name: means[chosen], "step": step},
        test=headline,
        test_all=rows,
        wall_seconds=trained[-1].get("seconds"),
        warnings=[*check.warnings(), *at_chance],
        plan=str(plan),
        versions=versions(),
        runs=_each_replica(learner, problem, validated, extra["step"]),
    )
    write_task_values(workdir, values_of_rows)
    if confusion is not None:
        _write_confusion(learner, problem, confusion, labels[chosen], workdir)
    results.write(workdir)
    learning_curve(
        trained,
        workdir / folder.LEARNING_CURVE,
        title=workdir.name,
        metric=problem.metric_name,
        results=results,
        groups=labels if len(validated) > 1 else None,
    )
    examples = []
    if problem.curve is not None:
        # Not `params`: those lie on the devices of all processes, and only this one draws.
        params, swept = tree["params"], learner.replicas.values[labels[chosen][0]]
        if learner.replicas.have_axis():
            params = jax.tree.map(lambda leaf: leaf[labels[chosen][0]], params)
        examples = _example_fits(learner, problem, swept, params, schedule.test_steps)
        fits(examples, workdir / folder.FITS, workdir.name)
    try_report(workdir, problem=problem, examples=examples)
    return results


def _each_replica(learner, problem, validated, steps):
    """What results.json says of each replica; None for a single one."""
    if len(validated) == 1:
        return None
    return [
        {**replica, f"validation/{problem.metric_name}": float(value), "best_step": step}
        for replica, value, step in zip(learner.replicas.values, validated, steps, strict=True)
    ]


def _write_confusion(learner, problem, counts, members, workdir):
    """Writes which classes were confused most, over the replicas with the value that is tested."""
    counts = counts.reshape(len(learner.replicas.values), -1, *counts.shape[-2:])[members]
    counts = counts[:, : -(-counts.shape[1] // len(members))]  # in all as many as of one
    names = []
    for replica in members:
        seed = jax.random.key(learner.replicas.values[replica]["seed"])
        keys = task_keys(seed, "test", 0, counts.shape[1])
        names += [problem.class_names(key, "test") for key in keys]
    found = most_confused(counts.reshape(-1, *counts.shape[-2:]), names)
    folder.write_json(workdir / folder.CONFUSION, found)


def _example_fits(learner, problem, swept, params, num_steps, count=3):
    """The first test tasks with their predictions before and after adaptation, for a picture."""
    x = jnp.linspace(-5.0, 5.0, 200)[:, None]

    @partial(jax.jit, static_argnames=["steps"] if learner.static_steps else [])
    def predict(params, support, steps):
        method = learner.tested(steps)["meta-learner"](swept, None)
        return method.predict(method.adapt(params, support), x)[0][:, 0]

    @jax.jit
    def draw(key):
        return problem.draw_test(key, None).support, problem.curve(key, x)[:, 0]

    examples = []
    for key in task_keys(jax.random.key(swept["seed"]), "test", 0, count):
        support, true = draw(key)
        predicted = {steps: predict(params, support, steps) for steps in sorted({0, *num_steps})}
        points = (support.inputs[:, 0], support.targets[:, 0])
        examples.append({"x": x[:, 0], "true": true, "support": points, "predicted": predicted})
    return examples
