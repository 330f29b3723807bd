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
    num_steps: int | jax.Array,
    learning_rate: PyTree | None = None,
    optimizer: optax.GradientTransformation | None = None,
    adapts: PyTree = True,
    first_order: jax.typing.ArrayLike = False,
    remat: bool = False,
) -> Method:
    """Model-agnostic meta-learning: learns parameters from which K gradient steps lead far.

        theta' = theta - learning_rate * grad L_support(theta), K times;   objective L_query(theta')

    With `optimizer`, the K steps are those of any optax optimiser, from a fresh state, and the
    outer loop differentiates through them as well.

    The inner rate applies to the *mean* loss. cbfinn/maml divides its summed cross-entropy by the
    shots and not by ways * shots, so its printed rates are `ways` times smaller than the ones to
    give here (its 0.4 is 2.0 here on 5-way Omniglot).

    Args:
      model: The network.
      loss: A function `(outputs, targets) -> scalar`, used in both loops.
      num_steps: The number K of inner steps, an int; at test it may be traced, see
        `gradient_descent`.
      learning_rate: The inner rate, a scalar or a prefix tree such as `{"body": 0.0, "head": 0.5}`.
      optimizer: The inner optimiser in place of learning_rate, any optax transformation such as
        `optax.adam(0.01, eps_root=1e-8)`. The paper has plain gradient descent only.
      adapts: The parts that adapt, a prefix tree of bools such as `{"body": False, "head": True}`.
      first_order: True treats the inner gradients as constants of the outer loop (FOMAML). A traced
        bool changes the order within one compiled program, as in `gradient_descent`.
      remat: True recomputes the inner steps in the backward pass, so that memory does not grow with
        the activations of K steps.

    Returns:
      A `Method` with the parameters `{"base": {"body", "head"}}`. It reports "loss", that of the
      query set.

    Raises:
      ValueError: When learning_rate and optimizer are both given, or neither. In `adapt`, when
        num_steps is negative, when learning_rate or adapts is not a prefix of the parameters, or
        when the update of `optimizer` has no finite derivative
        (`cml_jax.inner.check_differentiable`).

    Example:
      >>> import jax, cml_jax
      >>> from cml_jax.models import mlp
      >>> from cml_jax.tasks import sinusoid
      >>> method = cml_jax.maml(mlp(), cml_jax.squared_error, learning_rate=0.01, num_steps=5)
      >>> task = sinusoid(jax.random.key(1), shots=5, queries=10)
      >>> params = method.init(jax.random.key(0), task.support.inputs)
      >>> adapted = method.adapt(params, task.support)
      >>> outputs, features = method.predict(adapted, task.query.inputs)
      >>> outputs.shape, features.shape
      ((10, 1), (10, 40))
      >>> loss, report = method.objective(params, adapted, task.query)
      >>> list(report)
      ['loss']

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
fomaml.__doc__ = """First-order MAML: treats `d theta' / d theta` as the identity.

    theta' as in `maml`;   gradient of the outer loop: grad L_query at theta'

Args, Returns, Raises: Those of `maml`, without first_order.

Reference: Finn et al. 2017, https://arxiv.org/abs/1703.03400, section 5.2.
"""

anil = partial(maml, adapts={"body": False, "head": True})
anil.__doc__ = """Almost no inner loop: only the head adapts.

    head' = head - learning_rate * grad_head L_support(body, head), K times

Args, Returns, Raises: Those of `maml`, without adapts.

Reference: Raghu et al. 2020, https://arxiv.org/abs/1909.09157.
"""

boil = partial(maml, adapts={"body": True, "head": False})
boil.__doc__ = """Body only in the inner loop: the head does not adapt.

    body' = body - learning_rate * grad_body L_support(body, head), K times

Args, Returns, Raises: Those of `maml`, without adapts.

Reference: Oh et al. 2021, https://arxiv.org/abs/2008.08882.
"""
