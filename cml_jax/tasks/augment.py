"""Images of tasks changed inside jit: normalised, and in training mirrored, shifted, recoloured."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from cml_jax.types import Task


def channel_statistics(pixels: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and the standard deviation of each channel, over all images, on the host.

    >>> channel_statistics(np.array([0, 255], np.uint8).reshape(2, 1, 1, 1))
    ((0.5,), (0.5,))

    Args:
      pixels: uint8 `[N, h, w, c]`; it may be mapped from a file.

    Returns:
      Means and deviations of the images in [0, 1], `c` of each. The deviation of a channel that is
      the same everywhere is 1.
    """
    channels = pixels.shape[-1]
    counts = np.zeros((channels, 256), np.int64)
    for start in range(0, len(pixels), 1024):  # exact, and never a copy of all images
        block = pixels[start : start + 1024].reshape(-1, channels)
        for channel in range(channels):
            counts[channel] += np.bincount(block[:, channel], minlength=256)
    values = np.arange(256) / 255
    share = counts / counts.sum(1, keepdims=True)
    mean = share @ values
    deviation = np.sqrt((share * (values - mean[:, None]) ** 2).sum(1))
    return tuple(mean.tolist()), tuple(np.where(deviation > 0, deviation, 1.0).tolist())


def normalize(images: jax.Array, mean: tuple[float, ...], deviation: tuple[float, ...]):
    """Takes each channel's mean away and divides by its deviation.

    Args:
      images: Floats `[n, h, w, c]`.
      mean, deviation: Of each channel, as `channel_statistics` gives them.
    """
    shift, scale = (jnp.array(x, images.dtype)[None, None, None] for x in (mean, deviation))
    return (images - shift) / scale


def flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirrors each image left to right with probability 1/2.

    Args:
      key: A typed key.
      images: `[n, h, w, c]`.
    """
    mirrored = jax.random.bernoulli(key, shape=(len(images), 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)


def shift(key: jax.Array, images: jax.Array, pixels: int) -> jax.Array:
    """Shifts each image by up to so many pixels in both directions, a random crop after padding.

    What comes in from outside is 0.

    Args:
      key: A typed key.
      images: `[n, h, w, c]`.
      pixels: The largest shift.
    """
    n, height, width, channels = images.shape
    padded = jnp.pad(images, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)))
    starts = jax.random.randint(key, (n, 2), 0, 2 * pixels + 1)

    def crop(image: jax.Array, start: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (start[0], start[1], 0), (height, width, channels))

    return jax.vmap(crop)(padded, starts)


def recolor(key: jax.Array, images: jax.Array, strength: float) -> jax.Array:
    """Changes brightness, contrast and saturation of each image, each by a factor in 1 +- strength.

    Brightness multiplies; contrast moves away from the image's mean; saturation moves away from
    the mean of the pixel's channels (nothing where there is one channel). The order is this one,
    and the result is cut to [0, 1].

    Args:
      key: A typed key.
      images: Floats in [0, 1] `[n, h, w, c]`.
      strength: From 0 to 1.
    """
    shape = (3, len(images), 1, 1, 1)
    factors = jax.random.uniform(key, shape, images.dtype, 1 - strength, 1 + strength)
    images = images * factors[0]
    for factor, axes in ((factors[1], (1, 2, 3)), (factors[2], (3,))):
        mean = images.mean(axes, keepdims=True)
        images = mean + (images - mean) * factor
    return images.clip(0, 1)


def with_images(change: Callable[[jax.Array, jax.Array], jax.Array], key: jax.Array, task: Task):
    """A task whose images are changed, those of support and query with different random numbers.

    Args:
      change: `(key, images [n, h, w, c]) -> images`.
      key: A typed key.
      task: Its inputs are the images.
    """
    keys = jax.random.split(key)
    parts = zip(keys, task, strict=True)
    return Task(*(part._replace(inputs=change(key, part.inputs)) for key, part in parts))
