"""Batch normalisation with the statistics of the batch."""

import jax
import jax.numpy as jnp


def batch_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float = 1e-5) -> jax.Array:
    """Batch normalisation with the mean and variance of the batch at hand.

        y = (x - mean) / sqrt(var + eps) * scale + bias

    Mean and (biased) variance of each channel are those of `x` over all axes but the last, in
    training and at test. Nothing is stored: what a task sees is that task's own batch.

    Args:
      x: The activations `[..., c]`, of any floating dtype.
      scale: The factor of each channel `[c]`.
      bias: What is added to each channel `[c]`.
      eps: The number added to the variance before its square root is taken.

    Returns:
      An array `[..., c]` of the dtype of `x`.

    Raises:
      ValueError: When scale or bias do not have one number for each channel of `x`.

    Reference: Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167, algorithm 1.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([[1.0, 10.0], [3.0, 30.0]])
    >>> print(batch_norm(x, scale=jnp.ones(2), bias=jnp.array([0.0, 5.0])).round())
    [[-1.  4.]
     [ 1.  6.]]
    """
    if scale.shape != x.shape[-1:] or bias.shape != x.shape[-1:]:
        raise ValueError(
            f"x of shape {x.shape} with a scale of shape {scale.shape} and a bias of shape "
            f"{bias.shape}: give both one number for each of the {x.shape[-1]} channels"
        )
    axes = tuple(range(x.ndim - 1))
    mean = jnp.mean(x, axes, keepdims=True)
    centred = x - mean
    variance = jnp.mean(jnp.square(centred), axes, keepdims=True)
    per_channel = (1,) * (x.ndim - 1) + (-1,)
    factor = jax.lax.rsqrt(variance + eps) * scale.reshape(per_channel)
    return centred * factor + bias.reshape(per_channel)
