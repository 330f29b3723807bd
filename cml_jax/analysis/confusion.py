"""Which classes are taken for which."""

import jax
import jax.numpy as jnp

from cml_jax.losses import check_classes


def confusion_matrix(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """How many examples of each class are taken for each.

        c_ij = |{n: targets_n = i, argmax(outputs_n) = j}|

    Args:
      outputs: The logits `[n, ways]`.
      targets: The class of each example `[n]`, integers from 0 to ways - 1.

    Returns:
      int32 `[ways, ways]`, rows the true classes.

    Raises:
      ValueError: When known targets are not from 0 to ways - 1; traced ones are not counted.

    >>> import jax.numpy as jnp
    >>> logits = jnp.array([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0]])
    >>> print(confusion_matrix(logits, jnp.array([0, 1, 1])))
    [[1 0]
     [1 1]]
    """
    check_classes(outputs, targets)
    ways = outputs.shape[-1]
    true, taken = (jax.nn.one_hot(x, ways, dtype=jnp.int32) for x in (targets, outputs.argmax(-1)))
    return true.T @ taken
