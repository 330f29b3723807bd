"""The 3 x 3 convolution of stride 1, and its gradients, by Winograd's minimal filtering.

An m x m tile of the output takes (m + 2)^2 products a channel instead of 9 m^2, and the transformed
input is (m + 2)^2 / m^2 times the input where patches are 9 times:

    y = A^T [(G k G^T) * (B^T x B)] A,        dk = G^T [(B^T x B) * (A g A^T)] G,

`*` being, over all tiles and channels, one matrix product for each of the (m + 2)^2 positions. For
m = 4 that is a quarter of the plain products and 2.25 times the input, for m = 2 four ninths and 4
times; but the transformed kernel is 4 and 1.8 times the kernel, which few tiles do not pay back.

In float32 and over 64 channels, the root mean square error is 2.8e-7 of the result for m = 2 and
8.4e-7 for m = 4, where the plain product has 1.2e-7 to 1.6e-7. The points of m = 4 are the usual
0, 1, -1, 2, -2 times 3/4, which halves its error.

Reference: Lavin and Gray (2016), https://arxiv.org/abs/1509.09308; Barabasz et al. (2018),
https://arxiv.org/abs/1803.10986, for how the points bear on the error.
"""

from collections.abc import Sequence
from functools import reduce
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# The points of Toom and Cook's algorithm, beside infinity, for tiles of m x m.
_POINTS = {2: (0.0, 1.0, -1.0), 4: (0.0, 0.75, -0.75, 1.5, -1.5)}


def _minimal_filtering(points: Sequence[float]):
    """A^T `[m, m + 2]`, G `[m + 2, 3]` and B^T `[m + 2, m + 2]` of F(m, 3), m = len(points) - 1.

    y_i = sum_k x_{i + k} k_k = sum_j A^T_{i, j} (sum_k G_{j, k} k_k) (sum_l B^T_{j, l} x_l)
    """
    m = len(points) - 1
    others = [[q for q in points if q != p] for p in points]
    powers = np.array(points)[:, None] ** np.arange(max(m, 3))
    scales = np.prod(np.array(points)[:, None] - others, 1, keepdims=True)
    a = np.concatenate([powers[:, :m], np.eye(m)[-1:]])
    g = np.concatenate([powers[:, :3] / scales, np.eye(3)[-1:]])
    polynomials = [np.poly(rest)[::-1] for rest in others]
    b = np.stack([*(np.append(p, 0) for p in polynomials), np.poly(points)[::-1]])
    return a.T, g, b


_MATRICES = {m: _minimal_filtering(points) for m, points in _POINTS.items()}


def conv(x: jax.Array, kernel: jax.Array, m: int) -> jax.Array:
    """The convolution of stride 1 with zero padding 1.

    Args:
      x: The images `[n, h, w, c]`.
      kernel: The kernel `[3, 3, c, f]`.
      m: Height and width of a tile, 2 or 4.

    Returns:
      An array `[n, h, w, f]`.
    """
    return _filtered(x, _both_axes(_MATRICES[m][1], kernel), 1, m)


def conv_input_gradient(g: jax.Array, kernel: jax.Array, m: int) -> jax.Array:
    """The gradient of the convolution with respect to its input.

    It is the convolution with the kernel turned by half, its channels exchanged: exchanged by the
    product, since a transposed copy of a wide kernel takes longer than all the rest.

    Args:
      g: A cotangent of the convolution's output, `[n, h, w, f]`.
      kernel: The kernel `[3, 3, c, f]`.
      m: Height and width of a tile, 2 or 4.

    Returns:
      An array `[n, h, w, c]`.
    """
    turned = np.flip(_MATRICES[m][1], 1)
    return _filtered(g, _both_axes(turned, kernel), 2, m)


def conv_weight_gradient(x: jax.Array, g: jax.Array, m: int) -> jax.Array:
    """The gradient of the convolution with respect to its kernel.

    Args:
      x: The images `[n, h, w, c]`.
      g: A cotangent of the convolution's output, `[n, h, w, f]`.
      m: Height and width of a tile, 2 or 4.

    Returns:
      An array `[3, 3, c, f]`.
    """
    product = _batched_product(_tiled_input(x, m), _tiled_cotangent(g, m), 1, 1)
    g_transposed = _MATRICES[m][1].T
    return _both_axes(g_transposed, product).reshape(3, 3, *product.shape[1:])


def tiles(shape: Sequence[int], m: int) -> tuple[int, int]:
    """How many tiles of m x m cover an image of a shape `[n, h, w, c]`, along each axis."""
    return -(-shape[1] // m), -(-shape[2] // m)


def _filtered(x, kernel, axis, m):
    """The convolution of `x` with a transformed kernel, whose channels to sum over are `axis`."""
    n, height, width, _ = x.shape
    rows, columns = tiles(x.shape, m)
    a_transposed = _MATRICES[m][0]
    product = _batched_product(_tiled_input(x, m), kernel, 2, axis)
    product = product.reshape(m + 2, m + 2, n, rows, columns, -1)
    y = [jnp.stack(_times(a_transposed, row), 3) for row in _times(a_transposed, product)]
    return jnp.stack(y, 2).reshape(n, m * rows, m * columns, -1)[:, :height, :width]


def _tiled_input(x, m):
    """`B^T x B` of each overlapping (m + 2) x (m + 2) tile, `[(m + 2)^2, n * tiles, c]`."""
    rows, columns = tiles(x.shape, m)
    b_transposed = _MATRICES[m][2]
    x = _padded(x, 1, m * rows + 2, m * columns + 2)
    x = [x[:, i : i + m * (rows - 1) + 1 : m] for i in range(m + 2)]
    # Without the barriers XLA fuses the passes and computes each row again: half as slow again.
    x = lax.optimization_barrier(jnp.stack(_times(b_transposed, x)))
    x = [x[:, :, :, j : j + m * (columns - 1) + 1 : m] for j in range(m + 2)]
    return jnp.stack(_times(b_transposed, x), 1).reshape((m + 2) ** 2, -1, x[0].shape[-1])


def _tiled_cotangent(g, m):
    """`A g A^T` of each m x m tile, `[(m + 2)^2, n * tiles, f]`."""
    rows, columns = tiles(g.shape, m)
    a = _MATRICES[m][0].T
    g = _padded(g, 0, m * rows, m * columns)
    g = lax.optimization_barrier(jnp.stack(_times(a, [g[:, i::m] for i in range(m)])))
    g = jnp.stack(_times(a, [g[:, :, :, j::m] for j in range(m)]), 1)
    return g.reshape((m + 2) ** 2, -1, g.shape[-1])


def _padded(x, low, height, width):
    high, right = height - low - x.shape[1], width - low - x.shape[2]
    pads = [(0, 0, 0), (low, high, 0), (low, right, 0), (0, 0, 0)]
    return lax.optimization_barrier(lax.pad(x, jnp.zeros((), x.dtype), pads))


def _batched_product(left, right, left_axis, right_axis):
    return lax.dot_general(left, right, (((left_axis,), (right_axis,)), ((0,), (0,))))


def _both_axes(matrix, x):
    """`matrix x matrix^T` over the height and width of a kernel, `[rows^2, c, f]`.

    As one product: of a wide kernel that takes a third of the time of sums of its slices.
    """
    both = jnp.asarray(np.kron(matrix, matrix), x.dtype)
    channels = x.shape[-2:]
    return jnp.dot(both, x.reshape(-1, prod(channels)), precision="highest").reshape(-1, *channels)


def _times(matrix, parts):
    """`matrix @ parts`, parts being arrays, without the products with 0 and 1."""

    def of_a_row(row):
        terms = [(float(c), part) for c, part in zip(row, parts, strict=True) if c]
        return reduce(jnp.add, [part if c == 1 else c * part for c, part in terms])

    return [of_a_row(row) for row in matrix]
