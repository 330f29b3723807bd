"""MAML++: MAML with a query loss, inner rates and batch-norm parameters for every inner step."""

import operator
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from cml_jax.inner import gradient_descent, loss_on, merge, rate_per_leaf, select, sgd
from cml_jax.types import Adapted, Loss, Method, Model, PyTree


def multi_step_weights(
    epoch: jax.typing.ArrayLike, num_steps: int, *, num_epochs: float
) -> jax.Array:
    """The weight of the query loss after each inner step, annealed to the last step alone.

        w_k = max(1 - epoch / num_epochs, 0.03) / K  (k < K),  0 once epoch >= num_epochs
        w_K = 1 - (K - 1) w_1

    The authors' code counts whole epochs; between them this is the same line. Once the weights of
    the earlier losses are 0, these losses are not computed.

    Args:
      epoch: The progress of training, a scalar in any unit. It may be traced.
      num_steps: The number K >= 1 of inner steps, static.
      num_epochs: The progress at which the annealing ends, in the unit of `epoch` (10 to 15 of 100
        epochs in the authors' settings).

    Returns:
      `[K]`, whose sum is 1.

    Reference: Antoniou et al. 2019, https://arxiv.org/abs/1810.09502, section 4, and its code.
    """
    left = 1 - jnp.asarray(epoch, float) / num_epochs
    earlier = jnp.where(left > 0, jnp.maximum(left, 0.03) / num_steps, 0)
    return jnp.full((num_steps,), earlier).at[-1].set(1 - (num_steps - 1) * earlier)


def maml_plus_plus(
    model: Model,
    loss: Loss,
    *,
    learning_rate: PyTree,
    num_steps: int,
    step_weights: jax.typing.ArrayLike | None = None,
    learn_rates: bool = True,
    per_step_norm: bool = True,
    first_order: jax.typing.ArrayLike = False,
    remat: bool = False,
) -> Method:
    """MAML++: three parts that steady MAML, each of which may be off. With all off it is `maml`.

        theta_k = theta_{k-1} - alpha_k * grad L_support(theta_{k-1}; norm_k),  k = 1..K
        objective  sum_k w_k L_query(theta_k; norm_k)

    alpha_k is one learned scalar for every parameter tensor and step, as in the authors' code (the
    paper says layer, whose kernel and bias would share it). norm_k is the scale and bias of the
    normalisation layers in step k, which the outer loop trains and the inner loop does not adapt;
    those of step 1 are in "base". With more inner steps than rates (at test, say), the last rates
    and norm serve all further steps.

    A normalisation layer is recognised by its parameters, whatever its name: "scale" and "bias" (or
    "gamma" and "beta"), vectors of one length and nothing else, as all of Flax's layers have them;
    or "scale" alone in a layer named like a norm. A network without such layers has no norm_k.

    Where this differs from the paper: the statistics are always those of the batch at hand, since a
    pure function keeps no running ones (the paper's running statistics are per step; its code
    stores them but normalises with the batch in training and at test); and there are K rates in
    place of K + 1, since the last is never used. Cosine annealing belongs to the outer optimiser.

    Under `cml` the co-learner reads the features after the last step only: the paper on it does not
    say which steps it joins, and the last is the only one that is used at test.

    Args:
      model: The network.
      loss: A function `(outputs, targets) -> scalar`, used in both loops.
      learning_rate: The value at which the rates start, a scalar or a prefix tree as in `maml`.
      num_steps: The number K of inner steps, static.
      step_weights: The weights w of the query losses, `[K]`, such as `multi_step_weights(...)`.
        They may be traced. A query loss of weight 0 is not computed (except under a vmap over the
        weights). None takes the last step alone, and is how to evaluate.
      learn_rates: False keeps the rates at `learning_rate`.
      per_step_norm: False adapts the normalisation layers in the inner loop, as MAML does.
      first_order: True treats the inner gradients as constants of the outer loop. A traced bool
        changes the order within one compiled program.
      remat: True recomputes the inner steps in the backward pass. The earlier query losses always
        are.

    Returns:
      A `Method` whose parameters have beside "base" (both are trees like "base", None elsewhere)
      "inner_rates", leaves `[K]`, and "step_norm", leaves `[K - 1, c]` (if K > 1). With
      step_weights its metrics gain "multi_step_loss", which is minimised; "loss" is that of the
      last step. `adapt` returns `extra["step_norm"]`, the norm of the last step, and
      `extra["earlier"]`, the networks after the earlier steps, where its own `predict` and
      `objective` need them.

    Raises:
      ValueError: When num_steps is negative or step_weights is not `[num_steps]`. In `init` and
        `adapt`, when per_step_norm is True and a layer may be a normalisation layer but cannot be
        recognised.

    Reference: Antoniou et al. 2019, https://arxiv.org/abs/1810.09502, section 4, and its code.
    """
    if num_steps < 0:
        raise ValueError(f"num_steps={num_steps} but an inner loop has 0 or more steps: raise it")
    if step_weights is not None and np.shape(step_weights) != (num_steps,):
        raise ValueError(
            f"step_weights has shape {np.shape(step_weights)} but num_steps={num_steps}: give one "
            "weight a step, or None for the last step alone"
        )

    def init(key, inputs):
        base = model.init(key, inputs)
        params = {"base": base}
        norm = _norms(base) if per_step_norm else False
        if learn_rates:
            fast = select(jax.tree.map(operator.not_, norm), base)
            params["inner_rates"] = jax.tree.map(
                lambda leaf, rate: jnp.full((num_steps,), rate, leaf.dtype),
                fast,
                rate_per_leaf(learning_rate, fast),
            )
        if per_step_norm and num_steps > 1:  # checkpoints take no empty arrays
            params["step_norm"] = jax.tree.map(
                lambda leaf: jnp.tile(leaf, (num_steps, 1))[1:], select(norm, base)
            )
        return params

    def adapt(params, support):
        base, support_loss = params["base"], loss_on(model, loss, support)
        norm = _norms(base) if per_step_norm else False
        adapts = jax.tree.map(operator.not_, norm)
        first_norm = select(norm, base)
        norms = jax.tree.map(lambda leaf: leaf[None], first_norm)
        if "step_norm" in params:
            norms = jax.tree.map(lambda *rows: jnp.concatenate(rows), norms, params["step_norm"])
        rates = params["inner_rates"] if learn_rates else None

        def step(network, row):
            number, rates, norm = row
            network = gradient_descent(
                support_loss,
                merge(norm, network),
                sgd(rates if learn_rates else learning_rate),
                1,
                adapts=adapts,
                first_order=first_order,
                remat=remat,
                first_step=number,
            )
            return network, network if step_weights is not None else None

        last, path = jax.lax.scan(
            step,
            base,
            (jnp.arange(num_steps), *_rows((rates, norms), num_steps)),
            length=num_steps,
            unroll=num_steps == 1,
        )
        extra = {}
        if jax.tree.leaves(first_norm):
            extra["step_norm"] = select(norm, last)
        if step_weights is not None:
            extra["earlier"] = jax.tree.map(lambda x: x[:-1], path)
        return Adapted(merge(first_norm, last), extra)

    def predict(adapted, inputs):
        network = adapted.params
        if "step_norm" in adapted.extra:
            network = merge(adapted.extra["step_norm"], network)
        return model.apply(network, inputs)

    def objective(params, adapted, query, prediction=None):
        del params
        outputs, _ = prediction or predict(adapted, query.inputs)
        last = loss(outputs, query.targets)
        if step_weights is None:
            return last, {"loss": last}
        query_loss = loss_on(model, loss, query)
        weights = jnp.asarray(step_weights, last.dtype)

        # Recomputed in the backward pass: what a conditional keeps for it is written, as zeros,
        # where it is not taken too, and costs most of what is saved.
        @partial(jax.checkpoint, prevent_cse=False)
        def weighted(row):
            weight, network = row
            return jax.lax.cond(
                weight != 0,
                lambda network: weight * query_loss(network),
                lambda _: jnp.zeros_like(last),
                network,
            )

        # One at a time, as the inner loop goes: side by side they would need K times the memory.
        earlier = jax.lax.map(weighted, (weights[:-1], adapted.extra["earlier"]))
        value = jnp.sum(earlier) + weights[-1] * last
        return value, {"loss": last, "multi_step_loss": value}

    return Method(init, adapt, predict, objective)


def _norms(base):
    """A tree of bools like `base`: which leaves are scale or bias of a normalisation layer.

    A layer is one by its leaves: vectors of one length that are its scale and bias (or gamma and
    beta), or its scale alone where the layer's name says so. What may be one but cannot be told is
    refused, because it would adapt without a word.
    """
    layers = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(base):
        layers.setdefault(path[:-1], {})[_name(path)] = leaf.shape
    norms = {layer for layer, leaves in layers.items() if _is_norm(layer, leaves)}
    for layer, leaves in layers.items():
        if layer not in norms and _may_be_norm(layer, leaves):
            where = jax.tree_util.keystr(layer, simple=True, separator="/")
            raise ValueError(
                f"per_step_norm=True but {where!r} with the leaves {leaves} may be a normalisation "
                "layer and cannot be told: give that layer a module whose leaves are 'scale' and "
                "'bias', or use per_step_norm=False, under which it adapts"
            )
    return jax.tree_util.tree_map_with_path(lambda path, _: path[:-1] in norms, base)


def _name(path):
    return jax.tree_util.keystr(path[-1:], simple=True)


def _is_norm(layer, leaves):
    vectors = len({*leaves.values()}) == 1 and all(len(shape) == 1 for shape in leaves.values())
    pair = set(leaves) in ({"scale", "bias"}, {"gamma", "beta"})
    return vectors and (pair or (set(leaves) == {"scale"} and _says_norm(layer)))


def _may_be_norm(layer, leaves):
    vectors = {name for name, shape in leaves.items() if len(shape) == 1 and shape[0] > 1}
    alike = vectors == set(leaves) and len({*leaves.values()}) == 1
    # Two vectors and nothing else: not so in a whole body, which may be one that is by hand.
    pair = alike and len(leaves) > 1 and len(layer) > 1
    return bool(vectors & {"scale", "gamma"}) or pair or (alike and _says_norm(layer))


def _says_norm(layer):
    """Whether a layer has a name such as BatchNorm_0, norm or bn1. (Weight norm has no
    statistics: its scales are weights.)"""
    name = _name(layer) if layer else ""
    return (
        re.search(r"(?<!weight)(?<!weight_)norm|(^|_)bn(\d|_|$)", name, re.IGNORECASE) is not None
    )


def _rows(tree, num_steps):
    """Row k of each leaf for step k, and the last row for the steps beyond it."""
    return jax.tree.map(lambda x: x[np.minimum(np.arange(num_steps), len(x) - 1)], tree)
