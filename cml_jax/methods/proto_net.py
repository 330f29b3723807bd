"""Prototypical networks: the head is the mean of each class's features."""

import jax
import jax.numpy as jnp

from cml_jax.losses import check_classes
from cml_jax.types import Adapted, Loss, Method, Model


def proto_net(model: Model, loss: Loss) -> Method:
    """Classifies by the nearest mean of a class in the space of features.

        c_k = mean of body(x) over the support examples of class k
        outputs_k(x) = -|body(x) - c_k|^2;   objective L_query

    Nothing adapts: the network's own head is neither read nor trained, it says only how many
    classes there are. The features are flattened. The paper trains with more classes a task than it
    tests with; here both have the same number.

    Args:
      model: The network, whose outputs have one entry for each class of a task.
      loss: A function `(outputs, targets) -> scalar` of class indices, such as `cross_entropy`.

    Returns:
      A `Method` with the parameters `{"base": {"body", "head"}}`. It reports "loss", that of the
      query set. `adapt` keeps the prototypes, `[ways, features]`, in `extra["prototypes"]`; those
      of a class without support examples are NaN.

    Raises:
      ValueError: In `adapt`, when known targets are not class indices.

    Example:
      >>> import cml_jax
      >>> from cml_jax.models import mlp
      >>> method = proto_net(mlp(outputs=2), cml_jax.cross_entropy)
      >>> support = cml_jax.Batch(jnp.array([[1.0], [3.0], [5.0]]), jnp.array([0, 0, 1]))
      >>> params = method.init(jax.random.key(0), support.inputs)
      >>> adapted = method.adapt(params, support)
      >>> adapted.extra["prototypes"].shape
      (2, 40)
      >>> method.predict(adapted, support.inputs)[0].argmax(1).tolist()
      [0, 0, 1]

    Reference: Snell et al. 2017, https://arxiv.org/abs/1703.05175, eqs. 1-2.
    """

    def init(key, inputs):
        return {"base": model.init(key, inputs)}

    def features_of(params, inputs):
        outputs, features = model.apply(params, inputs)
        return outputs, features, features.reshape(len(features), -1)

    def adapt(params, support):
        outputs, _, features = features_of(params["base"], support.inputs)
        valid = check_classes(outputs, support.targets)
        members = jax.nn.one_hot(support.targets, outputs.shape[1], dtype=features.dtype)
        if valid is not None:
            members = jnp.where(valid.all(), members, jnp.nan)
        prototypes = (members / members.sum(0, keepdims=True)).T @ features
        return Adapted(params["base"], {"prototypes": prototypes})

    def predict(adapted, inputs):
        outputs, features, flat = features_of(adapted.params, inputs)
        if "prototypes" not in adapted.extra:  # no task yet, as where `cml` looks for its inputs
            return outputs, features
        difference = flat[:, None] - adapted.extra["prototypes"][None]
        return -jnp.square(difference).sum(-1), features

    def objective(params, adapted, query, prediction=None):
        del params
        outputs, _ = prediction or predict(adapted, query.inputs)
        query_loss = loss(outputs, query.targets)
        return query_loss, {"loss": query_loss}

    return Method(init, adapt, predict, objective)
