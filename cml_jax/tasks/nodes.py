"""N-way K-shot episodes from the nodes of one large graph."""

import jax
import jax.numpy as jnp

from cml_jax.tasks.members import Members, draw_ids
from cml_jax.types import Batch, Noisy, Task


def nodes(
    key: jax.Array, members: Members, *, ways: int, shots: int, queries: int, noise: bool = False
) -> Task:
    """Draws one N-way K-shot task of node ids; the graph is not in it.

    Classes are drawn without replacement and in uniformly random order, so that every class gets
    every label; within a class the nodes are drawn without replacement, so that support and query
    share none. Examples come class by class.

    >>> import numpy as np
    >>> from cml_jax.tasks.members import members
    >>> labels = np.array([0, 1, 2, 1, 0, 2, 2, 0, 1])  # of nodes 0, ..., 8
    >>> task = nodes(jax.random.key(0), members(labels, [0, 2]), ways=2, shots=1, queries=2)
    >>> task.support.inputs.shape, task.query.inputs.shape
    ((2,), (4,))
    >>> print(task.query.targets)
    [0 0 1 1]

    Args:
      key: A typed key; the whole task is a function of it.
      members: The nodes of each class, made by `cml_jax.tasks.members.members`; every class has at
        least shots + queries of them. Under jit they should be an argument.
      ways: Classes in the task.
      shots: Support nodes of a class, at least 1.
      queries: Query nodes of a class, at least 1.
      noise: Whether the support's inputs are a `Noisy` of node ids and keys, for dropout in the
        inner loop of training. The nodes are the same with it and without.

    Returns:
      A task: inputs int32 `[ways * shots]`, targets int32 `[ways * shots]` in 0, ..., ways - 1;
      likewise `[ways * queries]`.

    Raises:
      ValueError: The members cannot give such a task.

    Reference: Zhou et al., 2019, https://arxiv.org/abs/1905.09718.
    """
    keys = jax.random.split(key, 2 + ways)
    noise_key, keys = keys[1], jnp.concatenate([keys[:1], keys[2:]])
    episode = draw_ids(keys, members, ways=ways, shots=shots, queries=queries).ids

    def batch(ids: jax.Array) -> Batch:
        labels = jnp.repeat(jnp.arange(ways, dtype=jnp.int32), ids.shape[1])
        return Batch(ids.reshape(-1), labels)

    support, query = batch(episode[:, :shots]), batch(episode[:, shots:])
    if noise:
        keys = jax.random.split(noise_key, ways * shots)
        support = support._replace(inputs=Noisy(support.inputs, keys))
    return Task(support, query)
