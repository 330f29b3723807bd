"""Linear probing: logistic regression on the features of a network that does not adapt."""

import jax
import jax.numpy as jnp

from cml_jax.losses import cross_entropy
from cml_jax.types import Adapted, Method, Model


def logistic_regression(
    features: jax.Array, targets: jax.Array, ways: int, penalty: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """Fits a logistic regression by 20 Newton steps from zero, which reach float32's precision.

        minimise  sum_i -log softmax(features_i W + b)[targets_i] + penalty / 2 |W|^2

    This is the objective of scikit-learn with C = 1 / penalty, whose default is 1. For two classes
    scikit-learn has one vector w and `1/2 |w|^2`: at the minimum `W = (-w / 2, w / 2)`, so that
    `|w|^2 = 2 |W|^2`, and the penalty is doubled here. b is determined up to a constant, which
    `1e-6 / 2 |b|^2` fixes: it sums to zero. (So `(sum b)^2 / 2` may be added; it keeps the steps
    exact in float32.)

    The columns of W lie in the span of the features. Where there are fewer examples than features,
    Newton's method works in n coordinates of that span, found by a QR decomposition.

    Args:
      features: `[n, F]`, numbers of the order of one: the steps are never shortened.
      targets: int32 `[n]`, the classes.
      ways: Number of classes.
      penalty: The weight of `|W|^2 / 2`.

    Returns:
      W `[F, ways]` and b `[ways]`.
    """
    if len(features) < features.shape[1]:
        span, coordinates = jnp.linalg.qr(features.T)  # [F, n], [n, n]
        weights, bias = logistic_regression(coordinates.T, targets, ways, penalty)
        return span @ weights, bias
    shape = (features.shape[1] + 1, ways)
    ones = jnp.ones((len(features), 1), features.dtype)
    inputs = jnp.concatenate([features, ones], 1)
    ridge = jnp.full(shape, penalty * (2 if ways == 2 else 1), features.dtype).at[-1].set(1e-6)

    def loss(flat):
        weights = flat.reshape(shape)
        misfit = len(targets) * cross_entropy(inputs @ weights, targets)
        return misfit + (jnp.sum(ridge * weights**2) + weights[-1].sum() ** 2) / 2

    def newton(_, flat):
        return flat - jnp.linalg.solve(jax.hessian(loss)(flat), jax.grad(loss)(flat))

    flat = jax.lax.fori_loop(0, 20, newton, jnp.zeros(shape[0] * ways, features.dtype))
    return flat.reshape(shape)[:-1], flat.reshape(shape)[-1]


def linear_probing(
    model: Model, *, ways: int, penalty: float = 1.0, embedding: Model | None = None
) -> Method:
    """Classifies by a logistic regression that is fitted to the features of the support set.

        W, b = logistic_regression(z(support), targets);   z = e / |e|, e the embedding
        outputs(x) = z(x) W + b

    The network does not adapt, and this method does not train it: see `objective`. Features have
    length one, as in Tian et al. With batch statistics, the support set is one batch.

    Args:
      model: The network that was trained, with any number of outputs.
      ways: Number of classes in a task.
      penalty: As in `logistic_regression`.
      embedding: The same network without its last layer, such as `conv4(0)`: its outputs are e.
        None: e are the features of `model`, flattened.

    Returns:
      A `Method` with the parameters `{"base": {"body", "head"}}` of `model`. `adapt` keeps
      "weights" `[F, ways]` and "bias" `[ways]` in `extra`. The objective is the query set's
      cross-entropy under the regression.

    Reference: Tian et al. 2020, https://arxiv.org/abs/2003.11539, and its code.
    """

    def init(key, inputs):
        return {"base": model.init(key, inputs)}

    def features_of(base, inputs):
        if embedding is None:
            flat = model.apply(base, inputs)[1]
        else:
            flat = embedding.apply({"body": base["body"], "head": {}}, inputs)[0]
        flat = flat.reshape(len(flat), -1)
        length = jnp.sqrt(jnp.square(flat).sum(1, keepdims=True))
        return flat / jnp.maximum(length, 1e-12)

    def adapt(params, support):
        features = features_of(params["base"], support.inputs)
        weights, bias = logistic_regression(features, support.targets, ways, penalty)
        return Adapted(params["base"], {"weights": weights, "bias": bias})

    def predict(adapted, inputs):
        features = features_of(adapted.params, inputs)
        return features @ adapted.extra["weights"] + adapted.extra["bias"][None], features

    def objective(params, adapted, query, prediction=None):
        del params
        outputs, _ = prediction or predict(adapted, query.inputs)
        loss = cross_entropy(outputs, query.targets)
        return loss, {"loss": loss}

    return Method(init, adapt, predict, objective)
