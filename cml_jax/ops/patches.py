"""Convolution and its weight gradient as patches and one matrix product, any size and stride."""

import jax
import jax.numpy as jnp
from jax import lax


def conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """`patches(x) @ kernel`.

    Args:
      x: `[n, h, w, c]`.
      kernel: `[kh, kw, c, f]`.
      stride: of both axes.

    Returns:
      `[n, ceil(h / stride), ceil(w / stride), f]`.
    """
    patches = _patches(x, kernel.shape[:2], stride)
    return jnp.tensordot(patches, kernel.reshape(-1, kernel.shape[-1]), 1)


def conv_weight_gradient(
    x: jax.Array, g: jax.Array, size: tuple[int, int], stride: int
) -> jax.Array:
    """`patches(x)^T @ g`.

    Args:
      x: `[n, h, w, c]`.
      g: `[n, ho, wo, f]`, a cotangent of the convolution's output.
      size: `(kh, kw)`.
      stride: of both axes.

    Returns:
      `[kh, kw, c, f]`.
    """
    patches = _patches(x, size, stride)
    channels, features = x.shape[-1], g.shape[-1]
    # XLA on CPU copies the left operand of such a product transposed: put the smaller one there.
    # The barrier keeps it from folding our own transposition back and swapping the two again.
    if patches.shape[-1] < features:
        product = jnp.tensordot(patches, g, ((0, 1, 2), (0, 1, 2)))
    else:
        product = lax.optimization_barrier(jnp.tensordot(g, patches, ((0, 1, 2), (0, 1, 2)))).T
    return product.reshape(*size, channels, features)


def _patches(x: jax.Array, size: tuple[int, int], stride: int) -> jax.Array:
    """The windows under the kernel, `[n, ho, wo, kh * kw * c]`."""
    (kh, kw), (height, width) = size, x.shape[1:3]
    pads = [(0, 0, 0), (kh // 2, kh // 2, 0), (kw // 2, kw // 2, 0), (0, 0, 0)]
    x = lax.pad(x, jnp.zeros((), x.dtype), pads)
    # Columns, then rows: a fifth less time than kh * kw slices at once, half with one channel.
    x = lax.concatenate([x[:, :, j : j + width : stride] for j in range(kw)], 3)
    return lax.concatenate([x[:, i : i + height : stride] for i in range(kh)], 3)
