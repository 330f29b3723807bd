"""The weight of each task in a meta-batch: functions `displacements -> weights [T]`."""

import jax
import jax.numpy as jnp
import numpy as np

from cml_jax.types import PyTree


def uniform(displacements: PyTree) -> jax.Array:
    """The same weight for all tasks, with which the outer loss is the mean over tasks.

        w_i = 1 / T

    Args:
      displacements: A tree with leaves `[T, ...]`; only the number of tasks T is read.

    Returns:
      The weights `[T]`, float32 (float64 for float64 displacements).

    >>> import jax.numpy as jnp
    >>> print(uniform({"head": jnp.zeros((4, 3))}))
    [0.25 0.25 0.25 0.25]
    """
    leaf = jax.tree.leaves(displacements)[0]
    return jnp.full(leaf.shape[:1], 1 / leaf.shape[0], np.promote_types(leaf.dtype, np.float32))


def gradient_agreement(
    displacements: PyTree,
    *,
    share: jax.typing.ArrayLike = 1.0,
    normalized: bool = False,
    cut: bool = False,
    matched: bool = False,
) -> jax.Array:
    """Weights by how well the update of each task agrees with the updates of all tasks.

        w_i = sum_j g_i.g_j / sum_k |sum_j g_k.g_j| = g_i.s / sum_k |g_k.s|,   s = sum_j g_j

    The absolute weights sum to one, so equal displacements have the weight 1 / T, and learning
    rates carry over from the mean. A task that disagrees with the batch has a negative weight: the
    outer loop climbs its loss. A common factor of all g does not matter. Where the denominator is
    zero up to rounding (displacements that cancel, or are all zero), the weights are uniform.

    The second form is computed: O(T * parameters) without a T x T matrix, and on a sharded task
    axis one all-reduce of s and one of a scalar.

    The weights are constants of the outer loop (stop_gradient), as the paper's derivation (eqs.
    9-13) treats them without saying so.

    The options are ours. `share` is lambda in lambda w_i + (1 - lambda) / T, a blend with the
    mean. `normalized` compares `g_i / |g_i|`, so that tasks with long updates do not decide what
    the others agree with. `cut` sets negative weights to zero, before dividing by their sum.
    `matched` then makes the weighted sum as long as the mean, `w_i |s| / (T |sum_j w_j g_j|)`: it
    differs from the mean in its direction alone, and the absolute weights no longer sum to one.

    Args:
      displacements: What each task moved away from, `g_i = theta - theta_i`: a tree with leaves
        `[T, ...]`, of the parameters that adapt.
      share: lambda, from 0 (the mean) to 1 (the paper's weights); may be traced.
      normalized: Whether displacements are divided by their norms.
      cut: Whether negative weights are set to zero.
      matched: Whether the weighted sum of the displacements is as long as their mean.

    Returns:
      The weights `[T]`, float32 (float64 for float64 displacements).

    Reference: Eshratifar et al. 2018, https://arxiv.org/abs/1810.08178, eq. 8.

    The first two of these tasks agree; the third one disagrees with them:

    >>> import jax.numpy as jnp
    >>> tasks = {"head": jnp.array([[2.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])}
    >>> print(gradient_agreement(tasks))
    [ 0.5   0.25 -0.25]
    >>> print(gradient_agreement({"head": jnp.array([[3.0], [1.0], [-1.0]])}, cut=True))
    [0.75 0.25 0.  ]
    >>> print(gradient_agreement({"head": jnp.array([[2.0], [2.0]])}, share=0.5))
    [0.5 0.5]
    """
    leaves = jax.tree.leaves(jax.lax.stop_gradient(displacements))
    num_tasks = leaves[0].shape[0]
    # NumPy's promotion: that of jax refuses two dtypes where the user has made it strict.
    agreement = jnp.zeros((num_tasks,), np.promote_types(leaves[0].dtype, np.float32))
    flat = given = [leaf.reshape(num_tasks, -1).astype(agreement.dtype) for leaf in leaves]
    if normalized:
        norms = jnp.sqrt(sum(jnp.square(g).sum(1, keepdims=True) for g in flat))
        flat = [g / jnp.where(norms > 0, norms, 1) for g in flat]
    squares = jnp.zeros((), agreement.dtype)
    for g in flat:
        # An elementwise product and a sum: a matrix-vector product may round to bfloat16 or TF32.
        agreement += (g * g.sum(0, keepdims=True)).sum(1)
        squares += jnp.square(g).sum()
    if cut:
        agreement = jnp.maximum(agreement, 0)
    total = jnp.abs(agreement).sum()
    # Where displacements cancel, what rounding leaves of them says nothing about agreement.
    agrees = total > num_tasks * jnp.finfo(agreement.dtype).eps * squares
    weights = jnp.where(agrees, agreement / jnp.where(agrees, total, 1), 1 / num_tasks)
    if not (isinstance(share, int | float) and share == 1):
        share = jnp.asarray(share, weights.dtype)
        weights = share * weights + (1 - share) / num_tasks
    if matched:
        mean, weighted = (
            jnp.sqrt(sum(jnp.square((w[:, None] * g).sum(0)).sum() for g in given))
            for w in (jnp.full_like(weights, 1 / num_tasks), weights)
        )
        weights *= jnp.where(weighted > 0, mean / jnp.where(weighted > 0, weighted, 1), 1)
    return weights
