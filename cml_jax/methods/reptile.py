"""Reptile: move the initialisation towards each task's adapted parameters."""

import jax
import jax.numpy as jnp
import optax

from cml_jax.inner import gradient_descent, loss_on
from cml_jax.types import Loss, Method, Model


def reptile(
    model: Model, loss: Loss, *, optimizer: optax.GradientTransformation, num_steps: int
) -> Method:
    """Reptile as an objective, `1/2 |theta - stop_gradient(theta')|^2`.

    Its gradient is `theta - theta'`, so that one step of SGD(eps) on the mean over tasks is the
    published interpolation `theta + eps * mean_i(theta'_i - theta)`: there is no outer loop of its
    own. The query set is not trained on; the reported "loss" is this distance.

    `theta'` is returned with the first-order path to theta, which the objective above cuts and
    which a wrapper such as `cml` uses.

    Every inner step sees the whole support set.

    Args:
      model: the network.
      loss: `(outputs, targets) -> scalar` of the inner loop.
      optimizer: of the inner loop; a fresh state for every task (the reference code carries Adam's
        moments from task to task).
      num_steps: inner steps, static.

    Reference: Nichol et al. 2018, https://arxiv.org/abs/1803.02999, algorithm 2.
    """

    def init(key, inputs):
        return {"base": model.init(key, inputs)}

    def adapt(params, support):
        return gradient_descent(
            loss_on(model, loss, support), params["base"], optimizer, num_steps, first_order=True
        )

    def objective(params, adapted, query, prediction=None):
        del query, prediction
        gap = jax.tree.map(
            lambda p, a: jnp.sum(jnp.square(p - jax.lax.stop_gradient(a))), params["base"], adapted
        )
        value = sum(jax.tree.leaves(gap)) / 2
        return value, {"loss": value}

    return Method(init, adapt, model.apply, objective)
