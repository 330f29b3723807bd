"""Runs side by side: one program for several seeds and several values of a setting."""

import itertools
from collections.abc import Callable
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats


def runs(config) -> list[dict[str, float]]:
    """What tells the runs of a config apart, in the order of their axis.

    Returns:
      `{"seed": s}` of every run, with the setting that `sweep` names: for each of `sweep_values`
      the seeds `seed, ..., seed + num_seeds - 1`.
    """
    seeds = range(config.seed, config.seed + config.num_seeds)
    values = [{}] if config.sweep == "none" else [{config.sweep: v} for v in config.sweep_values]
    return [{"seed": seed} | value for value, seed in itertools.product(values, seeds)]


def side_by_side(config, function: Callable, in_axes: tuple[int | None, ...]) -> Callable:
    """`(*arguments) -> function(config, *arguments)`, for all runs of a config at once.

    Args:
      config: the run's.
      function: pure; it reads what differs between runs from the config that it is given.
      in_axes: 0 for each argument that has a leading axis of runs, None for what they share.

    Returns:
      The function under vmap, with a leading axis of runs on all that it returns. With a single
      run there is no such axis, in arguments or results, and no vmap.
    """
    several = runs(config)
    if len(several) == 1 and config.sweep == "none":
        return lambda *arguments: function(config, *arguments)
    stacked = {name: jnp.array([run[name] for run in several]) for name in several[0]}

    def one_run(run, *arguments):
        return function(SimpleNamespace(**dict(config.items()) | run), *arguments)

    return lambda *arguments: jax.vmap(one_run, (0, *in_axes))(stacked, *arguments)


def names(config) -> list[str]:
    """The numbers of the runs as they stand behind a metric's name; none for a single run."""
    several = runs(config)
    return [str(i) for i in range(len(several))] if len(several) > 1 else []


def groups(config) -> dict[str, list[int]]:
    """Runs that differ in the seed alone: their label to their numbers."""
    grouped: dict[str, list[int]] = {}
    for i, run in enumerate(runs(config)):
        label = "" if config.sweep == "none" else f"{config.sweep} {run[config.sweep]:g}"
        grouped.setdefault(label, []).append(i)
    return grouped


def interval(name: str, values) -> dict[str, float | int]:
    """The mean of a metric and its 95% interval.

    Args:
      name: of the metric.
      values: `[tasks]` of one seed, or `[seeds, tasks]`.

    Returns:
      The mean (under `name`), "sd" (ddof 1), "num_tasks" (of a seed) and "ci95", the half-width of
      the interval: over the tasks of one seed 1.96 sd / sqrt(tasks); over the means of several
      seeds, then "num_seeds", t sd / sqrt(seeds) with Student's t of seeds - 1 degrees of freedom.
    """
    values = np.asarray(values, np.float64)
    report = {"num_tasks": values.shape[-1]}
    factor = 1.96
    if values.ndim == 2 and len(values) > 1:
        report |= {"num_seeds": len(values)}
        values = values.mean(1)
        factor = float(stats.t.ppf(0.975, len(values) - 1))
    values = values.reshape(-1)
    sd = float(values.std(ddof=1))
    half = factor * sd / np.sqrt(values.size)
    return {name: float(values.mean()), "sd": sd, "ci95": float(half)} | report
