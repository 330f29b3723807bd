"""N-way K-shot episodes from classes of images."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import core

from cml_jax.tasks.members import Array, Drawn, Members, consecutive_members, draw_ids
from cml_jax.types import Batch, Task


class ImagePool(NamedTuple):
    """The images of a split, and which of them belong to which class: a pytree of arrays.

    Attributes:
      pixels: uint8 `[N, h, w, c]`.
      members: The ids of each class's images, in 0, ..., N - 1.
    """

    pixels: Array
    members: Members


class Gathered(NamedTuple):
    """The images of an episode, gathered on the host where no device can hold the pool.

    `episodes` makes the same task of them as of the pool, bit for bit:

    >>> import numpy as np
    >>> pixels = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), np.uint8)
    >>> pool, key = ImagePool(pixels, consecutive_members([20, 10, 30])), jax.random.key(0)
    >>> shape = {"ways": 2, "shots": 1, "queries": 5}
    >>> drawn = drawn_episode(key, pool.members, **shape)
    >>> task = episodes(key, Gathered(pixels[drawn.ids], drawn.copies), **shape)
    >>> bool((task.query.inputs == episodes(key, pool, **shape).query.inputs).all())
    True

    Attributes:
      pixels: uint8 `[ways, shots + queries, h, w, c]`, the support's first.
      copies: int32 `[ways]` in 0, ..., 3: how many quarter turns each class gets.
    """

    pixels: Array
    copies: Array


def episodes(
    key: jax.Array,
    images: ImagePool | Gathered | jax.Array,
    *,
    ways: int,
    shots: int,
    queries: int,
    rotations: bool = False,
) -> Task:
    """Draws one N-way K-shot task of images.

    Classes are drawn without replacement and in uniformly random order, so that every class gets
    every label; within a class the images are drawn without replacement, so that support and query
    share none. Examples come class by class.

    Classes may differ in size: give an `ImagePool`. Do not fill small classes up by repeating their
    images to make one array: the copies count as different images, so that an image can be in
    support and query at once, and the accuracy comes out too high.

    >>> import numpy as np
    >>> images = np.zeros((10, 20, 28, 28, 1), np.uint8)  # 10 classes of 20 images
    >>> task = episodes(jax.random.key(0), images, ways=5, shots=1, queries=15)
    >>> task.support.inputs.shape, task.query.inputs.shape
    ((5, 28, 28, 1), (75, 28, 28, 1))
    >>> print(task.support.targets)
    [0 1 2 3 4]

    A batch of tasks is drawn by `jax.vmap` over keys. Under `jax.jit` the images should be an
    argument, because what is closed over becomes a constant of the compiled program:

    >>> from cml_jax.tasks import task_keys
    >>> def draw(keys, images):
    ...     sample = lambda key: episodes(key, images, ways=5, shots=1, queries=15)
    ...     return jax.vmap(sample)(keys)
    >>> tasks = jax.jit(draw)(task_keys(jax.random.key(0), "train", 0, 4), images)
    >>> tasks.query.inputs.shape
    (4, 75, 28, 28, 1)

    Args:
      key: A typed key; the whole task is a function of it.
      images: A pool of images, such as `load_omniglot().train`; or, where all classes have the same
        number of images, uint8 `[classes, images, h, w, c]`. NumPy or JAX arrays. Or what this key
        draws, as `Gathered`.
      ways: Classes in the task.
      shots: Support images of a class, at least 1.
      queries: Query images of a class, at least 1.
      rotations: Whether each quarter turn of a class is a class of its own (4 * classes), so that
        two rotations of one character may meet in a task, as in Santoro et al. MAML's code instead
        draws one rotation for each character, in training and in testing.

    Returns:
      A task: inputs float32 in [0, 1] `[ways * shots, h, w, c]`, targets int32 `[ways * shots]` in
      0, ..., ways - 1; likewise `[ways * queries, ...]`. Where the sizes of the classes are traced
      and a class that is drawn has fewer than shots + queries images, its images are NaN.

    Raises:
      ValueError: The images cannot give such a task.

    Reference: Vinyals et al., 2016, https://arxiv.org/abs/1606.04080; rotations: Santoro et al.,
    2016, https://arxiv.org/abs/1605.06065.
    """
    shape = {"ways": ways, "shots": shots, "queries": queries}
    enough = None
    if isinstance(images, Gathered):
        episode, copies = images
        if episode.shape[:2] != (ways, shots + queries):
            raise ValueError(
                f"gathered images are {episode.shape} but {ways=}, {shots=}, {queries=}: gather "
                "with the same numbers"
            )
        _check_pixels(episode[0], rotations)
    else:
        pixels, members = images if isinstance(images, ImagePool) else _pool(images)
        _check_pixels(pixels, rotations)
        drawn = drawn_episode(key, members, **shape, rotations=rotations)
        # One gather of the episode's own images, whatever the size of the data set.
        episode, copies = jnp.asarray(pixels)[drawn.ids], drawn.copies
        if isinstance(members.counts, core.Tracer):
            enough = members.counts[drawn.classes] >= shots + queries
    if rotations:
        episode = jax.vmap(quarter_turns)(jnp.asarray(episode), jnp.asarray(copies))
    episode = jnp.asarray(episode).astype(jnp.float32) / 255
    if enough is not None:
        episode = jnp.where(enough[:, None, None, None, None], episode, jnp.nan)

    def batch(examples: jax.Array) -> Batch:
        per_class = examples.shape[1]
        labels = jnp.repeat(jnp.arange(ways, dtype=jnp.int32), per_class)
        return Batch(examples.reshape(ways * per_class, *examples.shape[2:]), labels)

    return Task(batch(episode[:, :shots]), batch(episode[:, shots:]))


def drawn_episode(
    key: jax.Array,
    members: Members,
    *,
    ways: int,
    shots: int,
    queries: int,
    rotations: bool = False,
) -> Drawn:
    """Which classes and images `episodes` draws, without an image: arguments are as there."""
    keys = jax.random.split(key, 1 + ways)
    copies = 4 if rotations else 1
    return draw_ids(keys, members, ways=ways, shots=shots, queries=queries, copies=copies)


def _check_pixels(pixels, rotations):
    if pixels.ndim != 4 or pixels.dtype != jnp.uint8:
        raise ValueError(f"pixels are {pixels.dtype} {pixels.shape}: pass uint8 [N, h, w, c]")
    height, width = pixels.shape[1:3]
    if rotations and height != width:
        raise ValueError(f"rotations of {height} x {width} images: pass square ones or turn it off")


def _pool(images: jax.Array) -> ImagePool:
    if images.ndim != 5 or images.dtype != jnp.uint8:
        raise ValueError(
            f"images are {images.dtype} {images.shape}: pass uint8 [classes, images, h, w, c], or "
            "an ImagePool"
        )
    num_classes, num_images = images.shape[:2]
    members = consecutive_members([num_images] * num_classes)
    return ImagePool(images.reshape(-1, *images.shape[2:]), members)


def quarter_turns(images: jax.Array, turns: jax.Array) -> jax.Array:
    """`[n, h, h, c]` turned counterclockwise by 90 degrees `turns` times, a traced 0, 1, 2 or 3."""
    return jax.lax.select_n(turns, *(jnp.rot90(images, t, axes=(1, 2)) for t in range(4)))
