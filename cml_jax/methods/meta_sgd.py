"""Meta-SGD: MAML whose inner rates are learned, one for every parameter."""

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
    """Learns the initialisation and the direction and length of the inner steps.

        theta' = theta - alpha * grad L_support(theta), elementwise;   objective L_query(theta')

    and the outer loop trains theta and alpha together. A rate may become negative: the paper does
    not constrain it.

    Where this differs from the paper: alpha starts at `learning_rate` and not uniformly at random
    in [0.005, 0.1], so that the first step is that of `maml` and runs can be compared; and there
    may be more than the paper's one inner step. They share alpha, and without a low outer rate or
    clipping alpha can grow until the inner loop diverges.

    Args:
      model: the network.
      loss: `(outputs, targets) -> scalar`, for both loops.
      learning_rate: where alpha starts, a scalar or a prefix tree as in `maml`.
      num_steps: K, static.
      adapts: which parts adapt, a prefix tree of bools; only these have rates.
      first_order: the inner gradients are constants of the outer loop; alpha is still trained.
      remat: recompute the inner steps in the backward pass (memory flat in K).

    Returns:
      A `Method` whose params have "inner_rates" beside "base": a tree like "base", each leaf with
      the shape and dtype of its parameter, None where nothing adapts.

    Raises:
      ValueError: in `init`, when learning_rate or adapts is no prefix of the parameters; in
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
