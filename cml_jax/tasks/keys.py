"""Keys of tasks: task i of a split is a pure function of (seed, split, i)."""

import zlib

import jax
import jax.numpy as jnp


def task_keys(
    key: jax.Array, split: str | jax.Array, start: int | jax.Array, count: int
) -> jax.Array:
    """Makes the keys of the tasks `start, ..., start + count - 1` of a split.

        key_i = fold_in(fold_in(key, crc32(split)), i)

    A key depends on nothing but the run's key, the split's name and i. So a run resumes without
    saving the state of an iterator, and splits can be read in any order. Folding is a bijection of
    i: within a split no key comes twice. Two splits of n_1 and n_2 tasks share a key with a
    probability of about n_1 * n_2 / 2^64.

    >>> key = jax.random.key(0)
    >>> keys = task_keys(key, "train", 0, 8)
    >>> bool((task_keys(key, "train", 4, 4) == keys[4:]).all())
    True
    >>> bool((task_keys(key, "test", 0, 8) == keys).any())
    False

    Args:
      key: The run's typed key, `jax.random.key(seed)`.
      split: Any name, usually "train", "validation" or "test"; or the crc32 of its UTF-8 text as a
        traced uint32, where one compiled program is to read several splits.
      start: The index of the first task, int32; may be traced, as in `step * count`.
      count: The number of keys, static.

    Returns:
      Typed keys `[count]`.
    """
    number = zlib.crc32(split.encode()) if isinstance(split, str) else split
    split_key = jax.random.fold_in(key, number)
    return jax.vmap(jax.random.fold_in, (None, 0))(split_key, start + jnp.arange(count))
