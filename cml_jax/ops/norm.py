"""Batch normalisation with the statistics of the batch."""

import jax
import jax.numpy as jnp


def batch_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float = 1e-5) -> jax.Array:
    """Normalises each channel over the batch: `(x - mean) / sqrt(var + eps) * scale + bias`.

    Mean and (biased) variance are those of `x` over all axes but the last, in training and in
    evaluation: nothing is stored, so what a task sees is that task's own batch.

    Args:
      x: `[..., c]`, any float dtype.
      scale: `[c]`.
      bias: `[c]`.
      eps: added to the variance.

    Returns:
      `[..., c]`, x's dtype.

    Reference: Ioffe and Szegedy (2015), https://arxiv.org/abs/1502.03167, algorithm 1.
    """
    axes = tuple(range(x.ndim - 1))
    mean = jnp.mean(x, axes, keepdims=True)
    centred = x - mean
    variance = jnp.mean(jnp.square(centred), axes, keepdims=True)
    per_channel = (1,) * (x.ndim - 1) + (-1,)
    factor = jax.lax.rsqrt(variance + eps) * scale.reshape(per_channel)
    return centred * factor + bias.reshape(per_channel)
