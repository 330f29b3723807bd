"""A user's own Flax modules as a `Model`."""

from collections.abc import Callable

import flax.linen as nn
import jax
from flax import nnx

from cml_jax.types import Model


def from_linen(body: nn.Module, head: nn.Module | None = None) -> Model:
    """A `Model` from Flax Linen modules.

    `features = body(inputs)`, `outputs = head(features)`, both called with one argument.

    Args:
      body: with `head` absent, the whole network (a co-learner): then init gives the module's own
        parameter tree and `features` are the inputs it read.
      head: what adapts under ANIL and what CML's co-learner stands beside.

    Returns:
      A `Model`; its params are `{"body": ..., "head": ...}`, or the module's own without a head.

    Raises:
      ValueError: at init, when a module has variables that are not parameters (running batch
        statistics, say).
    """

    def init_one(module, key, inputs):
        variables = dict(module.init(key, inputs))
        params = variables.pop("params", {})
        if variables:
            raise ValueError(
                f"{type(module).__name__} keeps state in {sorted(variables)}, which an inner loop "
                "cannot carry: use layers without it, such as cml_jax.models.BatchNorm"
            )
        return params

    def init(key, inputs):
        if head is None:
            return init_one(body, key, inputs)
        body_key, head_key = jax.random.split(key)
        params = init_one(body, body_key, inputs)
        features = body.apply({"params": params}, inputs)
        return {"body": params, "head": init_one(head, head_key, features)}

    def apply(params, inputs):
        if head is None:
            return body.apply({"params": params}, inputs), inputs
        features = body.apply({"params": params["body"]}, inputs)
        return head.apply({"params": params["head"]}, features), features

    return Model(init, apply)


def from_nnx(
    body: Callable[[nnx.Rngs], nnx.Module], head: Callable[[nnx.Rngs], nnx.Module] | None = None
) -> Model:
    """A `Model` from functions that build Flax NNX modules.

        from_nnx(lambda rngs: Body(rngs=rngs), lambda rngs: nnx.Linear(64, 5, rngs=rngs))

    Args:
      body: builds the body from `nnx.Rngs`; without a head, the whole network (a co-learner).
      head: builds the head.

    Returns:
      A `Model`; its params are plain dicts, as those of `from_linen`.

    Raises:
      ValueError: at once, when a module has variables that are not `nnx.Param`.
    """
    graphs = [None if build is None else _graph(build) for build in (body, head)]

    def init_one(build, key):
        return nnx.to_pure_dict(nnx.state(build(nnx.Rngs(key)), nnx.Param))

    def call(graph, params, inputs):
        graphdef, state = graph
        state = jax.tree.map(lambda x: x, state)  # replaced in place below: keep ours
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(graphdef, state)(inputs)

    def init(key, inputs):
        del inputs
        if head is None:
            return init_one(body, key)
        body_key, head_key = jax.random.split(key)
        return {"body": init_one(body, body_key), "head": init_one(head, head_key)}

    def apply(params, inputs):
        if head is None:
            return call(graphs[0], params, inputs), inputs
        features = call(graphs[0], params["body"], inputs)
        return call(graphs[1], params["head"], features), features

    return Model(init, apply)


def _graph(build):
    abstract = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    graphdef, params, rest = nnx.split(abstract, nnx.Param, ...)
    kinds = {type(leaf).__name__ for leaf in nnx.to_flat_state(rest).leaves}
    if kinds:
        raise ValueError(
            f"{type(abstract).__name__} keeps state in {sorted(kinds)}, which an inner loop cannot "
            "carry: use layers with nnx.Param alone"
        )
    return graphdef, params
