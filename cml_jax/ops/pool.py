"""Max-pooling whose derivatives, of any order, are one pass each."""

import jax
import jax.numpy as jnp
from jax import lax


def max_pool(x: jax.Array) -> jax.Array:
    """Takes the maximum of each 2 x 2 window, stride 2; an odd last row or column is dropped.

    The derivative is 1 where the maximum is: of equal entries the first, row by row (PyTorch's
    rule). Only that place, one byte, is kept for the derivatives: those of `lax.reduce_window` are
    slow on CPU and the second is not defined everywhere; those of strided slices write the whole
    input four times.

    Reverse mode of any order; no forward mode (`jax.jvp`), which `jax.custom_vjp` excludes.

    Args:
      x: `[n, h, w, c]`, any float dtype.

    Returns:
      `[n, h // 2, w // 2, c]`, x's dtype.
    """
    return _max_pool(x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2])


@jax.custom_vjp
def _max_pool(x):
    return _max_pool_forward(x)[0]


@jax.custom_vjp
def _gather(x, place):
    """The entry at `place`, 0 to 3, of each window."""
    first, second, third, fourth = _corners(x)
    top = jnp.where(place == 0, first, second)
    return jnp.where(place < 2, top, jnp.where(place == 2, third, fourth))


@jax.custom_vjp
def _spread(g, place):
    """`g` at `place` of each window, zeros elsewhere: the transpose of `_gather`."""
    n, height, width, channels = g.shape
    row = lax.broadcasted_iota(jnp.uint8, (1, 1, 2, 1, 2, 1), 2)
    column = lax.broadcasted_iota(jnp.uint8, (1, 1, 2, 1, 2, 1), 4)
    here = place[:, :, None, :, None] == 2 * row + column
    g = jnp.where(here, g[:, :, None, :, None], jnp.zeros((), g.dtype))
    return g.reshape(n, 2 * height, 2 * width, channels)


def _corners(x):
    return [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]


def _max_pool_forward(x):
    value, *corners = _corners(x)
    place = jnp.zeros(value.shape, jnp.uint8)
    for i, corner in enumerate(corners, 1):
        place = jnp.where(corner > value, jnp.uint8(i), place)
        value = jnp.maximum(value, corner)
    return value, place


_max_pool.defvjp(_max_pool_forward, lambda place, g: (_spread(g, place),))
_gather.defvjp(
    lambda x, place: (_gather(x, place), place), lambda place, g: (_spread(g, place), None)
)
_spread.defvjp(
    lambda g, place: (_spread(g, place), place), lambda place, x: (_gather(x, place), None)
)
