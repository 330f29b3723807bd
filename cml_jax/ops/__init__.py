"""Convolution, pooling and normalisation, whose derivatives decide the speed of meta-learning."""

from cml_jax.ops.conv import conv
from cml_jax.ops.norm import batch_norm
from cml_jax.ops.pool import max_pool

__all__ = ["batch_norm", "conv", "max_pool"]
