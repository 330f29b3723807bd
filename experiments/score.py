"""Compiled scoring: the metric of a split's first tasks, in validation and test."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax

import cml_jax
from cml_jax.tasks import task_keys
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
) -> Callable[..., list[jax.Array]]:
    """A compiled `(params, data, count=n) -> values`: the metric of a split's first n tasks.

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

    @partial(jax.jit, static_argnames="count", out_shardings=plan.replicated)
    def score(params, data, *, count):
        at_a_time = plan.chunk or 32 * plan.devices
        rounds = -(-count // at_a_time)

        def one_replica(swept, params, data):
            method = method_of(swept, data)
            keys = task_keys(jax.random.key(swept["seed"]), split, 0, rounds * at_a_time)

            def one_round(keys):
                keys = jax.lax.with_sharding_constraint(keys, plan.tasks)
                tasks = jax.vmap(problem.draw_test, (0, None))(keys, data)
                return [
                    cml_jax.evaluate(method, params, tasks, problem.metric, transductive=mode)
                    for mode in modes
                ]

            values = jax.lax.map(one_round, keys.reshape(rounds, at_a_time))
            return [value.reshape(-1)[:count] for value in values]

        return side_by_side(replicas, one_replica, (0, None))(params, data)

    return score
