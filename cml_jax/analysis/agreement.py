"""How tasks agree, and what a weighted sum over them does to the step."""

import jax
import jax.numpy as jnp

from cml_jax.types import PyTree

_EXACT = jax.lax.Precision.HIGHEST  # never TF32 or bfloat16


def task_norms(displacements: PyTree) -> jax.Array:
    """How far each task moves: `|d_t|`.

    Args:
      displacements: A tree with leaves `[T, ...]`, such as `task_gradients(...).displacements`.

    Returns:
      `[T]`.
    """
    squares = [jnp.square(d).sum(1) for d in _flat(displacements)]
    return jnp.sqrt(jax.tree.reduce(jnp.add, squares))


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
    products = [jnp.matmul(d, d.T, precision=_EXACT) for d in _flat(displacements)]
    norms = task_norms(displacements)
    return jax.tree.reduce(jnp.add, products) / (norms[:, None] * norms[None])


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
    leaves = _flat(displacements)
    mean = [d.mean(0) for d in leaves]
    weighted = [jnp.matmul(weights.astype(d.dtype), d, precision=_EXACT) for d in leaves]

    def dot(x, y):
        return jax.tree.reduce(jnp.add, [jnp.sum(a * b) for a, b in zip(x, y, strict=True)])

    lengths = jnp.sqrt(dot(weighted, weighted)), jnp.sqrt(dot(mean, mean))
    return lengths[0] / lengths[1], dot(weighted, mean) / (lengths[0] * lengths[1])


def _flat(displacements):
    """The leaves, each as `[T, size]`."""
    return [leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(displacements)]
