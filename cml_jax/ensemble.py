"""Several networks of one kind as one network."""

import jax

from cml_jax.types import Model


def ensemble(model: Model, size: int) -> Model:
    """Networks of one kind with parameters of their own, whose answer is the mean of theirs.

        outputs = 1 / M sum_m outputs_m

    Args:
      model: The network, or a co-learner.
      size: Their number M, at least 1.

    Returns:
      A `Model` whose parameters are those of `model`, stacked: leaves `[M, ...]`. They are drawn
      independently. Its features are stacked as well.

    Raises:
      ValueError: When size is below 1.

    >>> import jax
    >>> from cml_jax.models import linear_co_learner
    >>> three = ensemble(linear_co_learner(), 3)
    >>> params = three.init(jax.random.key(0), jax.numpy.zeros((5, 40)))
    >>> [leaf.shape for leaf in jax.tree.leaves(params)]
    [(3, 1), (3, 40, 1)]
    >>> three.apply(params, jax.numpy.zeros((5, 40)))[0].shape
    (5, 1)
    """
    if size < 1:
        raise ValueError(f"{size=}: an ensemble has at least 1 member, raise it")

    def init(key, inputs):
        return jax.vmap(model.init, (0, None))(jax.random.split(key, size), inputs)

    def apply(params, inputs):
        outputs, features = jax.vmap(model.apply, (0, None))(params, inputs)
        return jax.tree.map(lambda x: x.mean(0), outputs), features

    return Model(init, apply)
