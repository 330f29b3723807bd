"""Linen layers on `cml_jax.ops`, initialised as the papers' PyTorch code initialises them."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from cml_jax.ops import batch_norm, batch_norm_max_pool, conv_batch_norm, dense


def uniform_fan_in(fan_in: int) -> nn.initializers.Initializer:
    """Uniform in +-1/sqrt(fan_in): PyTorch's default for the weights *and* biases of a layer."""

    def init(key, shape, dtype=jnp.float32):
        bound = 1 / math.sqrt(fan_in)
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def check_images(images: jax.Array, network: str, smallest: int = 1, otherwise: str = "") -> None:
    """Refuses inputs that are not a batch of floating-point images, channels last.

    Channels first is recognised by a second axis of 1, 3 or 4 before two equal axes of 8 or more,
    or of 3 before two axes over 16 whose ratio is that of a photograph (below 2).

    Args:
      images: `[n, height, width, channels]`.
      network: What the message calls the network.
      smallest: The least height and width.
      otherwise: What else the message says can be done about small images.

    Raises:
      TypeError: When the dtype is not floating.
      ValueError: When the shape is not that of such images.
    """
    if images.ndim != 4:
        raise ValueError(
            f"inputs are {images.shape} but {network} reads images [n, height, width, channels]: "
            "reshape them, images[..., None] where there is one channel"
        )
    _check_floating(images, network)
    _, first, *last = images.shape
    square = first in (1, 3, 4) and last[0] == last[1] >= 8
    photograph = first == 3 and min(last) > 16 and max(last) < 2 * min(last)
    if square or photograph:
        raise ValueError(
            f"inputs are {images.shape}, which looks like [n, channels, height, width], but "
            f"{network} reads channels last: use jnp.moveaxis(images, -3, -1)"
        )
    if min(images.shape[1:3]) < smallest:
        raise ValueError(
            f"inputs are {images.shape}, images of {images.shape[1]} x {images.shape[2]} pixels, "
            f"but {network} halves them four times and needs {smallest} x {smallest} or more: give "
            f"larger images{otherwise}"
        )


def _check_floating(inputs, network):
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        raise TypeError(
            f"inputs are {inputs.dtype} but {network} reads floating-point numbers: cast them, and "
            "scale pixels, images.astype(jnp.float32) / 255"
        )


class Linear(nn.Module):
    """`inputs @ kernel + bias`, `[..., c]` to `[..., features]`."""

    features: int

    @nn.compact
    def __call__(self, inputs):
        if inputs.dtype == jnp.uint8:
            _check_floating(inputs, "a linear layer")  # before Flax casts pixels of 0 to 255
        init = uniform_fan_in(inputs.shape[-1])
        return nn.Dense(self.features, kernel_init=init, bias_init=init, dot_general=_product)(
            inputs
        )


def _product(inputs, kernel, dimension_numbers, precision=None):
    """`nn.Dense`'s product, which is always that of the last axis with the first."""
    del dimension_numbers, precision
    return dense(inputs, kernel)


class BatchNorm(nn.Module):
    """Batch normalisation that always uses the statistics of the batch at hand, eps 1e-5.

    Scale (1) and bias (0) are ordinary parameters, which the inner loop adapts. With `pool` a 2x2
    max-pool follows, in the same passes. With a kernel it is the convolution of the inputs that is
    normalised (`cml_jax.ops.conv_batch_norm`).
    """

    pool: bool = False

    @nn.compact
    def __call__(self, inputs, kernel=None, stride=1):
        shape = (inputs if kernel is None else kernel).shape[-1:]
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        if kernel is not None:
            return conv_batch_norm(inputs, kernel, scale, bias, stride, pool=self.pool)
        return (batch_norm_max_pool if self.pool else batch_norm)(inputs, scale, bias)


class ConvBlock(nn.Module):
    """3x3 convolution, batch norm, 2x2 max-pool if `pool`, and ReLU.

    Pooling comes before ReLU: they commute, and this saves three quarters of the ReLU's work.

    The convolution's bias is a parameter, as in the papers' parameter counts, but is not added:
    batch statistics cancel it, in the values and in every derivative.
    """

    features: int
    stride: int = 1
    pool: bool = False

    @nn.compact
    def __call__(self, inputs):
        _check_floating(inputs, "a convolution")
        shape = (3, 3, inputs.shape[-1], self.features)
        init = uniform_fan_in(9 * inputs.shape[-1])
        kernel = self.param("kernel", init, shape)
        self.param("bias", init, (self.features,))
        return nn.relu(BatchNorm(self.pool)(inputs, kernel, self.stride))
