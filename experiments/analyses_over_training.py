"""Analyses over training: cooperation and agreement on validation tasks, while a run is trained."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from cml_jax.tasks import task_keys
from cml_jax.types import Params
from experiments.analyses import ALONE, Subject, agreement_of_batch, cooperation_of_batch
from experiments.build import Learner, Problem
from experiments.build.replicas import side_by_side
from experiments.machine.devices import Plan
from experiments.machine.feed import Feed
from experiments.report import analysis_numbers
from experiments.score import draw_batch

_TASKS, _BATCHES = 64, 4  # that are analysed at least, in whole meta-batches


def analyses_over_training(
    learner: Learner, problem: Problem, plan: Plan, tasks_per_step: int, feed: Feed
) -> Callable[[Params], dict[str, np.ndarray]]:
    """`(params) -> numbers`: what the analyses that apply find in the first validation tasks.

    One compiled program, which only reads: training is the same without it.

    Args:
      learner: Its replicas are side by side.
      problem: What is learned.
      plan: How tasks are laid out on the devices.
      tasks_per_step: Tasks in a meta-batch; where it is one, eight are compared.
      feed: Of the validation split.

    Returns:
      A function from the parameters (with an axis of replicas where there is one) to names, see
      `analysis_numbers.over_training`, and values, `[]` or `[replicas]`.
    """
    each = {"agreement": agreement_of_batch} if learner.num_steps else {}
    each |= {"cooperation": cooperation_of_batch} if problem.co_learner is not None else {}
    count = tasks_per_step if tasks_per_step > 1 else ALONE
    batches = feed.rows(count, max(_BATCHES, -(-_TASKS // count)))

    @partial(jax.jit, out_shardings=plan.replicated)
    def analyze(params, data):
        def of_replica(swept, params, data):
            keys = task_keys(jax.random.key(swept["seed"]), "validation", 0, batches * count)
            keys = keys.reshape(batches, count)
            run = Subject(learner, problem, plan, swept, params, data, keys, learner.num_steps)

            def of_batch(i):
                own = jax.lax.with_sharding_constraint(keys[i], plan.tasks)
                tasks = draw_batch(problem.draw_test, own, data, i)
                return {name: of(run, params, data, tasks) for name, of in each.items()}

            return jax.lax.map(of_batch, jnp.arange(batches))

        return side_by_side(learner.replicas, of_replica, (0, None))(params, data)

    def numbers(params):
        found = jax.device_get(analyze(params, feed.tasks(0, batches, count)))
        if not learner.replicas.have_axis():
            return analysis_numbers.over_training(found)
        replicas = [
            analysis_numbers.over_training(jax.tree.map(lambda x, i=i: x[i], found))
            for i in range(len(learner.replicas.values))
        ]
        return {name: np.array([own[name] for own in replicas]) for name in replicas[0]}

    return numbers
