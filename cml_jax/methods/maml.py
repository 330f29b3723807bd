"""MAML and the methods that are MAML with one argument fixed."""

from functools import partial

from cml_jax.inner import gradient_descent, loss_on, sgd
from cml_jax.types import Loss, Method, Model, PyTree


def maml(
    model: Model,
    loss: Loss,
    *,
    learning_rate: PyTree,
    num_steps: int,
    adapts: PyTree = True,
    first_order: bool = False,
    remat: bool = False,
) -> Method:
    """Model-agnostic meta-learning: learn parameters from which K gradient steps go far.

        theta' = theta - learning_rate * grad L_support(theta), K times;   objective L_query(theta')

    The inner rate is on the *mean* loss. cbfinn/maml divides its summed cross-entropy by K, not by
    N * K, so its printed rates are N times smaller than the ones to give here (0.4 there is 2.0
    here on 5-way Omniglot).

    Args:
      model: the network.
      loss: `(outputs, targets) -> scalar`, for both loops.
      learning_rate: the inner rate, a scalar or a prefix tree such as `{"body": 0.0, "head": 0.5}`.
      num_steps: K, static.
      adapts: which parts adapt, a prefix tree of bools.
      first_order: FOMAML: the inner gradients are constants of the outer loop.
      remat: recompute the inner steps in the backward pass (memory flat in K).

    Reference: Finn et al. 2017, https://arxiv.org/abs/1703.03400, algorithm 2.
    """

    def init(key, inputs):
        return {"base": model.init(key, inputs)}

    def adapt(params, support):
        return gradient_descent(
            loss_on(model, loss, support),
            params["base"],
            sgd(learning_rate),
            num_steps,
            adapts=adapts,
            first_order=first_order,
            remat=remat,
            first_step=0,
        )

    def objective(params, adapted, query, prediction=None):
        del params
        outputs, _ = prediction or model.apply(adapted, query.inputs)
        query_loss = loss(outputs, query.targets)
        return query_loss, {"loss": query_loss}

    return Method(init, adapt, model.apply, objective)


fomaml = partial(maml, first_order=True)
fomaml.__doc__ = """First-order MAML: `d theta' / d theta` is taken to be the identity.

Reference: Finn et al. 2017, https://arxiv.org/abs/1703.03400, section 5.2.
"""

anil = partial(maml, adapts={"body": False, "head": True})
anil.__doc__ = """Almost no inner loop: only the head adapts.

Reference: Raghu et al. 2020, https://arxiv.org/abs/1909.09157.
"""

boil = partial(maml, adapts={"body": True, "head": False})
boil.__doc__ = """Body only in the inner loop: the head does not adapt.

Reference: Oh et al. 2021, https://arxiv.org/abs/2008.08882.
"""
