"""N-way K-shot episodes from classes of images."""

import jax
import jax.numpy as jnp

from cml_jax.types import Batch, Task


def episodes(
    key: jax.Array,
    images: jax.Array,
    *,
    ways: int,
    shots: int,
    queries: int,
    rotations: bool = False,
) -> Task:
    """Draws one N-way K-shot task.

    Classes are drawn without replacement and in uniformly random order, so every class gets every
    label; inside a class the images are drawn without replacement, so the support and the query
    share none. Examples come class by class.

    Args:
      key: a typed key; the whole task is a function of it.
      images: uint8 `[classes, images, h, w, c]`, an argument of what is jitted, not a constant.
      ways: classes in the task.
      shots: support images of a class, at least 1.
      queries: query images of a class, at least 1.
      rotations: each quarter turn of a class is a class of its own (4 * classes), so two rotations
        of one character may meet in a task, as in Santoro et al. MAML's code instead draws one
        rotation for each character, in training and in testing.

    Returns:
      A task: inputs float32 in [0, 1] `[ways * shots, h, w, c]`, targets int32 `[ways * shots]` in
      0, ..., ways - 1; likewise `[ways * queries, ...]`.

    Raises:
      ValueError: the images cannot give such a task.

    Reference: Vinyals et al., 2016, https://arxiv.org/abs/1606.04080; rotations: Santoro et al.,
    2016, https://arxiv.org/abs/1605.06065.
    """
    _check(images, ways, shots, queries, rotations)
    num_classes, num_images = images.shape[:2]
    class_key, *image_keys = jax.random.split(key, 1 + ways)
    chosen = choose(class_key, num_classes * (4 if rotations else 1), ways)
    drawings = jax.vmap(lambda k: choose(k, num_images, shots + queries))(jnp.stack(image_keys))
    # One gather of the episode's own images, whatever the size of the data set.
    episode = images[chosen[:, None] % num_classes, drawings]
    if rotations:
        episode = jax.vmap(_quarter_turns)(episode, chosen // num_classes)
    episode = episode.astype(jnp.float32) / 255

    def batch(examples: jax.Array) -> Batch:
        per_class = examples.shape[1]
        labels = jnp.repeat(jnp.arange(ways, dtype=jnp.int32), per_class)
        return Batch(examples.reshape(ways * per_class, *images.shape[2:]), labels)

    return Task(batch(episode[:, :shots]), batch(episode[:, shots:]))


def choose(key: jax.Array, n: int, k: int) -> jax.Array:
    """A uniformly random ordered k-subset of 0, ..., n - 1 in O(k^2), whatever n.

    The first k steps of a Fisher-Yates shuffle, step t exchanging t with draws[t] ~ U{t..n-1}. The
    shuffled array is never made: where place i ends up reading from is found by undoing the earlier
    exchanges, latest first. (Place t itself is never met: at step t all later places lie above t.)
    """
    steps = jnp.arange(k)
    draws = jax.random.randint(key, (k,), steps, n)

    def undo(i: int, place: jax.Array) -> jax.Array:
        t = k - 1 - i
        return jnp.where((place == draws[t]) & (steps > t), t, place)

    return jax.lax.fori_loop(0, k, undo, draws)


def _quarter_turns(images: jax.Array, turns: jax.Array) -> jax.Array:
    """`[n, h, h, c]` turned counterclockwise by 90 degrees `turns` times, a traced 0, 1, 2 or 3."""
    return jax.lax.select_n(turns, *(jnp.rot90(images, t, axes=(1, 2)) for t in range(4)))


def _check(images: jax.Array, ways: int, shots: int, queries: int, rotations: bool) -> None:
    if images.ndim != 5 or images.dtype != jnp.uint8:
        raise ValueError(
            f"images are {images.dtype} {images.shape}: pass uint8 [classes, images, h, w, c]"
        )
    num_classes, num_images, height, width, _ = images.shape
    if min(ways, shots, queries) < 1:
        raise ValueError(f"{ways=}, {shots=}, {queries=}: an episode needs at least 1 of each")
    if rotations and height != width:
        raise ValueError(f"rotations of {height} x {width} images: pass square ones or turn it off")
    available = num_classes * (4 if rotations else 1)
    if ways > available:
        raise ValueError(
            f"{ways=} but there are {available} classes: lower ways or choose another data set"
        )
    if shots + queries > num_images:
        raise ValueError(
            f"{shots=} + {queries=} but a class has {num_images} images: lower shots or queries"
        )
