"""Scores parameters on tasks, with the interval that belongs to every number."""

import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

import cml_jax
from cml_jax.tasks import task_keys
from experiments.build import problem as build
from experiments.build.replicas import groups, interval, runs, side_by_side
from experiments.machine import processes
from experiments.machine.devices import make_plan
from experiments.machine.stop_signals import stop_requested
from experiments.report.plots import fits, learning_curve
from experiments.run_folder.checkpoints import Checkpoints
from experiments.run_folder.folder import read, write_json
from experiments.run_folder.health import HealthCheck
from experiments.settings.record import record_data


def evaluate(config, workdir: Path, problem: build.Problem | None = None) -> dict | None:
    """The final test of the best checkpoint; writes results.json and the learning curve.

    Every combination of `eval.num_steps`, transductive or not, and who predicts is scored on the
    same `eval.num_tasks` test tasks. The headline is the first: the meta-learner, transductive, at
    the first of `eval.num_steps`; of a sweep, with the value that was best in validation. Several
    seeds have one row, with the interval over seeds.

    Args:
      config: the checked config.
      workdir: the run's folder.
      problem: `build.problem(config)`, where it is there already.

    Returns:
      What results.json holds; None but in process 0, which writes it.

    Raises:
      ValueError: when there is no checkpoint to score.
    """
    problem = problem or build.problem(config)
    plan = make_plan(config)
    checkpoints = Checkpoints(workdir)
    best = checkpoints.restore_best({"params": build.initial_state(config, problem).params})
    if best is None:
        raise ValueError(f"{workdir} has no checkpoint to evaluate: train it first")
    step, tree, extra = best
    processes.on_process_zero(lambda: record_data(problem.split_hash, workdir, compare=True))
    trained = read(workdir / "metrics.jsonl")
    if not trained:
        raise ValueError(f"{workdir}/metrics.jsonl has no report: restore it")
    params = processes.replicate(tree["params"], plan.replicated)
    data = processes.replicate(problem.data["test"], plan.replicated)

    rows = []
    labels = groups(config)
    for num_steps in (k or config.num_steps for k in config.eval.num_steps):
        for who in build.test_methods(config, problem, num_steps):
            if stop_requested():
                raise KeyboardInterrupt
            modes = (True, False) if problem.batch_statistics else (True,)
            method_of = partial(_tested, who, problem, num_steps)
            score = scorer(config, problem, plan, method_of, "test", modes)
            scores = score(params, data, count=config.eval.num_tasks)
            for transductive, values in zip(modes, scores, strict=True):
                about = {"predicts": who, "num_steps": num_steps, "transductive": transductive}
                values = np.asarray(values).reshape(-1, config.eval.num_tasks)
                for label, members in labels.items():
                    about |= {"run": label} if label else {}
                    rows.append(about | interval(problem.metric_name, values[members]))
                    if processes.is_process_zero():
                        print(
                            f"test: {describe(problem.metric_name, rows[-1], len(modes) > 1)}",
                            file=sys.stderr,
                        )

    if not processes.is_process_zero():
        return None
    validated = np.atleast_1d(extra["value"])
    means = {label: validated[members].mean() for label, members in labels.items()}
    chosen = (max if problem.larger_is_better else min)(means, key=means.get)
    headline = next(row for row in rows if row.get("run", "") == chosen)

    results = {
        "method": config.method,
        "weighting": config.weighting,
        "co_learner": config.co_learner,
        "data": config.data.name,
        "protocol": {
            "ways": config.data.ways if problem.metric_name == "accuracy" else None,
            "shots": config.data.shots,
            "queries": config.eval.queries,
            "num_steps_train": config.num_steps,
            "tasks_per_step": config.tasks_per_step,
            "train_steps": config.train_steps,
            "checkpoint": f"best of validation on {config.eval.validation_tasks} tasks every "
            f"{config.eval.every} steps: step {step}",
        },
        "split_hash": problem.split_hash,
        "graph": problem.graph,
        "validation": {problem.metric_name: means[chosen], "step": step},
        "test": headline,
        "test_all": rows,
        "seed": config.seed,
        "wall_seconds": trained[-1].get("seconds"),
        "warnings": HealthCheck(config, trained).warnings(),
        "plan": str(plan),
        "versions": {name: version(name) for name in ("jax", "jaxlib", "flax", "optax")}
        | {"cml_jax": cml_jax.__version__},
    }
    if len(validated) > 1:
        results["runs"] = [
            run | {f"validation/{problem.metric_name}": float(value), "best_step": best_step}
            for run, value, best_step in zip(runs(config), validated, extra["step"], strict=True)
        ]
    write_json(workdir / "results.json", results)
    learning_curve(
        trained,
        workdir / "learning_curve.png",
        title=workdir.name,
        results=results,
        groups=labels if len(validated) > 1 else None,
    )
    if problem.curve is not None:
        # Not `params`: those lie on the devices of all processes, and only this one draws.
        params, run = tree["params"], labels[chosen][0]
        if len(validated) > 1 or config.sweep != "none":
            params = jax.tree.map(lambda leaf: leaf[run], params)
            config = SimpleNamespace(**dict(config.items()) | runs(config)[run])
        fits(_example_fits(config, problem, params), workdir / "fits.png", workdir.name)
    return results


def _example_fits(config, problem, params, count=3):
    """The first test tasks with their predictions before and after adaptation, for a picture."""
    x = jnp.linspace(-5.0, 5.0, 200)[:, None]
    examples = []
    for key in task_keys(jax.random.key(config.seed), "test", 0, count):
        support = problem.test_sample(key, None).support
        predicted = {}
        for steps in sorted({0, *(k or config.num_steps for k in config.eval.num_steps)}):
            method = build.base_method(config, problem, steps)
            predicted[steps] = method.predict(method.adapt(params, support), x)[0][:, 0]
        true = problem.curve(key, x)[:, 0]
        points = (support.inputs[:, 0], support.targets[:, 0])
        examples.append({"x": x[:, 0], "true": true, "support": points, "predicted": predicted})
    return examples


def scorer(config, problem, plan, method_of, split, modes=(True,)):
    """A compiled `(params, data, count=n) -> values`: the metric of a split's first n tasks.

    Every device takes an equal share; the tasks that fill the last round up are dropped again.

    Args:
      method_of: the method from the config of a run and the data.
      modes: for each, whether it is transductive; `values` is a list with `[n]` for each. Several
        runs are a leading axis of `params` and of the values.
    """

    @partial(jax.jit, static_argnames="count", out_shardings=plan.replicated)
    def score(params, data, *, count):
        at_a_time = plan.chunk or 32 * plan.devices
        rounds = -(-count // at_a_time)

        def one_run(c, params, data):
            method = method_of(c, data)
            keys = task_keys(jax.random.key(c.seed), split, 0, rounds * at_a_time)

            def one_round(keys):
                keys = jax.lax.with_sharding_constraint(keys, plan.tasks)
                tasks = jax.vmap(problem.test_sample, (0, None))(keys, data)
                return [
                    cml_jax.evaluate(method, params, tasks, problem.metric, transductive=mode)
                    for mode in modes
                ]

            values = jax.lax.map(one_round, keys.reshape(rounds, at_a_time))
            return [value.reshape(-1)[:count] for value in values]

        return side_by_side(config, one_run, (0, None))(params, data)

    return score


def _tested(who, problem, num_steps, config, data):
    return build.test_methods(config, build.with_data(problem, data), num_steps)[who]


def describe(name: str, row: dict, both_modes: bool = False) -> str:
    """One line for people: `98.53% +- 0.21 (1000 tasks, ...)`, the mode where there are two."""
    value, half = row[name], row["ci95"]
    percent = name == "accuracy"
    number = f"{value:.2%} ± {half:.2%}" if percent else f"{name} {value:.4f} ± {half:.4f}"
    mode = ", all queries at once" if row["transductive"] else ", each query alone"
    steps = f"{row['num_steps']} inner step" + "s" * (row["num_steps"] != 1)
    tasks = f"{row['num_tasks']} tasks"
    if "num_seeds" in row:
        tasks = f"{row['num_seeds']} seeds of {tasks}"
    run = f"{row['run']}: " if "run" in row else ""
    return f"{run}{number} ({tasks}, {steps}, {row['predicts']}{mode * both_modes})"
