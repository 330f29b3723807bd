"""Losses and metrics: means over the examples of one batch."""

import chex
import jax
import jax.numpy as jnp
import optax


def cross_entropy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Softmax cross-entropy, `mean_i -log softmax(outputs_i)[targets_i]`, in nats.

    Args:
      outputs: logits `[n, ways]`, floating.
      targets: class indices `[n]`, integer.

    Returns:
      A scalar of the dtype of `outputs`.

    Raises:
      AssertionError: when a shape or dtype differs; it names the argument.
    """
    _check_classes(outputs, targets)
    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets).mean()


def squared_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean squared error, `mean |outputs - targets|^2` (no factor 1/2), over all elements.

    Args:
      outputs: `[n, ...]`, floating.
      targets: the same shape and dtype.

    Returns:
      A scalar.

    Raises:
      AssertionError: when the shapes or dtypes differ.
    """
    message = "outputs and targets of squared_error must have the same shape and a floating dtype"
    chex.assert_equal_shape([outputs, targets], custom_message=message)
    chex.assert_type([outputs, targets], float, custom_message=message)
    return jnp.mean(jnp.square(outputs - targets))


def accuracy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """The share of examples whose largest logit is at the target, float32 in [0, 1].

    Args:
      outputs: logits `[n, ways]`, floating.
      targets: class indices `[n]`, integer.

    Raises:
      AssertionError: when a shape or dtype differs; it names the argument.
    """
    _check_classes(outputs, targets)
    predicted = outputs.argmax(-1)
    return jnp.mean(predicted == targets.astype(predicted.dtype), dtype=jnp.float32)


def _check_classes(outputs, targets):
    chex.assert_rank(outputs, 2, custom_message="outputs must be logits [n, ways]")
    chex.assert_shape(targets, outputs.shape[:1], custom_message="targets must be [n] like outputs")
    chex.assert_type(outputs, float, custom_message="outputs must be floating")
    chex.assert_type(targets, int, custom_message="targets must be integer class indices")
