"""MAML and the methods that are MAML with one argument fixed."""

from functools import partial

import jax
import optax

from cml_jax.inner import check_differentiable, gradient_descent, loss_on, select, sgd
from cml_jax.types import Adapted, Loss, Method, Model, PyTree


def maml(
    model: Model,
    loss: Loss,
    *,
    num_steps: int,
    learning_rate: PyTree | None = None,
    optimizer: optax.GradientTransformation | None = None,
    adapts: PyTree = True,
    first_order: jax.typing.ArrayLike = False,
    remat: bool = False,
) -> Method:
    """Model-agnostic meta-learning: learn parameters from which K gradient steps go far.

        theta' = theta - learning_rate * grad L_support(theta), K times;   objective L_query(theta')

    or, with `optimizer`, K steps of it from a fresh state, differentiated through as well.

    The inner rate is on the *mean* loss. cbfinn/maml divides its summed cross-entropy by the shots,
    not by ways * shots, so its printed rates are `ways` times smaller than the ones to give here
    (0.4 there is 2.0 here on 5-way Omniglot).

    Args:
      model: the network.
      loss: `(outputs, targets) -> scalar`, for both loops.
      num_steps: K, static.
      learning_rate: the inner rate, a scalar or a prefix tree such as `{"body": 0.0, "head": 0.5}`.
      optimizer: any optax transformation in the place of learning_rate, such as
        `optax.adam(0.01, eps_root=1e-8)`. Ours: the paper has plain gradient descent.
      adapts: which parts adapt, a prefix tree of bools.
      first_order: FOMAML: the inner gradients are constants of the outer loop. May be traced, as in
        `gradient_descent`.
      remat: recompute the inner steps in the backward pass (memory flat in K).

    Returns:
      A `Method` whose params are {"base": {"body", "head"}}. It reports "loss", of the query set.

    Raises:
      ValueError: when there is not one of learning_rate and optimizer; in `adapt`, when num_steps
        is negative, learning_rate or adapts is no prefix of the parameters, or the update of
        `optimizer` has no finite derivative (`cml_jax.inner.check_differentiable`).

    Reference: Finn et al. 2017, https://arxiv.org/abs/1703.03400, algorithm 2.
    """

    if (learning_rate is None) == (optimizer is None):
        raise ValueError(
            f"learning_rate and optimizer: {'neither' if optimizer is None else 'both'} given but "
            "an inner loop has one: give learning_rate=0.1, say, or optimizer=optax.sgd(0.1)"
        )

    def init(key, inputs):
        return {"base": model.init(key, inputs)}

    def adapt(params, support):
        base = params["base"]
        if optimizer is not None:
            # A traced order may turn out to be the second.
            first = not isinstance(first_order, jax.Array) and bool(first_order)
            check_differentiable(optimizer, select(adapts, base), first_order=first)
        adapted = gradient_descent(
            loss_on(model, loss, support),
            base,
            sgd(learning_rate) if optimizer is None else optimizer,
            num_steps,
            adapts=adapts,
            first_order=first_order,
            remat=remat,
            first_step=0,
        )
        return Adapted(adapted)

    def predict(adapted, inputs):
        return model.apply(adapted.params, inputs)

    def objective(params, adapted, query, prediction=None):
        del params
        outputs, _ = prediction or predict(adapted, query.inputs)
        query_loss = loss(outputs, query.targets)
        return query_loss, {"loss": query_loss}

    return Method(init, adapt, predict, objective)


fomaml = partial(maml, first_order=True)
fomaml.__doc__ = """First-order MAML: `d theta' / d theta` is taken to be the identity.

    theta' as in `maml`;   gradient of the outer loop: grad L_query at theta'

Args, Returns, Raises: those of `maml`, without first_order.

Reference: Finn et al. 2017, https://arxiv.org/abs/1703.03400, section 5.2.
"""

anil = partial(maml, adapts={"body": False, "head": True})
anil.__doc__ = """Almost no inner loop: only the head adapts.

    head' = head - learning_rate * grad_head L_support(body, head), K times

Args, Returns, Raises: those of `maml`, without adapts.

Reference: Raghu et al. 2020, https://arxiv.org/abs/1909.09157.
"""

boil = partial(maml, adapts={"body": True, "head": False})
boil.__doc__ = """Body only in the inner loop: the head does not adapt.

    body' = body - learning_rate * grad_body L_support(body, head), K times

Args, Returns, Raises: those of `maml`, without adapts.

Reference: Oh et al. 2021, https://arxiv.org/abs/2008.08882.
"""
