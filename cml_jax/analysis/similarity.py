"""How much adaptation changes what each layer says: linear CKA."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cml_jax.types import Model, PyTree


class Observed(NamedTuple):
    """The features of a model that `with_layers` has made.

    Attributes:
      features: What the body hands to the head.
      layers: The output of every layer by name, as `Model.layers` has it.
    """

    features: PyTree
    layers: dict[str, PyTree]


def with_layers(model: Model) -> Model:
    """`model` whose features are an `Observed`: features, and the output of every layer.

    `predict` of any method on this model gives the layers with its outputs, as the method reads
    them: with normalisation of a step's own, scaled or prepared inputs. Compiled, what nobody reads
    is not computed. A co-learner of such a model has to read `features.features`.

    Args:
      model: A network with `layers`.

    Returns:
      A `Model` with the same parameters and outputs.

    Raises:
      ValueError: When `model.layers` is None.

    >>> import jax, jax.numpy as jnp
    >>> from cml_jax.models import mlp
    >>> model = with_layers(mlp())
    >>> params = model.init(jax.random.key(0), jnp.zeros((5, 1)))
    >>> outputs, observed = model.apply(params, jnp.zeros((5, 1)))
    >>> list(observed.layers)
    ['body/Linear_0', 'body/Linear_1', 'body', 'head']
    """
    layers = model.layers
    if layers is None:
        raise ValueError("model.layers is None: give the model a function that returns its layers")

    def apply(params, inputs):
        outputs, features = model.apply(params, inputs)
        return outputs, Observed(features, layers(params, inputs))

    return model._replace(apply=apply)


def linear_cka(x: jax.Array, y: jax.Array) -> jax.Array:
    """Linear centred kernel alignment of two representations of the same examples.

        |Y^T X|_F^2 / (|X^T X|_F |Y^T Y|_F) = <K, L> / (|K|_F |L|_F),   K = X X^T,   L = Y Y^T

    with centred columns of X and Y. It is 1 where one is the other, rotated and scaled, and 0 where
    no feature of X correlates with one of Y. The second form is computed: its matrices are n x n,
    however many features there are.

    Args:
      x: The first representation, `[n, ...]`, flattened for each example.
      y: The second one, `[n, ...]`; it may have another shape.

    Returns:
      A scalar in [0, 1]; NaN where a representation is the same for all examples.

    Reference: Kornblith et al. 2019, https://arxiv.org/abs/1905.00414, eqs. 3 and 4.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([[1.0], [-1.0], [1.0], [-1.0]])
    >>> y = jnp.array([[1.0], [1.0], [-1.0], [-1.0]])
    >>> print(linear_cka(x, y), linear_cka(x, -3 * x))
    0.0 1.0
    """
    k, ell = _gram(x), _gram(y)
    return jnp.sum(k * ell) / (jnp.linalg.norm(k) * jnp.linalg.norm(ell))


def layer_similarities(
    before: dict[str, jax.Array], after: dict[str, jax.Array]
) -> dict[str, jax.Array]:
    """Linear CKA of each layer before and after adaptation, for one task.

    Args:
      before: The output of each layer by name, `[n, ...]`.
      after: The same after adaptation.

    Returns:
      A dict from the layer to a scalar, see `linear_cka`.

    Reference: Shin et al. 2024, https://arxiv.org/abs/2406.04639, figure 3d.
    """
    return {name: linear_cka(x, after[name]) for name, x in before.items()}


def _gram(x):
    x = x.reshape(len(x), -1)
    x = x - x.mean(0, keepdims=True)
    return jnp.matmul(x, x.T, precision=jax.lax.Precision.HIGHEST)
