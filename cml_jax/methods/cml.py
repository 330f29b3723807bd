"""Cooperative meta-learning: a co-learner on the features of the adapted body, outer loop only."""

import jax

from cml_jax.ensemble import ensemble
from cml_jax.methods.maml import maml
from cml_jax.types import Adapted, Loss, Method, Model, PyTree


def cml(
    method: Method,
    co_learner: Model,
    loss: Loss,
    *,
    scale: jax.typing.ArrayLike,
    frozen: bool = False,
    number: int | None = None,
    on_support: bool = False,
) -> Method:
    """Cooperative meta-learning: adds a co-learner to the outer objective of any method.

        objective + scale * L_query(co_learner_phi(features of the adapted body))

    The co-learner phi is never adapted (phi' = phi) and reads the query set only. One optimiser
    updates body, head and co-learner together. `adapt` and `predict` are those of `method`, so at
    test the co-learner is not used.

    Where the paper and its code disagree: The paper writes the sum over tasks, the code takes the
    mean (here the weights, 1 / T each by default). The theorem takes the co-learner's gradient on
    the head to be zero, which holds to first order only: through the inner loop the adapted body
    depends on the head, and that path is kept, as in the code. scale is 0.5 in section 4.2, 1.0 in
    appendix A.1 and in the code, and 0.2 on sinusoids and nodes.

    Args:
      method: The method to wrap, `maml(...)`, `reptile(...)`, ...
      co_learner: A `Model` whose inputs are features `[n, ...]`.
      loss: A function `(outputs, targets) -> scalar`.
      scale: The weight gamma of the co-learner's loss.
      frozen: True keeps the co-learner at its random start in both loops: MAML + random noise,
        figure 3a. (An outer optimiser with weight decay still shrinks it.)
      number: How many co-learners there are, each with a start of its own; the mean of their losses
        stands for the loss of one. Their parameters are those of `ensemble(co_learner, number)`,
        which is what the two daggers then take. None is one, and not stacked. The paper has one.
      on_support: True has the co-learner read the support set, too, after the inner loop: the mean
        of its losses on the two sets stands for that on the query set, which is all that the
        paper's reads. A support set with keys for noise is read with it.

    Returns:
      A `Method` whose parameters have "co_learner" beside "base". "base" starts as under `method`
      with the same key. Its metrics gain "co_learner_loss".

    Raises:
      ValueError: When number is below 1. In `init`, when `method` has a co-learner already.

    Example:
      >>> import jax, cml_jax
      >>> from cml_jax.models import mlp, mlp_co_learner
      >>> base = cml_jax.maml(mlp(), cml_jax.squared_error, learning_rate=0.01, num_steps=1)
      >>> method = cml_jax.cml(base, mlp_co_learner(), cml_jax.squared_error, scale=0.2)
      >>> params = method.init(jax.random.key(0), jax.numpy.zeros((5, 1)))
      >>> sorted(params)
      ['base', 'co_learner']

    Reference: Shin et al. 2024, https://arxiv.org/abs/2406.04639, eqs. 5-8.
    """

    def of_one(phi, features, targets):
        outputs, _ = co_learner.apply(phi, features)
        return loss(outputs, targets)

    def of_all(phi, features, targets):
        if number is None:
            return of_one(phi, features, targets)
        return jax.vmap(of_one, (0, None, None))(phi, features, targets).mean()

    def adapt(params, support):
        adapted = method.adapt(params, support)
        return adapted._replace(extra=adapted.extra | {"support": support})

    def objective(params, adapted, query, prediction=None):
        prediction = prediction or method.predict(adapted, query.inputs)
        value, metrics = method.objective(params, adapted, query, prediction)
        phi = params["co_learner"]
        phi = jax.lax.stop_gradient(phi) if frozen else phi
        co_loss = of_all(phi, prediction[1], query.targets)
        if on_support:
            inputs, targets = adapted.extra["support"]
            _, features = method.predict(adapted, inputs)
            co_loss = (co_loss + of_all(phi, features, targets)) / 2
        return value + scale * co_loss, metrics | {"co_learner_loss": co_loss}

    init = _init_beside(method, co_learner if number is None else ensemble(co_learner, number))
    return Method(init, adapt if on_support else method.adapt, method.predict, objective)


def cml_dagger(
    model: Model, co_learner: Model, loss: Loss, *, learning_rate: PyTree, num_steps: int
) -> Method:
    """CML-dagger as the paper writes it: at test the co-learner takes the place of the head.

        psi' = psi - learning_rate * grad_psi L_support(co_learner_phi(psi)), K times, phi frozen

    The prediction on the query set is phi(psi'). The meta-learner's head takes no part.

    Args:
      model: The network, as in training.
      co_learner: The co-learner, as given to `cml`.
      loss: A function `(outputs, targets) -> scalar`, as in training.
      learning_rate: The inner rate, as in `maml`.
      num_steps: The number K of inner steps, static.

    Returns:
      A `Method` for `evaluate`, on the parameters that training with `cml` gives. The co-learner is
      in `extra["co_learner"]` of what it adapts.

    Reference: Shin et al. 2024, https://arxiv.org/abs/2406.04639, eq. 9.
    """

    def apply(both, inputs):
        _, features = model.apply(both["base"], inputs)
        outputs, _ = co_learner.apply(both["co_learner"], features)
        return outputs, features

    # BOIL on the network whose head is the co-learner.
    plain = maml(model, loss, learning_rate=0.0, num_steps=0)
    swapped = maml(
        Model(_init_beside(plain, co_learner), apply),
        loss,
        learning_rate={"base": learning_rate, "co_learner": 0.0},
        num_steps=num_steps,
        adapts={"base": {"body": True, "head": False}, "co_learner": False},
    )

    def adapt(params, support):
        both = {part: params[part] for part in ("base", "co_learner")}
        adapted = swapped.adapt({"base": both}, support).params
        return Adapted(adapted["base"], {"co_learner": adapted["co_learner"]})

    def predict(adapted, inputs):
        return apply({"base": adapted.params} | adapted.extra, inputs)

    def objective(params, adapted, query, prediction=None):
        prediction = prediction or predict(adapted, query.inputs)
        return swapped.objective(params, adapted, query, prediction)

    return Method(_init_beside(plain, co_learner), adapt, predict, objective)


def cml_dagger_released(method: Method, co_learner: Model) -> Method:
    """CML-dagger as the released code has it: the meta-learner's loss adapts body and head.

        (psi', theta') = method.adapt(psi, theta);   prediction phi(psi')

    The co-learner then scores the query set on the features of the adapted body. The paper's
    equation 9 (`cml_dagger`) adapts the body alone, with the co-learner's own support loss.

    Args:
      method: The method that `cml` wrapped in training.
      co_learner: The co-learner, as given to `cml`.

    Returns:
      A `Method` for `evaluate`, on the parameters that training with `cml` gives. The co-learner is
      in `extra["co_learner"]` of what it adapts.

    Reference: https://github.com/JJongyn/CML.
    """

    def adapt(params, support):
        adapted = method.adapt(params, support)
        return adapted._replace(extra=adapted.extra | {"co_learner": params["co_learner"]})

    def predict(adapted, inputs):
        _, features = method.predict(adapted, inputs)
        outputs, _ = co_learner.apply(adapted.extra["co_learner"], features)
        return outputs, features

    return Method(_init_beside(method, co_learner), adapt, predict, method.objective)


def _init_beside(method, co_learner):
    def init(key, inputs):
        params = method.init(key, inputs)
        if "co_learner" in params:
            raise ValueError("cml(cml(...)): a method has one co-learner, wrap the base method")
        _, features = method.predict(Adapted(params["base"]), inputs)
        # fold_in, not split: the base starts as it would alone, so that runs can be paired.
        return params | {"co_learner": co_learner.init(jax.random.fold_in(key, 1), features)}

    return init
