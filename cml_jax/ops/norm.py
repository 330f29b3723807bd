"""Batch normalisation with the statistics of the batch."""

import jax
import jax.numpy as jnp

from cml_jax.ops.pool import max_pool


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
    check_scale_and_bias(x, scale, bias)
    mean, centred, variance = _moments(x)
    return centred * _factor(variance, scale, eps) + bias.reshape(mean.shape)


def batch_norm_max_pool(
    x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float = 1e-5
) -> jax.Array:
    """`max_pool(batch_norm(x, scale, bias, eps))`, where the pool comes first.

    The statistics are those of all of `x`. What follows is monotone in each channel, rising or, for
    a negative scale, falling, so that it maps the largest (or the least) entry of a window to the
    largest one:

        y = (x[place] - mean) / sqrt(var + eps) * scale + bias,   place = argmax of sign(scale) x

    The derivatives then sum over a quarter of the entries, and backwards the whole map is read once
    and written once. Values are the same bit for bit. Of entries that differ and whose normalised
    values are equal, as all are for a scale of 0, the largest gets the gradient.

    Args:
      x: The maps `[n, h, w, c]`, of any floating dtype, h and w at least 2.
      scale: The factor of each channel `[c]`.
      bias: What is added to each channel `[c]`.
      eps: The number added to the variance before its square root is taken.

    Returns:
      An array `[n, h // 2, w // 2, c]` of the dtype of `x`.

    Raises:
      ValueError: As `batch_norm` and `max_pool` do.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([[1.0, 2.0, 0.0, 5.0], [4.0, 3.0, 1.0, 1.0]]).reshape(1, 2, 4, 1)
    >>> pooled = batch_norm_max_pool(x, jnp.ones(1), jnp.zeros(1))
    >>> print((pooled == max_pool(batch_norm(x, jnp.ones(1), jnp.zeros(1)))).all())
    True
    """
    check_scale_and_bias(x, scale, bias)
    mean, _, variance = _moments(x)
    sign = jnp.where(scale < 0, -1, 1).astype(x.dtype).reshape(mean.shape)
    pooled = max_pool(x * sign) * sign
    return (pooled - mean) * _factor(variance, scale, eps) + bias.reshape(mean.shape)


def check_scale_and_bias(
    x: jax.Array | jax.ShapeDtypeStruct, scale: jax.Array, bias: jax.Array
) -> None:
    """Raises a ValueError where these do not have one number for each channel of `x`.

    Args:
      x: The activations `[..., c]`, or their shape.
      scale: The factor of each channel `[c]`.
      bias: What is added to each channel `[c]`.
    """
    if scale.shape != x.shape[-1:] or bias.shape != x.shape[-1:]:
        raise ValueError(
            f"x of shape {x.shape} with a scale of shape {scale.shape} and a bias of shape "
            f"{bias.shape}: give both one number for each of the {x.shape[-1]} channels"
        )


def _moments(x):
    """Mean, what is left without it, and variance, of each channel: `[1, ..., 1, c]`."""
    axes = tuple(range(x.ndim - 1))
    mean = jnp.mean(x, axes, keepdims=True)
    centred = x - mean
    return mean, centred, jnp.mean(jnp.square(centred), axes, keepdims=True)


def _factor(variance, scale, eps):
    return jax.lax.rsqrt(variance + eps) * scale.reshape(variance.shape)
