"""Compiled scoring: the metric of a split's first tasks, in validation and test."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import cml_jax
from cml_jax.tasks import Gathered, task_keys
from cml_jax.types import Method
from experiments.build.problem import Problem
from experiments.build.replicas import Replicas, side_by_side
from experiments.machine.devices import Plan


def scorer(
    replicas: Replicas,
    problem: Problem,
    plan: Plan,
    method_of: Callable[[Any, Any], Method],
    split: str,
    modes: Sequence[bool] = (True,),
) -> Callable[..., list[np.ndarray]]:
    """A compiled `(params, feed, count=n) -> values`: the metric of a split's first n tasks.

    Every device takes an equal share; what the tasks that fill up the last round give is dropped.

    Args:
      replicas: The replicas of the run; several are a leading axis of `params` and of the values.
      problem: The problem, whose test tasks and metric are used.
      plan: How tasks are laid out on the devices.
      method_of: `(swept, data) -> Method`.
      split: The name of the split.
      modes: Whether queries are predicted all at once (True) or each alone; `values` is a list
        with an array `[n]` for each mode.
    """

    @partial(jax.jit, static_argnames=("rounds", "at_a_time"), out_shardings=plan.replicated)
    def score_rounds(params, data, start, *, rounds, at_a_time):
        def one_replica(swept, params, data, start):
            method = method_of(swept, data)
            keys = task_keys(jax.random.key(swept["seed"]), split, start, rounds * at_a_time)

            def one_round(xs):
                keys, i = xs
                keys = jax.lax.with_sharding_constraint(keys, plan.tasks)
                tasks = draw_batch(problem.draw_test, keys, data, i)
                return [
                    cml_jax.evaluate(method, params, tasks, problem.metric, transductive=mode)
                    for mode in modes
                ]

            rows = keys.reshape(rounds, at_a_time), jnp.arange(rounds)
            return [value.reshape(-1) for value in jax.lax.map(one_round, rows)]

        return side_by_side(replicas, one_replica, (0, None, None))(params, data, start)

    def score(params, feed, *, count):
        at_a_time = plan.chunk or 32 * plan.devices
        rounds = feed.rows(at_a_time, -(-count // at_a_time))
        parts = []
        for start in range(0, count, rounds * at_a_time):
            data = feed.tasks(start, rounds, at_a_time)
            parts.append(score_rounds(params, data, start, rounds=rounds, at_a_time=at_a_time))
        return [np.concatenate(values, -1)[..., :count] for values in zip(*parts, strict=True)]

    return score


def draw_batch(sample: Callable[..., Any], keys: jax.Array, data: Any, row: jax.Array) -> Any:
    """A batch of tasks, one for each key.

    Args:
      sample: `(key, data) -> Task`.
      keys: Of the tasks.
      data: The split, or `Gathered` with leading axes [rows, tasks].
      row: Which of the rows; may be traced.
    """
    if not isinstance(data, Gathered):
        return jax.vmap(sample, (0, None))(keys, data)
    return jax.vmap(sample)(keys, jax.tree.map(lambda x: x[row], data))
