"""A batch of tasks: what it has to be, and a function of one task applied to each."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from cml_jax.types import Adapted, Batch, Method, Params, PyTree, Task


def over_tasks(function: Callable[[Task], PyTree], tasks: Task, chunk: int | None = None) -> PyTree:
    """A function of one task applied to a batch of them, `chunk` at a time.

    Args:
      function: From a `Task` with leaves `[n, ...]` to any tree of arrays.
      tasks: A batch of tasks, leaves `[T, n, ...]`.
      chunk: The number of tasks that run at a time, as in `meta_step`.

    Returns:
      A tree with leaves `[T, ...]`.

    Raises:
      ValueError: When chunk does not divide T.
    """
    num_tasks = jax.tree.leaves(tasks)[0].shape[0]
    if chunk is None or chunk == num_tasks:
        return jax.vmap(function)(tasks)
    if chunk < 1 or num_tasks % chunk:
        raise ValueError(
            f"chunk={chunk} does not divide the {num_tasks} tasks: choose a divisor, or None"
        )
    # [T] -> [chunk, T / chunk], scanned along the second axis: the first stays a contiguous cut of
    # T, so tasks sharded over as many devices stay where they are.
    split = jax.tree.map(lambda x: x.reshape(chunk, -1, *x.shape[1:]).swapaxes(0, 1), tasks)
    results = jax.lax.map(jax.vmap(function), split)
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(num_tasks, *x.shape[2:]), results)


def check_tasks(tasks: Task) -> None:
    """Refuses what is not a Task of two Batches whose leaves agree on T, and within a batch on n.

    Args:
      tasks: A batch of tasks, leaves `[T, n, ...]`.

    Raises:
      TypeError, AssertionError: When it is another type or shape. The message names the leaf.
      ValueError: When there are no tasks or no examples.
    """
    for name, value, kind in (
        ("tasks", tasks, Task),
        ("tasks.support", getattr(tasks, "support", None), Batch),
        ("tasks.query", getattr(tasks, "query", None), Batch),
    ):
        if not isinstance(value, kind):
            raise TypeError(
                f"{name} is a {type(value).__name__} but must be a cml_jax.{kind.__name__}: "
                f"wrap it, {kind.__name__}{kind._fields}"
            )
    num_tasks = None
    for part in ("support", "query"):
        num_examples = None
        for path, leaf in jax.tree_util.tree_leaves_with_path(getattr(tasks, part)):
            name = f"tasks.{part}{jax.tree_util.keystr(path)}"
            if jnp.ndim(leaf) < 2:
                chex.assert_rank(leaf, 2, custom_message=f"{name} needs leading axes [T, n]")
            if 0 in leaf.shape[:2]:
                raise ValueError(f"{name} is empty, {leaf.shape}: give at least one task, example")
            num_tasks = num_tasks or leaf.shape[0]
            num_examples = num_examples or leaf.shape[1]
            chex.assert_axis_dimension(
                leaf, 0, num_tasks, custom_message=f"{name} disagrees on T, the number of tasks"
            )
            chex.assert_axis_dimension(
                leaf, 1, num_examples, custom_message=f"{name} disagrees on n, the examples a task"
            )


def adapt(method: Method, params: Params, support: Batch) -> Adapted:
    """`method.adapt`, and a line that says which rule of `Adapted` it broke.

    Args:
      method: What `maml`, `cml`, ... return, or a method of the caller's own.
      params: `state.params`.
      support: The support set of one task, leaves `[n, ...]`.

    Returns:
      What `method.adapt` returned.

    Raises:
      TypeError: When that is not an `Adapted`.
      ValueError: When its parameters differ in structure from `params["base"]`, or when "carried"
        is missing in its extra.
    """
    adapted = method.adapt(params, support)
    if not isinstance(adapted, Adapted):
        raise TypeError(
            f"method.adapt returned a {type(adapted).__name__}: return "
            "cml_jax.Adapted(params, extra), with params like params['base']"
        )
    expected, found = map(jax.tree.structure, (params["base"], adapted.params))
    if found != expected:
        raise ValueError(
            f"method.adapt returned parameters with the structure {found} but params['base'] is "
            f"{expected}: return the same, and put what else there is into Adapted.extra"
        )
    if "carried" in params and "carried" not in adapted.extra:
        raise ValueError(
            f"params have 'carried' but Adapted.extra has {list(adapted.extra)}: return its next "
            "value as extra['carried']"
        )
    return adapted
