"""Gradients layer by layer: do two of them agree, and how large are they after adaptation?"""

import jax
import jax.numpy as jnp

from cml_jax.types import Adapted, Batch, Loss, Method, Params, PyTree


def with_query_loss(method: Method, loss: Loss) -> Method:
    """`method` whose outer objective is the loss of its own prediction on the query set.

        objective = L_query(predict(adapted))

    `task_gradients` of it is the outer gradient of whoever predicts: of the meta-learner for
    `maml(...)`, and of the co-learner for `cml_dagger_released(maml(...), co_learner)`. These two
    are what figure 3b of the CML paper compares.

    Args:
      method: Any method.
      loss: A function `(outputs, targets) -> scalar`.

    Returns:
      A `Method`, which reports "loss".
    """

    def objective(params, adapted, query, prediction=None):
        del params
        outputs, _ = prediction or method.predict(adapted, query.inputs)
        value = loss(outputs, query.targets)
        return value, {"loss": value}

    return method._replace(objective=objective)


def gradient_after_adaptation(method: Method, loss: Loss, adapted: Adapted, batch: Batch) -> Params:
    """The gradient that is left at the adapted parameters of one task.

        grad_theta' L_batch(predict(theta'))

    Args:
      method: Any method.
      loss: A function `(outputs, targets) -> scalar`.
      adapted: What `method.adapt` returned.
      batch: The support set or the query set of the task.

    Returns:
      A tree like `adapted.params`.

    Reference: Shin et al. 2024, https://arxiv.org/abs/2406.04639, figure 3c, with `layer_norms`.
    """

    def batch_loss(params):
        outputs, _ = method.predict(adapted._replace(params=params), batch.inputs)
        return loss(outputs, batch.targets)

    return jax.grad(batch_loss)(adapted.params)


def by_layer(tree: PyTree, *, weights_only: bool = False, batch_axes: int = 0) -> dict:
    """The arrays of a tree of parameters, gathered by layer.

    A layer is what one module holds, such as kernel and bias: the leaves whose paths differ in the
    last part alone. It is named by the rest of the path, such as "body/Dense_0".

    Args:
      tree: Parameters or gradients, any tree of arrays.
      weights_only: True leaves out vectors and scalars, which are biases and the scales of
        normalisation, and so layers that have nothing else.
      batch_axes: The number of leading axes that are not the parameters' own, such as 1 for tasks.

    Returns:
      A dict from the layer's name to the list of its arrays.

    >>> import jax.numpy as jnp
    >>> tree = {"body": {"Dense_0": {"bias": jnp.zeros(3), "kernel": jnp.zeros((2, 3))}}}
    >>> {name: len(leaves) for name, leaves in by_layer(tree).items()}
    {'body/Dense_0': 2}
    >>> {name: len(leaves) for name, leaves in by_layer(tree, weights_only=True).items()}
    {'body/Dense_0': 1}
    """
    layers: dict[str, list] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if weights_only and jnp.ndim(leaf) - batch_axes < 2:
            continue
        name = jax.tree_util.keystr(path[:-1], simple=True, separator="/")
        layers.setdefault(name, []).append(leaf)
    return layers


def layer_norms(gradients: PyTree, *, weights_only: bool = False) -> dict[str, jax.Array]:
    """The norm of each layer's gradient in every task.

        |g_l|_2

    Args:
      gradients: A tree with leaves `[T, ...]`.
      weights_only: True ignores biases and scales, as the figure does.

    Returns:
      A dict from the layer (see `by_layer`) to `[T]`.

    Reference: Shin et al. 2024, https://arxiv.org/abs/2406.04639, figure 3c.
    """
    layers = by_layer(gradients, weights_only=weights_only, batch_axes=1)
    return {name: jnp.sqrt(_dot(leaves, leaves)) for name, leaves in layers.items()}


def layer_cosines(
    gradients: PyTree, others: PyTree, *, weights_only: bool = False
) -> dict[str, jax.Array]:
    """The cosine between two gradients in each layer, for every task.

        g_l . h_l / (|g_l| |h_l|)

    Args:
      gradients: A tree with leaves `[T, ...]`, such as the meta-learner's gradients of the body.
      others: A tree like it, such as the co-learner's.
      weights_only: True ignores biases and scales.

    Returns:
      A dict from the layer (see `by_layer`) to `[T]`; NaN where one of the two gradients is zero.

    Reference: Shin et al. 2024, https://arxiv.org/abs/2406.04639, figure 3b.

    >>> import jax.numpy as jnp
    >>> g = {"body": {"kernel": jnp.array([[1.0, 0.0], [3.0, 4.0]])}}
    >>> h = {"body": {"kernel": jnp.array([[0.0, 2.0], [6.0, 8.0]])}}
    >>> print(layer_cosines(g, h)["body"])
    [0. 1.]
    """
    pairs = [by_layer(g, weights_only=weights_only, batch_axes=1) for g in (gradients, others)]
    return {
        name: _dot(g, pairs[1][name])
        / (jnp.sqrt(_dot(g, g)) * jnp.sqrt(_dot(pairs[1][name], pairs[1][name])))
        for name, g in pairs[0].items()
    }


def all_positive(cosines: dict[str, jax.Array]) -> jax.Array:
    """Whether the gradients agree in every layer: the condition of CML's theorem.

        g_l . h_l > 0   for every layer l

    Then g + gamma h is a descent direction of the loss whose gradient is g, for any gamma > 0.

    Args:
      cosines: What `layer_cosines` returned. A layer in which a gradient is zero (NaN) is passed
        over: it adds nothing to the inner product.

    Returns:
      Bools `[T]`.

    Reference: Shin et al. 2024, https://arxiv.org/abs/2406.04639, the theorem on gradient
    augmentation.
    """
    stacked = jnp.stack(list(cosines.values()))
    return jnp.all((stacked > 0) | jnp.isnan(stacked), axis=0)


def _dot(leaves, others):
    """`[T]`: the inner product over all the arrays `[T, ...]` of a layer."""
    return sum(jnp.sum((a * b).reshape(len(a), -1), 1) for a, b in zip(leaves, others, strict=True))
