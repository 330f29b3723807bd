"""Collaborative learning: two heads on one body, in both loops."""

from typing import Any

import jax

from cml_jax.methods.maml import maml
from cml_jax.types import Loss, Method, Model


def collaborative(model: Model, loss: Loss, *, co_learner: Model, **inner: Any) -> Method:
    """MAML on a network with two heads, which both loops train on the sum of their losses.

        L(head(features)) + L(co_learner(features)),   on the support and on the query set

    This is what CML is compared with: here the second head adapts in the inner loop, under CML it
    does not. At test both heads still adapt, and `model`'s own head predicts.

    Song & Chai also draw the heads towards each other's soft labels. That is left out: the CML
    paper compares with two heads that both adapt, and the sum is the nearest to its own objective.

    Args:
      model: The network.
      loss: A function `(outputs, targets) -> scalar`, used in both loops and for both heads.
      co_learner: The second head, a `Model` whose inputs are features `[n, ...]`.
      **inner: The other arguments of `maml`: learning_rate or optimizer, num_steps, adapts,
        first_order, remat. For them both heads are part of "head".

    Returns:
      A `Method` with the parameters {"base": {"body", "head": {"meta_learner", "co_learner"}}}.
      Body and meta-learner start as `maml`'s do with the same key. It reports "loss", the sum, and
      "co_learner_loss", the second head's part of it.

    Raises:
      ValueError: As `maml` does.

    Reference: Song & Chai 2018, https://arxiv.org/abs/1805.11761, as compared by Shin et al. 2024,
    https://arxiv.org/abs/2406.04639.
    """

    def init(key, inputs):
        params = model.init(key, inputs)
        _, features = model.apply(params, inputs)
        # fold_in, not split: the rest starts as it would alone, so that runs can be paired.
        second = co_learner.init(jax.random.fold_in(key, 1), features)
        return params | {"head": {"meta_learner": params["head"], "co_learner": second}}

    def first(params, inputs):
        return model.apply(params | {"head": params["head"]["meta_learner"]}, inputs)

    def apply(params, inputs):
        outputs, features = first(params, inputs)
        return (outputs, co_learner.apply(params["head"]["co_learner"], features)[0]), features

    def summed(outputs, targets):
        return loss(outputs[0], targets) + loss(outputs[1], targets)

    def predict(adapted, inputs):
        return first(adapted.params, inputs)

    def objective(params, adapted, query, prediction=None):
        del params
        outputs, features = prediction or predict(adapted, query.inputs)
        co_outputs, _ = co_learner.apply(adapted.params["head"]["co_learner"], features)
        co_loss = loss(co_outputs, query.targets)
        value = loss(outputs, query.targets) + co_loss
        return value, {"loss": value, "co_learner_loss": co_loss}

    method = maml(Model(init, apply), summed, **inner)
    return method._replace(predict=predict, objective=objective)
