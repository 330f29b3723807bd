"""N-way K-shot episodes from the nodes of one large graph."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cml_jax.tasks.episodes import choose
from cml_jax.types import Batch, Noisy, Task


class Members(NamedTuple):
    """The nodes of each class of a split.

    Attributes:
      nodes: int32 `[classes, largest]`; of row c the first `counts[c]` are the ids of class c.
        `largest` is of all classes of the graph: one shape, and one program, for all splits.
      counts: int32 `[classes]`.
    """

    nodes: jax.Array
    counts: jax.Array


def members(labels: np.ndarray, classes: np.ndarray, at_least: int = 1) -> Members:
    """The nodes of some classes, made on the host.

    Args:
      labels: integers `[n]`, the class of every node.
      classes: integers: the classes of a split.
      at_least: the nodes that every class needs, shots + queries of its largest episode: a drawn
        task cannot know that a class is too small.

    Raises:
      ValueError: a class has fewer nodes than at_least.
    """
    labels = np.asarray(labels)
    nodes = [np.flatnonzero(labels == c) for c in classes]
    for c, ids in zip(classes, nodes, strict=True):
        if len(ids) < at_least:
            raise ValueError(
                f"class {c} has {len(ids)} nodes but shots + queries is {at_least}: lower one of "
                "them, or leave the class out"
            )
    largest = int(np.bincount(labels[labels >= 0]).max(initial=0))
    padded = [np.pad(ids, (0, largest - len(ids))) for ids in nodes]
    counts = [len(ids) for ids in nodes]
    return Members(np.array(padded, np.int32).reshape(-1, largest), np.array(counts, np.int32))


def nodes(
    key: jax.Array, members: Members, *, ways: int, shots: int, queries: int, noise: bool = False
) -> Task:
    """Draws one N-way K-shot task of node ids; the graph is not in it.

    Classes are drawn without replacement and in uniformly random order, so every class gets every
    label; inside a class the nodes are drawn without replacement, so the support and the query
    share none. Examples come class by class.

    Args:
      key: a typed key; the whole task is a function of it.
      members: of `members`, an argument of what is jitted; every class has shots + queries nodes.
      ways: classes in the task.
      shots: support nodes of a class, at least 1.
      queries: query nodes of a class, at least 1.
      noise: whether the support's inputs are a `Noisy` of node ids and keys: dropout in the inner
        loop of training. The nodes are the same with it and without.

    Returns:
      A task: inputs int32 `[ways * shots]`, targets int32 `[ways * shots]` in 0, ..., ways - 1;
      likewise `[ways * queries]`.

    Raises:
      ValueError: the members cannot give such a task.

    Reference: Zhou et al., 2019, https://arxiv.org/abs/1905.09718.
    """
    num_classes, largest = members.nodes.shape
    if min(ways, shots, queries) < 1:
        raise ValueError(f"{ways=}, {shots=}, {queries=}: an episode needs at least 1 of each")
    if ways > num_classes:
        raise ValueError(
            f"{ways=} but the split has {num_classes} classes: lower ways or give it more classes"
        )
    if shots + queries > largest:
        raise ValueError(
            f"{shots=} + {queries=} but the largest class has {largest} nodes: lower shots or "
            "queries"
        )
    class_key, noise_key, *node_keys = jax.random.split(key, 2 + ways)
    chosen = choose(class_key, num_classes, ways)
    draw = jax.vmap(lambda key, count: choose(key, count, shots + queries))
    places = draw(jnp.stack(node_keys), jnp.asarray(members.counts)[chosen])
    episode = jnp.asarray(members.nodes)[chosen[:, None], places]

    def batch(ids: jax.Array) -> Batch:
        labels = jnp.repeat(jnp.arange(ways, dtype=jnp.int32), ids.shape[1])
        return Batch(ids.reshape(-1), labels)

    support, query = batch(episode[:, :shots]), batch(episode[:, shots:])
    if noise:
        keys = jax.random.split(noise_key, ways * shots)
        support = support._replace(inputs=Noisy(support.inputs, keys))
    return Task(support, query)
