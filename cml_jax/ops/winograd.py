"""The 3 x 3 convolution of stride 1, and its weight gradient, by Winograd's minimal filtering.

A 2 x 2 tile of the output takes 16 products a channel instead of 36, and the transformed input is
4 times the input where patches are 9 times:

    y = A^T [(G k G^T) * (B^T x B)] A,        dk = G^T [(B^T x B) * (A g A^T)] G,

`*` being, over all tiles and channels, one matrix product for each of the 16 positions. In
float32 the root mean square error is no larger than that of the plain product.

Reference: Lavin and Gray (2016), https://arxiv.org/abs/1509.09308, F(2x2, 3x3).
"""

import jax
import jax.numpy as jnp
from jax import lax


def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution of stride 1 with zero padding 1.

    Args:
      x: The images `[n, h, w, c]`.
      kernel: The kernel `[3, 3, c, f]`.

    Returns:
      An array `[n, h, w, f]`.
    """
    return _filtered(x, kernel, 1)


def conv_input_gradient(g: jax.Array, kernel: jax.Array) -> jax.Array:
    """The gradient of the convolution with respect to its input.

    It is the convolution with the kernel turned by half, its channels exchanged: exchanged by the
    product, since a transposed copy of a wide kernel takes longer than all the rest.

    Args:
      g: A cotangent of the convolution's output, `[n, h, w, f]`.
      kernel: The kernel `[3, 3, c, f]`.

    Returns:
      An array `[n, h, w, c]`.
    """
    return _filtered(g, jnp.flip(kernel, (0, 1)), 2)


def conv_weight_gradient(x: jax.Array, g: jax.Array) -> jax.Array:
    """The gradient of the convolution with respect to its kernel.

    Args:
      x: The images `[n, h, w, c]`.
      g: A cotangent of the convolution's output, `[n, h, w, f]`.

    Returns:
      An array `[3, 3, c, f]`.
    """
    product = _batched_product(_tiled_input(x), _tiled_cotangent(g), 1, 1)
    return _two_axes(_g_transposed, product.reshape(4, 4, *product.shape[1:]), (0, 1))


def _filtered(x, kernel, axis):
    """The convolution of `x` with a kernel whose channels to sum over are `axis` of the two."""
    n, height, width, _ = x.shape
    rows, columns = _tiles(x)
    kernel = _two_axes(_g, kernel, (0, 1)).reshape(16, *kernel.shape[2:])
    product = _batched_product(_tiled_input(x), kernel, 2, axis)
    product = product.reshape(4, 4, n, rows, columns, -1)
    y = [jnp.stack(_a_transposed(row), 3) for row in _a_transposed(product)]
    return jnp.stack(y, 2).reshape(n, 2 * rows, 2 * columns, -1)[:, :height, :width]


def _tiles(x):
    return (x.shape[1] + 1) // 2, (x.shape[2] + 1) // 2


def _tiled_input(x):
    """`B^T x B` of each overlapping 4 x 4 tile, `[16, n * tiles, c]`."""
    rows, columns = _tiles(x)
    x = _padded(x, 1, 2 * rows + 2, 2 * columns + 2)
    x = jnp.stack(_b_transposed([x[:, i : i + 2 * rows - 1 : 2] for i in range(4)]))
    # Without the barriers XLA fuses the passes and computes each row again: half as slow again.
    x = lax.optimization_barrier(x)
    x = jnp.stack(_b_transposed([x[:, :, :, j : j + 2 * columns - 1 : 2] for j in range(4)]), 1)
    return x.reshape(16, -1, x.shape[-1])


def _tiled_cotangent(g):
    """`A g A^T` of each 2 x 2 tile, `[16, n * tiles, f]`."""
    rows, columns = _tiles(g)
    g = _padded(g, 0, 2 * rows, 2 * columns)
    g = lax.optimization_barrier(jnp.stack(_a([g[:, i::2] for i in range(2)])))
    g = jnp.stack(_a([g[:, :, :, j::2] for j in range(2)]), 1)
    return g.reshape(16, -1, g.shape[-1])


def _padded(x, low, height, width):
    high, right = height - low - x.shape[1], width - low - x.shape[2]
    pads = [(0, 0, 0), (low, high, 0), (low, right, 0), (0, 0, 0)]
    return lax.optimization_barrier(lax.pad(x, jnp.zeros((), x.dtype), pads))


def _batched_product(left, right, left_axis, right_axis):
    return lax.dot_general(left, right, (((left_axis,), (right_axis,)), ((0,), (0,))))


def _two_axes(transform, x, axes):
    for axis in axes:
        x = jnp.stack(transform(jnp.unstack(x, axis=axis)), axis)
    return x


def _b_transposed(x):
    return x[0] - x[2], x[1] + x[2], x[2] - x[1], x[1] - x[3]


def _g(k):
    outer = k[0] + k[2]
    return k[0], (outer + k[1]) * 0.5, (outer - k[1]) * 0.5, k[2]


def _g_transposed(u):
    middle = (u[1] + u[2]) * 0.5
    return u[0] + middle, (u[1] - u[2]) * 0.5, middle + u[3]


def _a(g):
    return g[0], g[0] + g[1], g[0] - g[1], -g[1]


def _a_transposed(m):
    return m[0] + m[1] + m[2], m[1] - m[2] - m[3]
