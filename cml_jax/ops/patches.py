"""Convolution and its derivatives as patches and one matrix product, for any size and stride."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """The convolution, `patches(x) @ kernel`.

    Args:
      x: The images `[n, h, w, c]`.
      kernel: The kernel `[kh, kw, c, f]`.
      stride: The stride of both axes.

    Returns:
      An array `[n, ceil(h / stride), ceil(w / stride), f]`.
    """
    patches = windows(x, (kernel.shape[0], kernel.shape[1]), stride)
    return jnp.tensordot(patches, kernel.reshape(-1, kernel.shape[-1]), 1)


def conv_weight_gradient(
    x: jax.Array, g: jax.Array, size: tuple[int, int], stride: int
) -> jax.Array:
    """The gradient of the convolution with respect to its kernel, `patches(x)^T @ g`.

    Args:
      x: The images `[n, h, w, c]`.
      g: A cotangent of the convolution's output, `[n, ho, wo, f]`.
      size: The height and width of the kernel.
      stride: The stride of both axes.

    Returns:
      An array `[kh, kw, c, f]`.
    """
    patches = windows(x, size, stride)
    channels, features = x.shape[-1], g.shape[-1]
    # XLA on CPU copies the left operand of such a product transposed: put the smaller one there.
    # The barrier keeps it from folding our own transposition back and swapping the two again.
    if patches.shape[-1] < features:
        product = jnp.tensordot(patches, g, ((0, 1, 2), (0, 1, 2)))
    else:
        product = lax.optimization_barrier(jnp.tensordot(g, patches, ((0, 1, 2), (0, 1, 2)))).T
    return product.reshape(*size, channels, features)


def conv_input_gradient(
    g: jax.Array, kernel: jax.Array, shape: tuple[int, int], stride: int
) -> jax.Array:
    """The gradient of the convolution with respect to its input.

    A pixel in row `s * i + r` meets only the rows a of the kernel with `a = r + kh // 2` modulo the
    stride s. So the pixels of one remainder r (and likewise of the columns) are patches of `g` and
    one product with that part of the kernel. Together these are as many products as the
    convolution has; none is with a zero that the stride would spread.

    Args:
      g: A cotangent of the convolution's output, `[n, ho, wo, f]`.
      kernel: The kernel `[kh, kw, c, f]`.
      shape: The height and width of the input.
      stride: The stride of both axes.

    Returns:
      An array `[n, h, w, c]`.
    """
    outs = [-(-size // stride) for size in shape]
    reach = max(kernel.shape[:2]) // stride + 1
    g = lax.pad(g, jnp.zeros((), g.dtype), [(0, 0, 0), *[(reach, reach, 0)] * 2, (0, 0, 0)])

    def taps(k, r):
        """The places of the kernel that remainder r meets, and where in `g` each reads from."""
        places = [a for a in range(k) if (r + k // 2 - a) % stride == 0]
        return places, [reach + (r + k // 2 - a) // stride for a in places]

    def part(r, q):
        (rows, row_starts), (columns, column_starts) = (
            taps(kernel.shape[0], r),
            taps(kernel.shape[1], q),
        )
        if not rows or not columns:
            return jnp.zeros((g.shape[0], *outs, kernel.shape[2]), g.dtype)
        x = lax.concatenate([g[:, :, j : j + outs[1]] for j in column_starts], 3)
        x = lax.concatenate([x[:, i : i + outs[0]] for i in row_starts], 3)
        weights = kernel[np.ix_(rows, columns)].swapaxes(2, 3)
        return jnp.tensordot(x, weights.reshape(-1, kernel.shape[2]), 1)

    x = [jnp.stack([part(r, q) for q in range(stride)], 3) for r in range(stride)]
    x = jnp.stack(x, 2)
    x = x.reshape(g.shape[0], outs[0] * stride, outs[1] * stride, -1)
    return x[:, : shape[0], : shape[1]]


def windows(x: jax.Array, size: tuple[int, int], stride: int) -> jax.Array:
    """The windows under the kernel, with zeros outside of the images.

    Args:
      x: The images `[n, h, w, c]`.
      size: The height and width of the kernel.
      stride: The stride of both axes.

    Returns:
      An array `[n, ceil(h / stride), ceil(w / stride), kh * kw * c]`.
    """
    (kh, kw), (height, width) = size, x.shape[1:3]
    pads = [(0, 0, 0), (kh // 2, kh // 2, 0), (kw // 2, kw // 2, 0), (0, 0, 0)]
    x = lax.pad(x, jnp.zeros((), x.dtype), pads)
    # Columns, then rows: a fifth less time than kh * kw slices at once, half with one channel.
    x = lax.concatenate([x[:, :, j : j + width : stride] for j in range(kw)], 3)
    return lax.concatenate([x[:, i : i + height : stride] for i in range(kh)], 3)
