"""Losses and metrics: means over the examples of one batch."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import core


def cross_entropy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Softmax cross-entropy of class indices, in nats.

        mean_i -log softmax(outputs_i)[targets_i]

    Args:
      outputs: The logits `[n, ways]`, floating.
      targets: The class of each example `[n]`, integers from 0 to ways - 1. Other values raise an
        error where they are known, and where they are traced, as in a compiled program, they make
        the loss and its gradient NaN.

    Returns:
      A scalar of the dtype of `outputs`.

    Raises:
      AssertionError: When a shape or a dtype is wrong; the message names the argument.
      ValueError: When known targets are not from 0 to ways - 1.

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.125, 0.125, 0.75]]))
    >>> print(cross_entropy(logits, jnp.array([0, 2])).round(4))  # -(log 1/2 + log 3/4) / 2
    0.4904
    """
    valid = check_classes(outputs, targets)
    if valid is not None:
        targets = jnp.where(valid, targets, 0)
    logits = jnp.take_along_axis(outputs, targets[:, None], 1).take(0, 1)
    if valid is not None:
        # Here a factor of 1 changes no bit of a training run; on all logits or the loss it does.
        logits = logits * jnp.where(valid, 1, jnp.nan).astype(outputs.dtype)
    return (jax.nn.logsumexp(outputs, 1, keepdims=True).take(0, 1) - logits).mean()


def squared_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean squared error over all elements, without a factor 1/2.

        mean |outputs - targets|^2

    Args:
      outputs: The predictions `[n, ...]`, floating.
      targets: The values to predict, of the same shape and dtype.

    Returns:
      A scalar.

    Raises:
      AssertionError: When the shapes differ or a dtype is not floating.

    >>> import jax.numpy as jnp
    >>> print(squared_error(jnp.array([[1.0], [2.0]]), jnp.array([[0.0], [4.0]])))
    2.5
    """
    message = "outputs and targets of squared_error must have the same shape and a floating dtype"
    chex.assert_equal_shape([outputs, targets], custom_message=message)
    chex.assert_type([outputs, targets], float, custom_message=message)
    return jnp.mean(jnp.square(outputs - targets))


def accuracy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """The share of examples whose largest logit is that of their class.

        mean_i [argmax(outputs_i) = targets_i]

    Args:
      outputs: The logits `[n, ways]`, floating.
      targets: The class of each example `[n]`, integers from 0 to ways - 1. Other values raise an
        error where they are known, and make the result NaN where they are traced.

    Returns:
      A float32 scalar in [0, 1].

    Raises:
      AssertionError: When a shape or a dtype is wrong; the message names the argument.
      ValueError: When known targets are not from 0 to ways - 1.

    >>> import jax.numpy as jnp
    >>> print(accuracy(jnp.array([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0]]), jnp.array([0, 1, 1])))
    0.6666667
    """
    valid = check_classes(outputs, targets)
    predicted = outputs.argmax(-1)
    share = jnp.mean(predicted == targets.astype(predicted.dtype), dtype=jnp.float32)
    return share if valid is None else jnp.where(valid.all(), share, jnp.nan)


def check_classes(outputs, targets):
    """Which traced targets are classes of `outputs`, bool `[n]`; None for known ones, which are."""
    chex.assert_rank(outputs, 2, custom_message="outputs must be logits [n, ways]")
    chex.assert_shape(targets, outputs.shape[:1], custom_message="targets must be [n] like outputs")
    chex.assert_type(outputs, float, custom_message="outputs must be floating")
    chex.assert_type(targets, int, custom_message="targets must be integer class indices")
    ways = outputs.shape[1]
    if isinstance(targets, core.Tracer):
        # In their own dtype, which may be too small to hold `ways`.
        last = min(ways - 1, int(jnp.iinfo(targets.dtype).max))
        return (targets >= 0) & (targets <= last)
    if getattr(targets, "is_fully_addressable", True) and len(targets):
        known = np.asarray(targets)
        least, largest = int(known.min()), int(known.max())
        if least < 0 or largest >= ways:
            raise ValueError(
                f"targets range from {least} to {largest} but outputs have {ways} classes, 0 to "
                f"{ways - 1}: number the classes of each task from 0, as by np.searchsorted("
                "np.unique(labels), labels) over the labels of support and query together"
            )
    return None
