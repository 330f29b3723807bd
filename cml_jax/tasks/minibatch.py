"""Minibatches of ordinary training: images of all classes of a split."""

import jax
import jax.numpy as jnp

from cml_jax.tasks.episodes import ImagePool, quarter_turns
from cml_jax.types import Batch


def minibatch(key: jax.Array, images: ImagePool, *, size: int, rotations: bool = False) -> Batch:
    """Draws images with the number of their class, which is the same in all minibatches.

    A class is drawn evenly for each image, then one of its images evenly, with replacement. So
    classes that differ in size come equally often, as in episodes.

    >>> import numpy as np
    >>> from cml_jax.tasks.members import consecutive_members
    >>> pool = ImagePool(np.zeros((30, 8, 8, 3), np.uint8), consecutive_members([20, 10]))
    >>> batch = minibatch(jax.random.key(0), pool, size=64, rotations=True)
    >>> batch.inputs.shape, int(batch.targets.max())
    ((64, 8, 8, 3), 7)

    Args:
      key: A typed key; the batch is a function of it.
      images: The images of a split, such as `load_omniglot().train`.
      size: Number of images.
      rotations: Whether each quarter turn of a class is a class of its own, as in `episodes`: the
        class c turned t times has the number c + t * classes.

    Returns:
      Inputs float32 in [0, 1] `[size, h, w, c]`, targets int32 `[size]` in 0, ..., classes - 1, or
      4 * classes - 1.
    """
    class_key, image_key = jax.random.split(key)
    pixels, (ids, counts) = images
    classes = len(ids)
    targets = jax.random.randint(class_key, (size,), 0, classes * (4 if rotations else 1))
    rows = targets % classes
    places = jax.random.randint(image_key, (size,), 0, jnp.asarray(counts)[rows])
    inputs = jnp.asarray(pixels)[jnp.asarray(ids)[rows, places]]
    if rotations:
        inputs = jax.vmap(quarter_turns)(inputs[:, None], targets // classes)[:, 0]
    return Batch(inputs.astype(jnp.float32) / 255, targets)
