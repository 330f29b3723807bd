"""How tasks agree, and what a weighted sum over them does to the step."""

import jax
import jax.numpy as jnp

from cml_jax.types import PyTree


def task_norms(displacements: PyTree) -> jax.Array:
    """How far each task moves: `|d_t|`.

    Args:
      displacements: A tree with leaves `[T, ...]`, such as `task_gradients(...).displacements`.

    Returns:
      `[T]`.
    """
    return jnp.sqrt(jnp.diagonal(_products(displacements)))


def task_cosines(displacements: PyTree) -> jax.Array:
    """The cosines between the displacements of all pairs of tasks.

        c_ij = d_i . d_j / (|d_i| |d_j|)

    Args:
      displacements: A tree with leaves `[T, ...]`.

    Returns:
      `[T, T]`; NaN in the row and the column of a task that does not move.

    >>> import jax.numpy as jnp
    >>> print(task_cosines({"head": jnp.array([[2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])}))
    [[ 1.  0. -1.]
     [ 0.  1.  0.]
     [-1.  0.  1.]]
    """
    products = _products(displacements)
    norms = jnp.sqrt(jnp.diagonal(products))
    return products / (norms[:, None] * norms[None])


def weighted_step(displacements: PyTree, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What weights do to the step of the outer loop, beside the mean over tasks.

        length = |sum_t w_t d_t| / |mean_t d_t|,   cosine = cos(sum_t w_t d_t, mean_t d_t)

    Args:
      displacements: A tree with leaves `[T, ...]`. The step is theirs under Reptile; give
        `task_gradients(...).gradients` for the step of methods whose outer loop sums gradients.
      weights: The tasks' weights `[T]`, such as `gradient_agreement(displacements)`.

    Returns:
      `(length, cosine)`, scalars; not finite where the mean is zero, NaN where the sum is.

    >>> import jax.numpy as jnp
    >>> length, cosine = weighted_step({"head": jnp.eye(2)}, jnp.array([0.5, -0.5]))
    >>> print(length, cosine)
    1.0 0.0
    """
    products = _products(displacements)
    uniform = jnp.full(weights.shape, 1 / len(weights), products.dtype)
    weights = weights.astype(products.dtype)

    def dot(a, b):
        return jnp.sum(a[:, None] * products * b[None])

    mean, weighted = jnp.sqrt(dot(uniform, uniform)), jnp.sqrt(dot(weights, weights))
    return weighted / mean, dot(weights, uniform) / (weighted * mean)


def _products(displacements):
    """The inner products of all pairs of tasks, `[T, T]`."""
    flat = [leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(displacements)]
    return sum(jnp.matmul(d, d.T, precision=jax.lax.Precision.HIGHEST) for d in flat)
