"""Linen layers on `cml_jax.ops`, initialised as the papers' PyTorch code initialises them."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from cml_jax.ops import batch_norm, conv, max_pool


def uniform_fan_in(fan_in: int) -> nn.initializers.Initializer:
    """Uniform in +-1/sqrt(fan_in): PyTorch's default for the weights *and* biases of a layer."""

    def init(key, shape, dtype=jnp.float32):
        bound = 1 / math.sqrt(fan_in)
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Linear(nn.Module):
    """`inputs @ kernel + bias`, `[..., c]` to `[..., features]`."""

    features: int

    @nn.compact
    def __call__(self, inputs):
        init = uniform_fan_in(inputs.shape[-1])
        return nn.Dense(self.features, kernel_init=init, bias_init=init)(inputs)


class BatchNorm(nn.Module):
    """Batch normalisation that always uses the statistics of the batch at hand, eps 1e-5.

    Scale (1) and bias (0) are ordinary parameters: the inner loop adapts them.
    """

    @nn.compact
    def __call__(self, inputs):
        shape = inputs.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        return batch_norm(inputs, scale, bias)


class ConvBlock(nn.Module):
    """3x3 convolution, batch norm, and with `pool` 2x2 max-pool; ReLU comes last.

    Pooling before ReLU: they commute, and three quarters of the ReLU's work is saved.

    The convolution's bias is a parameter, as in the papers' parameter counts, but is not added:
    batch statistics cancel it, in the values and in every derivative.
    """

    features: int
    stride: int = 1
    pool: bool = False

    @nn.compact
    def __call__(self, inputs):
        shape = (3, 3, inputs.shape[-1], self.features)
        init = uniform_fan_in(9 * inputs.shape[-1])
        kernel = self.param("kernel", init, shape)
        self.param("bias", init, (self.features,))
        outputs = BatchNorm()(conv(inputs, kernel, self.stride))
        return nn.relu(max_pool(outputs) if self.pool else outputs)
