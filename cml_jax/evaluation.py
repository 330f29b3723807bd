"""Scores on tasks that were not trained on: adapt to the support set, predict the query set."""

import jax
import jax.numpy as jnp

from cml_jax.task_batch import adapt, check_tasks, over_tasks
from cml_jax.types import Adapted, Method, Metric, Noisy, Params, PyTree, Task


def evaluate(
    method: Method,
    params: Params,
    tasks: Task,
    metric: Metric,
    *,
    transductive: bool = True,
    chunk: int | None = None,
    query_chunk: int | None = None,
) -> jax.Array:
    """Adapts to every support set and scores the query set.

    Noise (dropout, where the inputs are a `Noisy`) is drawn while adapting and never while
    predicting.

    Args:
      method: What `maml`, ... return. Its inner loop may be longer than in training.
      params: `state.params`.
      tasks: A batch of tasks, a `Task` with leaves `[T, n, ...]`.
      metric: `(outputs, targets) -> scalar`, such as `accuracy`.
      transductive: True predicts all queries of a task in one batch, so that batch statistics
        (where the network has them) see all queries, as in MAML's published numbers. False predicts
        each query together with the support set only, so that nothing is learned from the other
        queries.
      chunk: The number of tasks that run at a time, as in `meta_step`.
      query_chunk: With transductive=False, the number of queries of a task that are predicted at a
        time. None predicts all at once and suits a GPU or TPU; on CPU 1 takes half of the time,
        since its maps stay in a core's cache. The result is the same.

    Returns:
      The metric of each task, `[T]`.

    Raises:
      TypeError, AssertionError: When `tasks` is not a batch of tasks. The message names the leaf.
      ValueError: When chunk does not divide T, when query_chunk is below 1, when there are no tasks
        or no examples, or when transductive=False and a query has another shape than a support
        example.

    Example:
      >>> import jax, cml_jax
      >>> from cml_jax.models import mlp
      >>> from cml_jax.tasks import sinusoid
      >>> method = cml_jax.maml(mlp(), cml_jax.squared_error, learning_rate=0.01, num_steps=10)
      >>> params = method.init(jax.random.key(0), jax.numpy.zeros((5, 1)))
      >>> draw = jax.vmap(lambda key: sinusoid(key, shots=5, queries=10))
      >>> tasks = draw(jax.random.split(jax.random.key(1), 3))
      >>> errors = cml_jax.evaluate(method, params, tasks, cml_jax.squared_error)
      >>> errors.shape
      (3,)
    """
    check_tasks(tasks)
    if query_chunk is not None and query_chunk < 1:
        raise ValueError(f"query_chunk={query_chunk}: give at least 1, or None for all queries")
    if not transductive:
        _check_queries_join_the_support(tasks)

    def one_task(task):
        adapted = adapt(method, params, task.support)
        outputs = predict_queries(method, adapted, task, transductive, query_chunk)
        return metric(outputs, task.query.targets)

    return over_tasks(one_task, tasks, chunk)


def predict_queries(
    method: Method,
    adapted: Adapted,
    task: Task,
    transductive: bool = True,
    query_chunk: int | None = None,
) -> PyTree:
    """The outputs for the query set of one task, without noise.

    Args:
      method: What `maml`, ... return.
      adapted: What its `adapt` made of the support set. Both ways to predict can have the same.
      task: Support and query set, leaves `[n, ...]`.
      transductive: As in `evaluate`.
      query_chunk: As in `evaluate`.

    Returns:
      The outputs of the network, leaves `[n, ...]`.
    """
    support, queries = map(_without_noise, (task.support.inputs, task.query.inputs))
    if transductive:
        return method.predict(adapted, queries)[0]

    def predict_one(query):
        inputs = jax.tree.map(lambda s, q: jnp.concatenate([s, q[None]]), support, query)
        return jax.tree.map(lambda o: o[-1], method.predict(adapted, inputs)[0])

    if query_chunk is None:
        return jax.vmap(predict_one)(queries)
    return jax.lax.map(predict_one, queries, batch_size=query_chunk)


def _without_noise(inputs):
    """`inputs` with every `Noisy` in it replaced by the inputs alone."""

    def is_noisy(node):
        return isinstance(node, Noisy)

    return jax.tree.map(lambda x: x.inputs if is_noisy(x) else x, inputs, is_leaf=is_noisy)


def _check_queries_join_the_support(tasks):
    """One query and the support set have to fit into one batch."""
    queries, supports = (_without_noise(batch.inputs) for batch in (tasks.query, tasks.support))
    fit = jax.tree.structure(queries) == jax.tree.structure(supports)
    shapes = [[x.shape[2:] for x in jax.tree.leaves(inputs)] for inputs in (queries, supports)]
    if not fit or shapes[0] != shapes[1]:
        raise ValueError(
            "transductive=False predicts each query in one batch with the support set, but the "
            f"leaves of a query are {shapes[0]} and those of a support example {shapes[1]}: give "
            "both the same, or use transductive=True"
        )
