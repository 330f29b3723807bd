"""Meta-SGD: MAML whose inner rates are learned, one for each parameter."""

import jax
import jax.numpy as jnp

from cml_jax.inner import rate_per_leaf, select
from cml_jax.methods.maml import maml
from cml_jax.types import Loss, Method, Model, PyTree


def meta_sgd(
    model: Model,
    loss: Loss,
    *,
    learning_rate: PyTree,
    num_steps: int,
    adapts: PyTree = True,
    first_order: jax.typing.ArrayLike = False,
    remat: bool = False,
) -> Method:
    """Learns the initialisation together with the direction and the length of the inner steps.

        theta' = theta - alpha * grad L_support(theta), elementwise;   objective L_query(theta')

    The outer loop trains theta and alpha together. A rate may become negative: the paper does not
    constrain it.

    Where this differs from the paper: alpha starts at `learning_rate` and not uniformly at random
    in [0.005, 0.1], so that the first step is that of `maml` and runs can be compared; and there
    may be more than the paper's one inner step. All steps share alpha, and without a low outer rate
    or clipping alpha can grow until the inner loop diverges.

    Args:
      model: The network.
      loss: A function `(outputs, targets) -> scalar`, used in both loops.
      learning_rate: The value at which alpha starts, a scalar or a prefix tree as in `maml`.
      num_steps: The number K of inner steps, static.
      adapts: The parts that adapt, a prefix tree of bools. Only these have rates.
      first_order: True treats the inner gradients as constants of the outer loop; alpha is still
        trained.
      remat: True recomputes the inner steps in the backward pass, as in `maml`.

    Returns:
      A `Method` whose parameters have "inner_rates" beside "base": a tree like "base", each leaf
      with the shape and dtype of its parameter, and None where nothing adapts.

    Raises:
      ValueError: In `init`, when learning_rate or adapts is not a prefix of the parameters; in
        `adapt`, when num_steps is negative.

    Reference: Li et al. 2017, https://arxiv.org/abs/1707.09835, algorithm 1.
    """

    def with_rates(rates):
        return maml(
            model,
            loss,
            learning_rate=rates,
            num_steps=num_steps,
            adapts=adapts,
            first_order=first_order,
            remat=remat,
        )

    start = with_rates(learning_rate)

    def init(key, inputs):
        params = start.init(key, inputs)
        fast = select(adapts, params["base"])
        rates = rate_per_leaf(learning_rate, fast)
        rates = jax.tree.map(lambda leaf, rate: jnp.full_like(leaf, rate), fast, rates)
        return params | {"inner_rates": rates}

    def adapt(params, support):
        return with_rates(params["inner_rates"]).adapt(params, support)

    return start._replace(init=init, adapt=adapt)
