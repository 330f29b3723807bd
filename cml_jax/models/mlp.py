"""Multi-layer perceptrons for few-shot regression."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax

from cml_jax.models.adapters import from_linen
from cml_jax.models.layers import Linear
from cml_jax.types import Model


class HiddenLayers(nn.Module):
    """Linear layers, each followed by `activation`: `[n, c]` to `[n, hidden[-1]]`."""

    hidden: Sequence[int]
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, inputs):
        for width in self.hidden:
            inputs = self.activation(Linear(width)(inputs))
        return inputs


class OneHiddenHead(nn.Module):
    """One hidden layer and an output layer."""

    outputs: int
    width: int
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, features):
        return Linear(self.outputs)(self.activation(Linear(self.width)(features)))


def mlp(
    outputs: int = 1,
    *,
    hidden: Sequence[int] = (40, 40),
    activation: Callable[[jax.Array], jax.Array] = nn.relu,
) -> Model:
    """A perceptron, 1-40-40-1 by default (1,761 parameters).

    Its features are the output of the last hidden layer.

    Args:
      outputs: The width of the (linear) output.
      hidden: The widths of the hidden layers, at least one.
      activation: The function after every hidden layer.

    Returns:
      A `Model` on inputs `[n, c]`.

    Reference: Finn et al. 2017, section 5.1.
    """
    return from_linen(HiddenLayers(tuple(hidden), activation), Linear(outputs))


def mlp_co_learner(
    outputs: int = 1, *, width: int = 40, activation: Callable[[jax.Array], jax.Array] = nn.relu
) -> Model:
    """CML's co-learner for `mlp`: one hidden layer and an output (1,681 parameters on 40 features).

    Args:
      outputs: The width of the (linear) output.
      width: The width of the hidden layer.
      activation: The function after the hidden layer.

    Returns:
      A `Model` whose inputs are features `[n, c]`.

    Reference: Shin et al. 2024, https://arxiv.org/abs/2406.04639, section 4.1.
    """
    return from_linen(OneHiddenHead(outputs, width, activation))


def linear_co_learner(outputs: int = 1) -> Model:
    """A co-learner that is a single linear layer on features `[n, c]`.

    Args:
      outputs: The width of the output.

    Returns:
      A `Model`.
    """
    return from_linen(Linear(outputs))
