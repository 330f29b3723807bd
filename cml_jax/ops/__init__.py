"""Convolution, product, pool and norm, whose derivatives decide the speed of meta-learning."""

from cml_jax.ops.conv import conv
from cml_jax.ops.conv_norm import conv_batch_norm
from cml_jax.ops.dense import dense
from cml_jax.ops.norm import batch_norm, batch_norm_max_pool
from cml_jax.ops.pool import max_pool
from cml_jax.ops.primitive import linear_primitive

__all__ = [
    "batch_norm",
    "batch_norm_max_pool",
    "conv",
    "conv_batch_norm",
    "dense",
    "linear_primitive",
    "max_pool",
]
