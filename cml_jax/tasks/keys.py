"""Task i of a split is a pure function of (seed, split, i)."""

import zlib

import jax
import jax.numpy as jnp


def task_keys(key: jax.Array, split: str, start: int | jax.Array, count: int) -> jax.Array:
    """Keys of the tasks `start, ..., start + count - 1` of a split.

        key_i = fold_in(fold_in(key, crc32(split)), i)

    A key depends on nothing but the run's key, the split's name and i, so a run resumes without
    iterator state and splits can be read in any order. Folding is a bijection of i: within a split
    no key comes twice. Two splits hash apart; that they share a key has odds of about
    n_1 * n_2 / 2^64.

    Args:
      key: the run's typed key, `jax.random.key(seed)`.
      split: any name, usually "train", "validation" or "test".
      start: index of the first task, int32, may be traced (`step * count`).
      count: how many, static.

    Returns:
      Typed keys `[count]`.
    """
    split_key = jax.random.fold_in(key, zlib.crc32(split.encode()))
    return jax.vmap(jax.random.fold_in, (None, 0))(split_key, start + jnp.arange(count))
