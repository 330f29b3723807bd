"""Sharp-MAML: inner gradients taken where the support loss is steepest nearby."""

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
    """Sharp-MAML_low: every inner gradient is taken at the perturbed parameters.

        theta' = theta - learning_rate * g(theta + radius * g(theta) / |g(theta)|), K times

    with `g = grad L_support` on the leaves that adapt, and the norm over all of them; objective
    L_query(theta'). At test it adapts in the same way, as the released code does.

    Sharp-MAML_up is `meta_step(radius=...)` with any method, Sharp-MAML_both is this with that.

    The outer loop differentiates through the perturbation, the norm included, as the released code
    does (its inner gradients keep their graph): the meta-gradient is exact. With `first_order` the
    perturbed gradient is a constant. The adaptive form, an option of the code, is left out.

    Args:
      model, loss: as in `maml`.
      learning_rate, num_steps, adapts, first_order, remat: as in `maml`.
      radius: rho of the inner loop; 0 is MAML. 5e-4 in the code.

    Returns:
      A `Method` like `maml`'s.

    Raises:
      ValueError: in `adapt`, as `maml` does.

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
