"""A convolution and the batch normalisation after it, in the passes of the convolution alone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cml_jax.ops.conv import conv
from cml_jax.ops.forms import equal_blocks
from cml_jax.ops.norm import batch_norm, batch_norm_max_pool, check_scale_and_bias
from cml_jax.ops.patches import windows
from cml_jax.ops.pool import max_pool

_FEW = 4  # channels, of images; the products of more cost more than the passes that they save
_BLOCK_BYTES = 2 * 2**20  # of maps, or of windows: what a core keeps in its cache


def conv_batch_norm(
    x: jax.Array,
    kernel: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    stride: int = 1,
    *,
    pool: bool = False,
    eps: float = 1e-5,
) -> jax.Array:
    """`batch_norm(conv(x, kernel, stride), scale, bias, eps)`, and `max_pool` of it with `pool`.

    Of images, which have few channels, the statistics are found without the map. A convolution is a
    product of the images' windows p (`[kh * kw * c]` each) with the kernel's columns, and so its
    mean and variance are quadratic forms in the mean m and the covariance C of the windows, which
    do not depend on the kernel:

        mean_f = m . kernel_f,   var_f = kernel_f . C kernel_f,   r_f = scale_f / sqrt(var_f + eps)

    The normalisation is then part of the kernel and of a bias,

        y = pool(conv(x, kernel * r)) + (bias - mean * r)

    and every derivative of it, of any order, is one of arrays as small as the kernel. No pass over
    the map is left but the product's and the pool's, and with `pool` the map itself is kept
    nowhere: on CPU a block of images is convolved and pooled at a time.

    Where the images hardly vary in the direction of a kernel, so that var is a small difference of
    large products, it is less exact than from the map: in float32 by 1e-6 of itself for random
    kernels on CIFAR-100, and by 2e-4 for a second difference in both directions and over colours.

    Args:
      x: The images or maps `[n, h, w, c]`, of any floating dtype. With more than 4 channels the map
        is made and normalised.
      kernel: The kernel `[kh, kw, c, f]`, with odd kh and kw and the dtype of `x`.
      scale: The factor of each channel `[f]`.
      bias: What is added to each channel `[f]`.
      stride: The stride of both axes, a static integer from 1.
      pool: Whether the maximum of each 2 x 2 window follows.
      eps: The number added to the variance before its square root is taken.

    Returns:
      An array `[n, ceil(h / stride), ceil(w / stride), f]`; with `pool` half as high and wide.

    Raises:
      ValueError: As `conv`, `batch_norm` and `max_pool` do.

    >>> import jax, jax.numpy as jnp
    >>> images, kernel = (
    ...     jax.random.normal(jax.random.key(i), shape)
    ...     for i, shape in enumerate([(5, 8, 8, 3), (3, 3, 3, 2)])
    ... )
    >>> folded = conv_batch_norm(images, kernel, jnp.ones(2), jnp.zeros(2))
    >>> plain = batch_norm(conv(images, kernel), jnp.ones(2), jnp.zeros(2))
    >>> bool(jnp.allclose(folded, plain, atol=1e-5))
    True
    """
    if x.shape[-1] > _FEW:
        norm = batch_norm_max_pool if pool else batch_norm
        return norm(conv(x, kernel, stride), scale, bias, eps)
    out = jax.eval_shape(lambda x, kernel: conv(x, kernel, stride), x, kernel)  # and its checks
    check_scale_and_bias(out, scale, bias)
    mean, covariance = _moments(x, (kernel.shape[0], kernel.shape[1]), stride)
    exact = mean.dtype
    columns = kernel.reshape(mean.size, -1).astype(exact)
    variance = jnp.sum(columns * _product(covariance, columns), 0)
    # Rounding may take it below 0.
    factor = scale.astype(exact) * lax.rsqrt(jnp.maximum(variance, 0) + eps)
    shift = bias.astype(exact) - _product(mean, columns)[0] * factor
    folded = kernel * factor.astype(x.dtype).reshape(1, 1, 1, -1)
    shift = shift.astype(x.dtype).reshape(1, 1, 1, -1)
    if not pool:
        return conv(x, folded, stride) + shift
    bytes_of_a_map = out.size // len(x) * out.dtype.itemsize
    y = _by_blocks(lambda x: max_pool(conv(x, folded, stride)), x, bytes_of_a_map)
    return y.reshape(len(x), *y.shape[2:]) + shift


def _moments(x, size, stride):
    """Mean `[1, k]` and covariance `[k, k]` of the windows of all images, in float32 or better."""

    exact = x.dtype if x.dtype.itemsize >= 4 else jnp.float32

    def of_a_block(x):
        rows = windows(x, size, stride)
        rows = rows.reshape(-1, rows.shape[-1]).astype(exact)
        return _mean_and_covariance(rows)

    window = size[0] * size[1] * x.shape[3] * x.dtype.itemsize
    bytes_of_windows = window * x.shape[1] * x.shape[2] // stride**2
    means, covariances = _by_blocks(of_a_block, x, bytes_of_windows)
    # Blocks are of one size, and so what is between them adds to the mean of what is within.
    mean, between = _mean_and_covariance(means[:, 0])
    return mean, jnp.mean(covariances, 0) + between


def _mean_and_covariance(rows):
    mean = jnp.mean(rows, 0, keepdims=True)
    apart = rows - mean
    return mean, _product(apart.T, apart) / len(rows)


def _product(left, right):
    return jnp.matmul(left, right, precision=lax.Precision.HIGHEST)  # never TF32 or bfloat16


def _by_blocks(function: Callable[[jax.Array], Any], x: jax.Array, image_bytes: int) -> Any:
    """What a function of images gives for each block of them: on CPU one after the other, such that
    what it makes of a block fits in the cache; elsewhere there is one block."""
    on_cpu = jax.default_backend() == "cpu"
    blocks = equal_blocks(len(x), image_bytes, _BLOCK_BYTES) if on_cpu else 1
    if blocks == 1:
        return jax.tree.map(lambda y: y[None], function(x))
    return lax.map(function, x.reshape(blocks, -1, *x.shape[1:]))
