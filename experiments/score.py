"""Compiled scoring: the metric of many tasks, in validation and in the final test."""

import zlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cml_jax.analysis import confusion_matrix
from cml_jax.evaluation import predict_queries
from cml_jax.task_batch import adapt, check_tasks, over_tasks
from cml_jax.tasks import Gathered, task_keys
from cml_jax.types import Method
from experiments.build.learner import Learner
from experiments.build.problem import Problem
from experiments.build.replicas import side_by_side
from experiments.machine.devices import Plan

_TASKS = 256  # of a dispatch
_CONFUSED = 1000  # tasks whose confusion is kept


class Scores(NamedTuple):
    """What tasks got; several replicas are a leading axis of all.

    Attributes:
      values: The metric `[count]`, all queries of a task predicted at once.
      alone: The same, each query predicted alone; None where it was not asked for.
      confusion: Of the first 1000 or so tasks how many queries of each class were taken for each,
        int32 `[tasks, ways, ways]`; None where classes have no names.
    """

    values: np.ndarray
    alone: np.ndarray | None
    confusion: np.ndarray | None


def scorers(learner: Learner, problem: Problem, plan: Plan) -> dict[str, Callable[..., Scores]]:
    """Who predicts, as in `Learner.tested`, to its `scorer`; each is compiled when it is called.

    Args:
      learner: Its replicas are side by side.
      problem: How a test task is made, and the metric.
      plan: How many tasks run at a time, and where the result is placed.
    """
    return {
        who: scorer(learner, problem, plan, lambda steps, who=who: learner.tested(steps)[who])
        for who in learner.tested(learner.num_steps)
    }


def scorer(
    learner: Learner,
    problem: Problem,
    plan: Plan,
    method_of: Callable[[Any], Callable[[Any, Any], Method]],
) -> Callable[..., Scores]:
    """`(params, feed, count, num_steps, each_alone) -> Scores`: what a split's tasks got.

    One compiled program does for all splits whose arrays have one shape, for any number of tasks
    and of inner steps, and for one or both ways to predict. So validation and test share it, and a
    task is adapted to once for both ways.

    Every device takes an equal share; what the tasks that fill up the last round give is dropped.

    Args:
      learner: Its replicas are side by side.
      problem: How a test task is made, and the metric.
      plan: How many tasks run at a time, and where the result is placed.
      method_of: From a number of inner steps, which may be traced, to `(swept, data) -> Method`.

    Returns:
      A function from the parameters (with an axis of replicas where there is one), the feed of a
      split, how many tasks, how many inner steps, and whether each query is predicted alone, too,
      where the network has batch statistics.
    """
    static = ["rounds", "at_a_time"]
    if learner.static_steps:
        static.append("num_steps")
    confused = bool(problem.class_names and problem.ways)

    def look(outputs, targets):
        value = jnp.asarray(problem.metric(outputs, targets), jnp.float32)
        return value, confusion_matrix(outputs, targets) if confused else None

    @partial(jax.jit, static_argnames=static, out_shardings=plan.replicated)
    def score_rounds(params, data, split, start, used, num_steps, each_alone, *, rounds, at_a_time):
        def one_replica(swept, params, data, start):
            method = method_of(num_steps)(swept, data)
            key = jax.random.key(swept["seed"])

            def one_task(task):
                adapted = adapt(method, params, task.support)

                def seen(transductive):
                    outputs = predict_queries(method, adapted, task, transductive, plan.query_chunk)
                    return look(outputs, task.query.targets)

                value, confusion = seen(True)
                alone = None
                if problem.batch_statistics:  # else both ways are the same
                    alone = jax.lax.cond(
                        each_alone, lambda: seen(False)[0], lambda: jnp.zeros_like(value)
                    )
                return value, alone, confusion

            def one_round(i, seen):
                keys = task_keys(key, split, start + i * at_a_time, at_a_time)
                keys = jax.lax.with_sharding_constraint(keys, plan.tasks)
                tasks = draw_batch(problem.draw_test, keys, data, i)
                check_tasks(tasks)
                new = over_tasks(one_task, tasks)
                return jax.tree.map(lambda all, own: all.at[i].set(own), seen, new)

            values = jnp.zeros((rounds, at_a_time), jnp.float32)
            square = (rounds, at_a_time, problem.ways, problem.ways)
            alone = values if problem.batch_statistics else None
            seen = values, alone, jnp.zeros(square, jnp.int32) if confused else None
            seen = jax.lax.fori_loop(0, used, one_round, seen)
            return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), seen)

        return side_by_side(learner.replicas, one_replica, (0, None, None))(params, data, start)

    def score(params, feed, count, num_steps, each_alone=False):
        at_a_time = plan.chunk or 32 * plan.devices
        rounds = feed.rows(at_a_time, -(-_TASKS // at_a_time))
        split = np.uint32(zlib.crc32(feed.split.encode()))
        seen = []
        for start in range(0, count, rounds * at_a_time):
            used = min(rounds, -(-(count - start) // at_a_time))
            data = feed.tasks(start, rounds, at_a_time)
            values, alone, confusion = score_rounds(
                params,
                data,
                split,
                np.int32(start),
                np.int32(used),
                num_steps if learner.static_steps else np.int32(num_steps),
                np.bool_(each_alone),
                rounds=rounds,
                at_a_time=at_a_time,
            )
            kept = confusion if start < _CONFUSED else None
            seen.append(jax.tree.map(np.asarray, (values, alone if each_alone else None, kept)))
        axis = int(learner.replicas.have_axis())

        def joined(parts) -> Any:
            parts = [part for part in parts if part is not None]
            if not parts:
                return None
            whole = np.concatenate(parts, axis)
            return whole[:, :count] if axis else whole[:count]

        return Scores(*map(joined, zip(*seen, strict=True)))

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
