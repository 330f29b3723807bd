"""Which examples a class has, and drawing some of them: the sampler of all episodes."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import core

from cml_jax.labels import check_labels

Array = jax.Array | np.ndarray


class Members(NamedTuple):
    """The examples of each class, by their ids: classes may differ in size.

    Attributes:
      ids: int32 `[classes, largest]`. Of row c the first `counts[c]` are the examples of class c;
        the others are never drawn. `largest` may be more than any of these classes has, so that
        all splits of a data set have one width and share one compiled program.
      counts: int32 `[classes]`, the number of examples of each class.
    """

    ids: Array
    counts: Array


class Drawn(NamedTuple):
    """What `draw_ids` draws.

    Attributes:
      ids: int32 `[ways, shots + queries]`, the support's examples first.
      classes: int32 `[ways]`, the row of `Members` that each class of the episode is.
      copies: int32 `[ways]` in 0, ..., copies - 1: which copy of the class it is.
    """

    ids: jax.Array
    classes: jax.Array
    copies: jax.Array


def members(labels: np.ndarray, classes: Sequence[int], at_least: int = 1) -> Members:
    """Finds the examples of some classes by their labels, on the host.

    >>> members(np.array([3, 5, 3, -1, 5, 3]), [5, 3])
    Members(ids=array([[1, 4, 0],
           [0, 2, 5]], dtype=int32), counts=array([2, 3], dtype=int32))

    Args:
      labels: Integers `[n]`, the class of every example; -1 for one without a class.
      classes: The classes of a split.
      at_least: The number of examples that every class must have: shots + queries of the largest
        episode, because a task that is drawn under jit cannot tell that a class is too small.

    Returns:
      Members with a row for each of `classes`, as wide as the largest of all classes in `labels`.

    Raises:
      ValueError: Labels are not integers `[n]`, or a class has fewer examples than `at_least`.
    """
    labels = check_labels(labels)
    ids = [np.flatnonzero(labels == c) for c in classes]
    counts = [len(own) for own in ids]
    check_counts(counts, classes, at_least)
    _, sizes = np.unique(labels[labels >= 0], return_counts=True)
    largest = int(sizes.max(initial=0))
    padded = [np.pad(own, (0, largest - len(own))) for own in ids]
    return Members(np.array(padded, np.int32).reshape(-1, largest), np.array(counts, np.int32))


def consecutive_members(counts: Sequence[int]) -> Members:
    """Members of classes whose examples lie one class after the other.

    >>> consecutive_members([2, 3])
    Members(ids=array([[0, 1, 0],
           [2, 3, 4]], dtype=int32), counts=array([2, 3], dtype=int32))

    Args:
      counts: The number of examples of each class.
    """
    sizes = np.asarray(counts, np.int32)
    starts = np.cumsum(sizes) - sizes
    place = np.arange(sizes.max(initial=0))
    ids = np.where(place < sizes[:, None], starts[:, None] + place, 0)
    return Members(ids.astype(np.int32), sizes)


def check_counts(counts: Sequence[int], classes: Sequence, at_least: int) -> None:
    """Makes sure on the host that every class is large enough for an episode.

    >>> check_counts([20, 3], ["cat", "dog"], 6)
    Traceback (most recent call last):
    ValueError: class dog has 3 examples but shots + queries is 6: lower one of them, or leave the
    class out

    Args:
      counts: The number of examples of each class.
      classes: The names of the classes, for the error.
      at_least: shots + queries of the largest episode.

    Raises:
      ValueError: A class has fewer examples.
    """
    for count, name in zip(counts, classes, strict=True):
        if count < at_least:
            raise ValueError(
                f"class {name} has {count} examples but shots + queries is {at_least}: lower one "
                "of them, or leave the class out"
            )


def draw_ids(
    keys: jax.Array, members: Members, *, ways: int, shots: int, queries: int, copies: int = 1
) -> Drawn:
    """Draws the classes of an episode, and the examples of each.

    Classes are drawn without replacement and in uniformly random order, so that every class gets
    every label; within a class the examples are drawn without replacement, so that support and
    query share none. No class is padded by repeating its examples: then one example could be drawn
    twice.

    >>> split = consecutive_members([4, 6, 5])
    >>> drawn = draw_ids(jax.random.split(jax.random.key(0), 3), split, ways=2, shots=1, queries=2)
    >>> drawn.ids.shape, drawn.classes.shape
    ((2, 3), (2,))

    Args:
      keys: Typed keys `[1 + ways]`: the first draws the classes, the others the examples of each.
      members: The examples of each class. Every class needs shots + queries of them.
      ways: Classes in the episode, at least 1.
      shots: Support examples of a class, at least 1.
      queries: Query examples of a class, at least 1.
      copies: How many classes of the episode's choice each class stands for, such as 4 where each
        quarter turn of an image is a class of its own.

    Raises:
      ValueError: The members cannot give such an episode. Where `members.counts` is traced, only
        the width of `members.ids` is checked.
    """
    num_classes, largest = members.ids.shape
    if min(ways, shots, queries) < 1:
        raise ValueError(f"{ways=}, {shots=}, {queries=}: an episode needs at least 1 of each")
    if ways > num_classes * copies:
        raise ValueError(
            f"{ways=} but there are {num_classes * copies} classes: lower ways or choose data with "
            "more classes"
        )
    traced = isinstance(members.counts, core.Tracer)
    smallest = largest if traced else int(np.asarray(members.counts).min())
    if shots + queries > smallest:
        raise ValueError(
            f"{shots=} + {queries=} but a class has {smallest} examples: lower shots or queries, "
            "or leave such classes out"
        )
    chosen = choose(keys[0], num_classes * copies, ways)
    classes = chosen % num_classes
    draw = jax.vmap(lambda key, count: choose(key, count, shots + queries))
    places = draw(keys[1:], jnp.asarray(members.counts)[classes])
    ids = jnp.asarray(members.ids)[classes[:, None], places]
    return Drawn(ids, classes, chosen // num_classes)


def choose(key: jax.Array, n: int | jax.Array, k: int) -> jax.Array:
    """Draws a uniformly random ordered k-subset of 0, ..., n - 1 in O(k^2), whatever n.

    These are the first k steps of a Fisher-Yates shuffle, step t exchanging t with
    draws[t] ~ U{t..n-1}. The shuffled array is never made: where place i ends up reading from is
    found by undoing the earlier exchanges, latest first. (Place t itself is never met: at step t
    all later places lie above t.)

    >>> choose(jax.random.key(1), 1000, 3).shape
    (3,)

    Args:
      key: A typed key.
      n: The size of the set, at least k; may be traced.
      k: The size of the subset.

    Returns:
      int32 `[k]`, no number twice.
    """
    steps = jnp.arange(k)
    draws = jax.random.randint(key, (k,), steps, n)

    def undo(i: int, place: jax.Array) -> jax.Array:
        t = k - 1 - i
        return jnp.where((place == draws[t]) & (steps > t), t, place)

    return jax.lax.fori_loop(0, k, undo, draws)
