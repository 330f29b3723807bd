"""Sharp-MAML: takes inner gradients where the support loss is steepest nearby."""

import jax
import jax.numpy as jnp
import optax

from cml_jax.inner import gradient_descent, loss_on, merge, perturb, sgd
from cml_jax.methods.maml import maml
from cml_jax.types import Adapted, Loss, Method, Model, PyTree


def sharp_maml(
    model: Model,
    loss: Loss,
    *,
    learning_rate: PyTree,
    num_steps: int,
    radius: jax.typing.ArrayLike,
    adapts: PyTree = True,
    first_order: bool = False,
    remat: bool = False,
) -> Method:
    """Sharp-MAML_low: takes every inner gradient at perturbed parameters.

        theta' = theta - learning_rate * g(theta + radius * g(theta) / |g(theta)|), K times

    with `g = grad L_support` on the leaves that adapt and the norm over all of them; the objective
    is L_query(theta'). At test it adapts in the same way, as the released code does.

    Sharp-MAML_up is `meta_step(radius=...)` with any method, and Sharp-MAML_both is this method
    with that step.

    The outer loop differentiates through the perturbation, its norm included, as the released code
    does (its inner gradients keep their graph), so the meta-gradient is exact. With `first_order`
    the perturbed gradient is a constant. The adaptive form, an option of the code, is left out.

    Args:
      model: The network.
      loss: A function `(outputs, targets) -> scalar`, used in both loops.
      learning_rate: The inner rate, a scalar or a prefix tree as in `maml`.
      num_steps: The number K of inner steps, static.
      radius: The radius rho of the inner loop, 5e-4 in the code. With 0 the method is MAML.
      adapts: The parts that adapt, a prefix tree of bools.
      first_order: True treats the inner gradients as constants of the outer loop.
      remat: True recomputes the inner steps in the backward pass, as in `maml`.

    Returns:
      A `Method` like `maml`'s.

    Raises:
      ValueError: In `adapt`, as `maml` does.

    Reference: Abbas et al. 2022, https://arxiv.org/abs/2206.03996, algorithm 1;
    https://github.com/mominabbass/Sharp-MAML.
    """
    plain = maml(model, loss, learning_rate=learning_rate, num_steps=num_steps)

    def adapt(params, support):
        base, support_loss = params["base"], loss_on(model, loss, support)

        def start(params):
            del params
            return jnp.zeros((), jnp.int32)

        def sharpen(updates, state, params=None):
            fast, frozen = (params, base)
            if first_order:
                fast, frozen = jax.lax.stop_gradient((fast, frozen))
            perturbed = perturb(fast, updates, radius)
            # With the noise of the gradient that perturbed: both are of one loss.
            at = jax.grad(lambda fast: support_loss(merge(fast, frozen), state))(perturbed)
            return at, state + 1

        sharper = optax.GradientTransformation(start, sharpen)
        adapted = gradient_descent(
            support_loss,
            base,
            optax.chain(sharper, sgd(learning_rate)),
            num_steps,
            adapts=adapts,
            first_order=first_order,
            remat=remat,
            first_step=0,
        )
        return Adapted(adapted)

    return plain._replace(adapt=adapt)
