"""A user's own Flax modules as a `Model`."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend.core import get_opaque_trace_state

from cml_jax.types import Model, Noisy


def from_linen(
    body: nn.Module, head: nn.Module | None = None, *, takes_noisy: bool = False
) -> Model:
    """A `Model` from Flax Linen modules.

        features = body(inputs),   outputs = head(features)

    Both modules are called with one argument.

    Dropout is decided by the inputs. On `Noisy` inputs every `nn.Dropout` and every dropout of an
    attention layer is on and draws from the key of the first example; on other inputs it is off.
    What the module itself says about `deterministic` is not read.
    A co-learner reads features, which have no keys: its dropout is off.

    Args:
      body: What comes before the head. Without a head it is the whole network, such as a
        co-learner.
      head: The part that adapts under ANIL; CML's co-learner is a second head beside it.
      takes_noisy: True hands a `Noisy` to the body as it is, for modules that draw from its keys
        themselves. False hands over its inputs only.

    Returns:
      A `Model`. Its parameters are `{"body": ..., "head": ...}`. Without a head they are the
      module's own tree, and the features are the inputs. `layers` names the outputs of all modules
      by their paths, such as "body/Dense_0"; the last two names are "body" (the features) and
      "head" (the outputs), or "outputs" without a head. Where a module hands on the very array that
      its last submodule returned, the array has the outer name. Modules that are called inside a
      transformation such as `nn.scan` are left out.

    Raises:
      ValueError: In `init`, when a module has variables that are not parameters, such as running
        batch statistics.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp, cml_jax
      >>> from cml_jax.models import from_linen
      >>> class Body(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, x):
      ...         return nn.Dropout(0.5)(nn.relu(nn.Dense(8)(x)))
      >>> model = from_linen(Body(), nn.Dense(2))
      >>> x = jnp.ones((5, 3))
      >>> params = model.init(jax.random.key(0), x)
      >>> outputs, features = model.apply(params, x)  # without dropout
      >>> outputs.shape, features.shape
      ((5, 2), (5, 8))
      >>> list(model.layers(params, x))
      ['body/Dense_0', 'body', 'head']

      Dropout while adapting: support inputs with a key for each example.

      >>> noisy = cml_jax.Noisy(x, jax.random.split(jax.random.key(1), 5))
      >>> outputs, features = model.apply(params, noisy)
    """

    def init_one(module, key, inputs):
        variables = dict(_call_linen(module, None, inputs, None, init_key=key))
        params = variables.pop("params", {})
        if variables:
            raise ValueError(
                f"{type(module).__name__} keeps state in {sorted(variables)}, which an inner loop "
                "cannot carry: use layers without it, such as cml_jax.models.BatchNorm"
            )
        return params

    def init(key, inputs):
        inputs, _ = (inputs, None) if takes_noisy else _inputs_and_key(inputs)
        if head is None:
            return init_one(body, key, inputs)
        body_key, head_key = jax.random.split(key)
        params = init_one(body, body_key, inputs)
        features = _call_linen(body, params, inputs, None)
        return {"body": params, "head": init_one(head, head_key, features)}

    return Model(init, *_apply_and_layers(body, head, _call_linen, takes_noisy))


def from_nnx(
    body: Callable[[nnx.Rngs], nnx.Module], head: Callable[[nnx.Rngs], nnx.Module] | None = None
) -> Model:
    """A `Model` from functions that build Flax NNX modules.

        features = body(inputs),   outputs = head(features)

    Dropout is decided by the inputs. On `Noisy` inputs every `nnx.Dropout` and every dropout of an
    attention layer is on and draws from the key of the first example; on other inputs it is off.
    (A `deterministic=True` in the call of a layer itself still turns it off.)

    Args:
      body: A function from `nnx.Rngs` to the body. Without a head it builds the whole network, such
        as a co-learner.
      head: A function from `nnx.Rngs` to the head.

    Returns:
      A `Model`. Its parameters are plain dicts, and its `layers` are named, as those of
      `from_linen`.

    Raises:
      ValueError: At once, when a module has variables that are neither `nnx.Param` nor PRNG keys.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import nnx
      >>> from cml_jax.models import from_nnx
      >>> class Body(nnx.Module):
      ...     def __init__(self, rngs):
      ...         self.linear = nnx.Linear(3, 8, rngs=rngs)
      ...         self.dropout = nnx.Dropout(0.5, rngs=rngs)
      ...     def __call__(self, x):
      ...         return self.dropout(nnx.relu(self.linear(x)))
      >>> model = from_nnx(lambda rngs: Body(rngs), lambda rngs: nnx.Linear(8, 2, rngs=rngs))
      >>> x = jnp.ones((5, 3))
      >>> params = model.init(jax.random.key(0), x)
      >>> outputs, features = model.apply(params, x)  # without dropout; with it on a `Noisy`
      >>> outputs.shape, features.shape
      ((5, 2), (5, 8))
      >>> list(model.layers(params, x))
      ['body/linear', 'body', 'head']
    """
    graphs = [None if build is None else _graph(build) for build in (body, head)]

    def init_one(build, key):
        return nnx.to_pure_dict(nnx.state(build(nnx.Rngs(key)), nnx.Param))

    def init(key, inputs):
        del inputs
        if head is None:
            return init_one(body, key)
        body_key, head_key = jax.random.split(key)
        return {"body": init_one(body, body_key), "head": init_one(head, head_key)}

    apply_and_layers = _apply_and_layers(graphs[0], graphs[1], _call_nnx, takes_noisy=False)
    return Model(init, *apply_and_layers)


def _apply_and_layers(body, head, call, takes_noisy):
    """`Model.apply` and `Model.layers` of two modules under `call(module, params, inputs, key)`."""

    def run(params, inputs, observe):
        inputs, key = (inputs, None) if takes_noisy else _inputs_and_key(inputs)
        if head is None:
            return call(body, params, inputs, key, observe=observe("")), inputs
        features = call(body, params["body"], inputs, key, observe=observe("body"))
        key = None if key is None else jax.random.fold_in(key, 1)
        return call(head, params["head"], features, key, observe=observe("head")), features

    def apply(params, inputs):
        return run(params, inputs, lambda prefix: None)

    def layers(params, inputs):
        found = {}
        run(params, inputs, lambda prefix: _recorder(found, prefix))
        return found

    return apply, layers


def _inputs_and_key(inputs):
    return (inputs.inputs, inputs.keys[0]) if isinstance(inputs, Noisy) else (inputs, None)


def _recorder(found, prefix):
    """A function that writes a module's path and output into `found`."""
    outside = get_opaque_trace_state(convention="nnx")

    def observe(path, output):
        if get_opaque_trace_state(convention="nnx") != outside:
            return  # inside of nn.scan, jax.vmap, ...: that output cannot leave it
        name = "/".join(str(part) for part in (prefix, *path) if part != "") or "outputs"
        if found:
            last, value = next(reversed(found.items()))
            if value is output:
                if path and not last.startswith(name + "/"):
                    return  # a layer that did nothing, such as dropout that is off
                del found[last]
        number = 1 + sum(name == other.split("#")[0] for other in found)
        found[name if number == 1 else f"{name}#{number}"] = output

    return observe


def _call_linen(module, params, inputs, key, *, init_key=None, observe=None):
    """`module(inputs)`, with dropout where there is a key; with `init_key` its first variables."""

    def intercept(next_function, args, kwargs, context):
        layer = context.module
        if context.method_name != "__call__":
            return next_function(*args, **kwargs)
        if isinstance(layer, nn.Dropout | nn.MultiHeadDotProductAttention):
            kwargs = {name: value for name, value in kwargs.items() if name != "deterministic"}
            args = args[:1] if isinstance(layer, nn.Dropout) else args
            output = _with_dropout(layer, key is not None, next_function, args, kwargs)
        else:
            output = next_function(*args, **kwargs)
        if observe is not None:
            observe(layer.path, output)
        return output

    # Flax takes other streams than "dropout" from "params".
    streams = {} if key is None else {"dropout": key, "params": jax.random.fold_in(key, 2)}
    with nn.intercept_methods(intercept):
        if init_key is not None:
            return module.init(init_key, inputs)
        return module.apply({"params": params}, inputs, rngs=streams)


def _with_dropout(layer, on, function, args, kwargs):
    # The attribute, not the argument: Flax refuses both, and the user may have given either.
    given = layer.deterministic
    object.__setattr__(layer, "deterministic", not on)
    try:
        return function(*args, **kwargs)
    finally:
        object.__setattr__(layer, "deterministic", given)


def _graph(build):
    abstract = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    graphdef, params, streams, rest = nnx.split(abstract, nnx.Param, nnx.RngState, ...)
    kinds = {type(leaf).__name__ for leaf in nnx.to_flat_state(rest).leaves}
    if kinds:
        raise ValueError(
            f"{type(abstract).__name__} keeps state in {sorted(kinds)}, which an inner loop cannot "
            "carry: use layers with nnx.Param alone"
        )
    return graphdef, params, streams


def _call_nnx(graph, params, inputs, key, *, observe=None):
    """The module of `_graph` on `inputs`, with dropout where there is a key."""
    graphdef, state, streams = graph
    state = jax.tree.map(lambda x: x, state)  # replaced in place below: keep ours
    nnx.replace_by_pure_dict(state, params)
    module = nnx.merge(graphdef, state, _seeded(streams, key))
    for _, layer in nnx.iter_modules(module):
        if isinstance(layer, nnx.Dropout | nnx.MultiHeadAttention):
            layer.deterministic = key is None
            if key is None:  # the argument of a call would overrule the attribute
                rate = "rate" if isinstance(layer, nnx.Dropout) else "dropout_rate"
                setattr(layer, rate, 0.0)
    return module(inputs) if observe is None else _observed(module, inputs, observe)


def _seeded(streams, key):
    """The state of a module's PRNG streams, one folded key each, at their start."""
    key = jax.random.key(0) if key is None else key  # nothing is drawn without a key
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    leaves, structure = jax.tree.flatten(streams)
    for i, leaf in enumerate(leaves):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            own = jax.random.fold_in(key, i)
            leaves[i] = jax.random.split(own, leaf.shape) if leaf.shape else own
        else:
            leaves[i] = jnp.zeros(leaf.shape, leaf.dtype)
    return jax.tree.unflatten(structure, leaves)


def _observed(module, inputs, observe):
    """`module(inputs)`, and `observe(path, output)` at the end of each call of a submodule."""
    paths = {id(layer): path for path, layer in nnx.iter_modules(module)}
    kinds = {type(layer) for _, layer in nnx.iter_modules(module) if callable(layer)}
    own = {kind: vars(kind).get("__call__") for kind in kinds}

    def observed(kind):
        call = kind.__call__

        def wrapper(self, *args, **kwargs):
            output = call(self, *args, **kwargs)
            if type(self) is kind and id(self) in paths:  # neither a superclass's call nor a copy
                observe(paths[id(self)], output)
            return output

        return wrapper

    # Python looks __call__ up on the class: it is replaced for the length of this call, as
    # nnx.capture does, which does not keep the order.
    try:
        for kind, wrapper in {kind: observed(kind) for kind in kinds}.items():
            kind.__call__ = wrapper
        return module(inputs)
    finally:
        for kind, call in own.items():
            if call is None:
                del kind.__call__
            else:
                kind.__call__ = call
