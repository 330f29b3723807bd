"""How much each task of a meta-batch counts: functions `displacements -> weights [T]`."""

import jax
import jax.numpy as jnp
import numpy as np

from cml_jax.types import PyTree


def uniform(displacements: PyTree) -> jax.Array:
    """Every task the same, `w_i = 1 / T`: the outer loss is the mean over tasks.

    Args:
      displacements: a tree with leaves `[T, ...]`; only T is read.

    Returns:
      `[T]` float32 (float64 for float64 displacements).
    """
    leaf = jax.tree.leaves(displacements)[0]
    return jnp.full(leaf.shape[:1], 1 / leaf.shape[0], np.promote_types(leaf.dtype, np.float32))


def gradient_agreement(displacements: PyTree) -> jax.Array:
    """Weights by how far each task's update agrees with the update of all.

        w_i = sum_j g_i.g_j / sum_k |sum_j g_k.g_j| = g_i.s / sum_k |g_k.s|,   s = sum_j g_j

    computed in the second form: O(T * parameters), no T x T matrix, and on a sharded task axis one
    all-reduce of s and one of a scalar. `sum_i |w_i| = 1`, so equal displacements give 1 / T and
    learning rates carry over from the mean; a task that disagrees with the batch gets a negative
    weight (the outer loop climbs its loss). Invariant to a common scaling of g. Where the
    denominator vanishes up to rounding (displacements that cancel, or none), the weights are
    uniform.

    The weights are constants of the outer loop: the paper's derivation (eqs. 9-13) treats them as
    such without saying so, hence stop_gradient here.

    Args:
      displacements: a tree with leaves `[T, ...]`: `g_i = theta - theta_i`, adapted leaves only.

    Returns:
      `[T]` float32 (float64 for float64 displacements).

    Reference: Eshratifar et al. 2018, https://arxiv.org/abs/1810.08178, eq. 8.
    """
    leaves = jax.tree.leaves(jax.lax.stop_gradient(displacements))
    num_tasks = leaves[0].shape[0]
    # numpy's promotion: jax's refuses two dtypes where the user made it strict.
    agreement = jnp.zeros((num_tasks,), np.promote_types(leaves[0].dtype, np.float32))
    squares = jnp.zeros((), agreement.dtype)
    for leaf in leaves:
        g = leaf.reshape(num_tasks, -1).astype(agreement.dtype)
        # An elementwise product and a sum: a matrix-vector product may round to bfloat16 or TF32.
        agreement += (g * g.sum(0, keepdims=True)).sum(1)
        squares += jnp.square(g).sum()
    total = jnp.abs(agreement).sum()
    # What rounding alone leaves of displacements that cancel says nothing about agreement.
    agrees = total > num_tasks * jnp.finfo(agreement.dtype).eps * squares
    return jnp.where(agrees, agreement / jnp.where(agrees, total, 1), 1 / num_tasks)
