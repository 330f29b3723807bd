"""UNICORN-MAML: one learned vector starts the weights of all classes."""

from typing import Any

import jax
import jax.numpy as jnp

from cml_jax.methods.maml import maml
from cml_jax.types import Loss, Method, Model


def unicorn_maml(model: Model, loss: Loss, **inner: Any) -> Method:
    """MAML whose head starts every task with the same weights for all classes.

        head_k = w for every class k,   theta' and the objective as in `maml`

    Which class of a task has which label is random, so weights of their own give the classes of a
    task a start that means nothing. w is kept as the mean of the head's columns, which all start
    alike and get the same gradient, so they stay alike. The gradient of w is then shared by the
    columns: under Adam this is a single learned vector, under SGD its rate is divided by the number
    of classes.

    Args:
      model: The network. Every leaf of its head has the classes as its last axis, as in a dense
        layer.
      loss: A function `(outputs, targets) -> scalar`, used in both loops.
      **inner: The other arguments of `maml`: learning_rate or optimizer, num_steps, adapts,
        first_order, remat.

    Returns:
      A `Method` with the parameters and reports of `maml`.

    Raises:
      ValueError: As `maml` does, and in `init` when a leaf of the head has another last axis.

    Reference: Ye & Chao 2022, https://arxiv.org/abs/2106.16245, section 5.
    """
    method = maml(model, loss, **inner)

    def init(key, inputs):
        params = method.init(key, inputs)
        ways = jax.eval_shape(model.apply, params["base"], inputs)[0].shape[-1]
        for path, leaf in jax.tree_util.tree_leaves_with_path(params["base"]["head"]):
            if leaf.shape[-1:] != (ways,):
                raise ValueError(
                    f"head{jax.tree_util.keystr(path)} is {leaf.shape} but there are {ways} "
                    "classes, which must be its last axis: use a head that is one dense layer"
                )
        return _with_one_vector(params, lambda leaf: leaf[..., :1])

    def adapt(params, support):
        return method.adapt(
            _with_one_vector(params, lambda leaf: leaf.mean(-1, keepdims=True)), support
        )

    return method._replace(init=init, adapt=adapt)


def _with_one_vector(params, vector_of):
    base = params["base"]
    head = jax.tree.map(lambda leaf: jnp.broadcast_to(vector_of(leaf), leaf.shape), base["head"])
    return params | {"base": base | {"head": head}}
