"""Max-pooling whose derivatives, of any order, are one pass each."""

import jax
import jax.numpy as jnp
from jax import lax


def max_pool(x: jax.Array) -> jax.Array:
    """The maximum of each 2 x 2 window, at stride 2; an odd last row or column is dropped.

        y[n, i, j, c] = max_{a, b in {0, 1}} x[n, 2 i + a, 2 j + b, c]

    The derivative is 1 at the maximum; of equal entries it is the first, row by row (PyTorch's
    rule). Only its place, one byte, is kept for the derivatives: those of `lax.reduce_window` are
    slow on CPU and its second one is not defined everywhere; those of strided slices write the
    whole input four times.

    It has reverse-mode derivatives of any order, but no forward mode (`jax.jvp`), which
    `jax.custom_vjp` excludes.

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


@jax.custom_vjp
def _max_pool(x):
    return _max_pool_forward(x)[0]


@jax.custom_vjp
def _gather(x, place):
    """The entry of each window at `place`, a number from 0 to 3."""
    first, second, third, fourth = _corners(x)
    top = jnp.where(place == 0, first, second)
    return jnp.where(place < 2, top, jnp.where(place == 2, third, fourth))


@jax.custom_vjp
def _spread(g, place):
    """`g` at `place` of each window and zeros elsewhere, the transpose of `_gather`."""
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
