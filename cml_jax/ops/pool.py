"""Max-pooling whose derivatives, of any order, are one pass each."""

import jax
import jax.numpy as jnp
from jax import lax

from cml_jax.ops.primitive import linear_primitive


def max_pool(x: jax.Array) -> jax.Array:
    """The maximum of each 2 x 2 window, at stride 2; an odd last row or column is dropped.

        y[n, i, j, c] = max_{a, b in {0, 1}} x[n, 2 i + a, 2 j + b, c]

    The derivative is 1 at the maximum; of equal entries it is the first, row by row (PyTorch's
    rule). Only its place, one byte, is kept for the derivatives: those of `lax.reduce_window` are
    slow on CPU and its second one is not defined everywhere; those of strided slices write the
    whole input four times.

    Args:
      x: The images or feature maps `[n, h, w, c]`, of any floating dtype, h and w at least 2.

    Returns:
      An array `[n, h // 2, w // 2, c]` of the dtype of `x`.

    Raises:
      ValueError: When `x` does not have four axes or is smaller than a window.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([[1.0, 2.0, 0.0, 5.0], [4.0, 3.0, 1.0, 1.0]]).reshape(1, 2, 4, 1)
    >>> print(max_pool(x).ravel())
    [4. 5.]
    """
    if x.ndim != 4:
        raise ValueError(f"x of shape {x.shape}: give [n, h, w, c], which has four axes")
    if min(x.shape[1:3]) < 2:
        raise ValueError(
            f"x of shape {x.shape} is a map of {x.shape[1]} x {x.shape[2]} but a pooling window "
            "is 2 x 2: give larger images, or pool less often"
        )
    return _max_pool(x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2])


@jax.custom_jvp
def _max_pool(x):
    return _largest(x)[0]


@_max_pool.defjvp
def _(primals, tangents):
    value, place = _largest(*primals)
    return value, _gather(*tangents, place)


def _largest(x):
    """The maximum of each window and its place, a number from 0 to 3."""
    value, *corners = _corners(x)
    place = jnp.zeros(value.shape, jnp.uint8)
    for i, corner in enumerate(corners, 1):
        place = jnp.where(corner > value, jnp.uint8(i), place)
        value = jnp.maximum(value, corner)
    return value, place


def _corners(x):
    return [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]


def _computed_gather(platform, x, place):
    first, second, third, fourth = _corners(x)
    top = jnp.where(place == 0, first, second)
    return jnp.where(place < 2, top, jnp.where(place == 2, third, fourth))


def _computed_spread(platform, g, place):
    n, height, width, channels = g.shape
    row = lax.broadcasted_iota(jnp.uint8, (1, 1, 2, 1, 2, 1), 2)
    column = lax.broadcasted_iota(jnp.uint8, (1, 1, 2, 1, 2, 1), 4)
    here = place[:, :, None, :, None] == 2 * row + column
    g = jnp.where(here, g[:, :, None, :, None], jnp.zeros((), g.dtype))
    return g.reshape(n, 2 * height, 2 * width, channels)


# The entry of each window at its `place`.
_gather = linear_primitive(
    "max_pool_gather",
    _computed_gather,
    shape=lambda x, place: place.shape,
    left_transpose=lambda y, place, x: _spread(y, place),
)
# `g` at `place` of each window and zeros elsewhere.
_spread = linear_primitive(
    "max_pool_spread",
    _computed_spread,
    shape=lambda g, place: (g.shape[0], 2 * g.shape[1], 2 * g.shape[2], g.shape[3]),
    left_transpose=lambda x, place, g: _gather(x, place),
)
