"""The inner loop: gradient descent that can be differentiated, on the parts that adapt."""

from collections.abc import Callable

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import optax
from jax import core

from cml_jax.types import Batch, Loss, Model, Noisy, Params, PyTree


def loss_on(model: Model, loss: Loss, batch: Batch) -> Callable[..., jax.Array]:
    """The loss of a model on a batch as a function of its parameters.

    PRNG keys among the inputs (one for each example) are the source of noise such as dropout: the
    keys of a `Noisy`, of either style, and typed keys anywhere else. The number of the inner step
    is folded into each of them, so that every step draws new noise. A model whose inputs hold no
    keys draws none.

    Args:
      model: The network.
      loss: A function `(outputs, targets) -> scalar`.
      batch: The examples, whose leaves are `[n, ...]`.

    Returns:
      A function of the parameters `{"body", "head"}` and, optionally, the number of the inner step,
      to a scalar.
    """

    def batch_loss(base, step=None):
        inputs = batch.inputs if step is None else _at_step(batch.inputs, step)
        outputs, _ = model.apply(base, inputs)
        return loss(outputs, batch.targets)

    return batch_loss


def _at_step(inputs, step):
    def is_noisy(node):
        return isinstance(node, Noisy)

    def fold_key(key):
        return jax.vmap(jax.random.fold_in, (0, None))(key, step)

    def fold(leaf):
        if is_noisy(leaf):  # by its place: old-style keys are plain uint32
            return Noisy(_at_step(leaf.inputs, step), jax.tree.map(fold_key, leaf.keys))
        return fold_key(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf

    return jax.tree.map(fold, inputs, is_leaf=is_noisy)


def sgd(learning_rate: PyTree) -> optax.GradientTransformation:
    """Plain gradient descent whose learning rate may differ between parts of the parameters.

        u = -learning_rate * gradient

    Args:
      learning_rate: One rate for all parameters, a number or a traced scalar, or a prefix of the
        parameter tree with a rate for each part, such as `{"body": 0.0, "head": 0.5}`. The rates
        may be arrays that have the shapes of the parameters.

    Returns:
      An optax transformation without state.

    Raises:
      ValueError: In `update`, when `learning_rate` is not a prefix of the gradients.

    >>> import jax.numpy as jnp
    >>> gradient = {"body": jnp.array([1.0, 2.0]), "head": jnp.array([3.0])}
    >>> optimizer = sgd({"body": 0.5, "head": 2.0})
    >>> updates, _ = optimizer.update(gradient, optimizer.init(gradient))
    >>> print(updates["body"], updates["head"])
    [-0.5 -1. ] [-6.]
    """

    def update(gradients, _):
        rates = rate_per_leaf(learning_rate, gradients)
        return jax.tree.map(lambda rate, g: -rate * g, rates, gradients)

    return optax.stateless(update)


def rate_per_leaf(learning_rate: PyTree, params: PyTree) -> PyTree:
    """The rate of every leaf, from a scalar or a prefix tree of rates.

    Args:
      learning_rate: One rate, or a prefix tree of rates, as `sgd` takes it.
      params: The parameters or their gradients, any tree.

    Returns:
      A tree with the structure of `params` whose leaves are the rates as they were given.

    Raises:
      ValueError: When `learning_rate` is not a prefix of `params`.
    """
    try:
        return jax.tree.map(
            lambda rate, part: jax.tree.map(lambda _: rate, part), learning_rate, params
        )
    except ValueError as error:
        raise ValueError(
            _mismatch("learning_rate", learning_rate, params)
            + "give one rate for all, or one for each part, such as {'body': 0.1, 'head': 0.5}"
        ) from error


def gradient_descent(
    loss: Callable[..., jax.Array],
    params: Params,
    optimizer: optax.GradientTransformation,
    num_steps: int | jax.Array,
    *,
    adapts: PyTree = True,
    first_order: jax.typing.ArrayLike = False,
    remat: bool = False,
    first_step: jax.typing.ArrayLike | None = None,
) -> Params:
    """The inner loop: steps of an optimiser that can be differentiated as a whole.

        theta_{k+1} = theta_k + u_k,   u_k = optimizer(grad loss(theta_k)),   k = 0, ..., K - 1

    The result is differentiable with respect to `params` and to everything that `loss` and
    `optimizer` are made of. With `first_order` every gradient inside u_k counts as a constant, so
    that `d theta_K / d theta_0` is the identity (where the update does not read the parameters).

    Args:
      loss: The support loss, a function of the whole parameter tree to a scalar.
      params: The parameters that the loop starts from, a tree of floating arrays.
      optimizer: Any optax transformation; it starts from a fresh state. `check_differentiable` says
        whether its derivative is finite everywhere.
      num_steps: The number of steps K, from 0. An int; or a traced integer, where one compiled
        program is to test after different numbers of steps, which JAX cannot differentiate in
        reverse.
      adapts: Which parts adapt, True or a prefix tree of bools. The other parts are constants of
        the loop; the derivative with respect to them is kept.
      first_order: Whether the inner gradients count as constants (FOMAML). It may be a traced bool,
        to change from first to second order in one program: only the order that holds is computed
        (both under a `vmap` over this bool).
      remat: Whether to recompute each step in the backward pass. Memory then grows with the number
        of steps by one copy of the adapted parameters, not by all activations.
      first_step: When given, step k minimises `loss(params, first_step + k)`, which is how a loss
        from `loss_on` draws new noise in each step.

    Returns:
      The adapted parameters, a tree like `params`. Leaves that do not adapt are the same objects.

    Raises:
      ValueError: When `num_steps` is negative or `adapts` is not a prefix of `params`.

    Reference: Finn et al. 2017, https://arxiv.org/abs/1703.03400, eq. 1.

    >>> import jax, jax.numpy as jnp
    >>> def loss(params):
    ...     return (params["body"] * params["head"] - 1.0) ** 2
    >>> params = {"body": jnp.array(1.0), "head": jnp.array(0.0)}
    >>> only_head = {"body": False, "head": True}
    >>> adapted = gradient_descent(loss, params, sgd(0.25), num_steps=2, adapts=only_head)
    >>> print(adapted["body"], adapted["head"])
    1.0 0.75

    The derivative passes through both steps:

    >>> def outer_loss(params):
    ...     return loss(gradient_descent(loss, params, sgd(0.25), 2, adapts=only_head))
    >>> print(jax.grad(outer_loss)(params)["head"])
    -0.125
    """
    if not isinstance(num_steps, jax.Array) and num_steps < 0:
        raise ValueError(f"num_steps={num_steps} but an inner loop has 0 or more steps: raise it")
    fast = select(adapts, params)

    def gradient(fast, params, *number):
        return jax.grad(lambda fast: loss(merge(fast, params), *number))(fast)

    def constant_gradient(fast, params, *number):
        # No tangent may enter the inner loss, or its linearisation is computed anyway.
        return gradient(*jax.lax.stop_gradient((fast, params)), *number)

    def step(carry, number):
        fast, opt_state = carry
        at = (fast, params) if number is None else (fast, params, number)
        if isinstance(first_order, jax.Array):
            gradients = jax.lax.cond(first_order, constant_gradient, gradient, *at)
        else:
            gradients = (constant_gradient if first_order else gradient)(*at)
        updates, opt_state = optimizer.update(gradients, opt_state, fast)
        return (optax.apply_updates(fast, updates), opt_state), None

    if not jax.tree.leaves(fast):
        return merge(fast, params)
    carry = (fast, optimizer.init(fast))
    if isinstance(num_steps, jax.Array):

        def numbered(k, carry):
            return step(carry, None if first_step is None else k + first_step)[0]

        fast, _ = jax.lax.fori_loop(jnp.zeros_like(num_steps), num_steps, numbered, carry)
    elif num_steps:
        step = jax.checkpoint(step, prevent_cse=False) if remat else step
        numbers = None
        if first_step is not None:
            numbers = jnp.arange(num_steps, dtype=jnp.int32) + jnp.asarray(first_step, jnp.int32)
        (fast, _), _ = jax.lax.scan(step, carry, numbers, num_steps, unroll=num_steps == 1)
    return merge(fast, params)


def check_differentiable(
    optimizer: optax.GradientTransformation, params: Params, *, first_order: bool = False
) -> None:
    """Refuses an inner optimiser whose update does not have a finite derivative.

    Adam with eps_root=0 divides by the square root of a squared gradient, and clipping by a norm
    takes the root of a sum of squares. Their derivative at zero is infinite, and one dead unit, or
    one task whose support gradient is zero, turns the whole meta-gradient into NaN.

    Two steps are differentiated at gradients and first parameters that are 1 and, in turn, 0 in one
    element of each leaf, in every other leaf, or everywhere. The tree has the structure, ranks and
    dtypes of `params`, but no axis longer than 2, to be cheap; an optimiser that only takes the
    shapes of `params` (it may hold arrays of these shapes) is given them. What is traced in the
    optimiser (its learning rate, say) is taken to be 1/2.

    Args:
      optimizer: An optax transformation whose `update` takes gradients, state and parameters.
      params: The parameters that adapt; only their structure, shapes and dtypes matter.
      first_order: Whether the gradients are constants of the outer loop. Then only the derivative
        with respect to the parameters, which the updates of some optimisers read, must be finite.

    Raises:
      ValueError: When the derivative is not finite; the message names what can be used instead.

    >>> import jax.numpy as jnp, optax
    >>> check_differentiable(optax.adam(0.1, eps_root=1e-8), {"head": jnp.ones(3)})
    >>> check_differentiable(optax.adam(0.1), {"head": jnp.ones(3)})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
      ...
    ValueError: optimizer: the derivative of its update is not finite where one gradient is 0, ...
    """
    if not jax.tree.leaves(params):
        return
    try:
        found = _infinite_slopes(optimizer, params, short=True)
    except (TypeError, ValueError):
        found = None
    if found is None:
        found = _infinite_slopes(optimizer, params, short=False)
    by_gradient, by_params = found
    if where := by_params or ("" if first_order else by_gradient):
        cheaper = "" if by_params else ", or first_order=True"
        raise ValueError(
            f"optimizer: the derivative of its update is not finite where {where}, which makes the "
            "meta-gradient NaN: use eps_root=1e-8 in optax.adam and its like, eps=1e-8 in "
            "optax.lars and optax.scale_by_trust_ratio, cml_jax.clipping.clip_by_global_norm (or "
            "clip_by_block_rms, adaptive_grad_clip, normalize_by_update_norm) in place of optax's"
            + cheaper
        )


# What `check_differentiable` sets to 0: of the gradients, of the parameters, and how to say it.
_PROBES = (
    ("one", None, "one gradient is 0"),
    ("even", None, "the gradients of a leaf are 0"),
    ("odd", None, "the gradients of a leaf are 0"),
    ("all", None, "all gradients are 0"),
    (None, "one", "one parameter is 0"),
    (None, "even", "the parameters of a leaf are 0"),
    (None, "odd", "the parameters of a leaf are 0"),
    (None, "all", "all parameters are 0"),
    ("all", "all", "gradients and parameters are 0"),
)


def _infinite_slopes(optimizer, params, short):
    """The first of `_PROBES` at which the derivative of two steps by their gradients is not finite,
    and the first at which that by the parameters is not, in words; "" where there is none."""
    leaves, structure = jax.tree.flatten(params)

    def total(gradients, params):
        state = optimizer.init(params)
        for _ in range(2):  # in the first some optimisers only gather what they divide by
            updates, state = optimizer.update(gradients, state, params)
            params = optax.apply_updates(params, updates)
        return sum(leaf.sum() for leaf in jax.tree.leaves(params))

    def ones_but(part):
        def leaf(i, like):
            values = np.ones([min(n, 2) if short else n for n in jnp.shape(like)])
            if part == "one" and values.size > 1:  # else it would be the whole leaf
                values.flat[0] = 0
            elif part == "all" or part == ("even", "odd")[i % 2]:
                values[...] = 0
            return jnp.asarray(values, jnp.result_type(like))

        return structure.unflatten([leaf(i, like) for i, like in enumerate(leaves)])

    with jax.ensure_compile_time_eval():
        trees = {part: ones_but(part) for part in (None, "one", "even", "odd", "all")}
        # Backwards, as the outer loop goes: forwards, jnp.where hides what it does not take.
        program = jax.make_jaxpr(jax.grad(total, (0, 1)))(trees[None], trees[None])
        known = [
            jnp.full(x.shape, 0.5, x.dtype) if isinstance(x, core.Tracer) else x
            for x in program.consts
        ]
        found = ["", ""]
        for gradients, parameters, words in _PROBES:
            at = jax.tree.leaves((trees[gradients], trees[parameters]))
            slopes = core.eval_jaxpr(program.jaxpr, known, *at)
            for i, part in enumerate((slopes[: len(leaves)], slopes[len(leaves) :])):
                if not found[i] and not all(np.isfinite(np.asarray(x, float)).all() for x in part):
                    found[i] = words
    return found


def perturb(params: Params, gradient: Params, radius: jax.typing.ArrayLike) -> Params:
    """The ascent step of sharpness-aware minimisation, to the border of a ball.

        params + radius * gradient / |gradient|

    Where the gradient is zero the result equals `params`. (Sharp-MAML's code adds 1e-12 to the
    norm, whose derivative at zero is not finite.)

    Args:
      params: The centre of the ball, any tree of arrays.
      gradient: A tree like `params`. The norm is over all its leaves together.
      radius: The radius rho of the ball, at least 0.

    Returns:
      A tree like `params`.

    Reference: Foret et al. 2021, https://arxiv.org/abs/2010.01412, eq. 2 with p = 2.
    """
    square = optax.tree.norm(gradient, squared=True)
    norm = jnp.sqrt(jnp.where(square > 0, square, 1))
    return jax.tree.map(lambda p, g: p + (radius / norm).astype(p.dtype) * g, params, gradient)


def select(adapts: PyTree, params: PyTree) -> PyTree:
    """The part of a tree that adapts.

    Args:
      adapts: True, False or a prefix tree of bools.
      params: Any tree.

    Returns:
      `params` with None, which is not a leaf, in place of each leaf for which `adapts` is False.

    Raises:
      ValueError: When `adapts` is not a prefix of `params`.
    """
    try:
        return jax.tree.map(
            lambda keep, part: jax.tree.map(lambda leaf: leaf if keep else None, part),
            adapts,
            params,
        )
    except ValueError as error:
        raise ValueError(
            _mismatch("adapts", adapts, params)
            + "give True, or a bool for each part, such as {'body': False, 'head': True}"
        ) from error


def _mismatch(name, prefix, params):
    """The beginning of the message that `prefix` is not a prefix tree of `params`."""
    value = " ".join(repr(prefix).split())
    value = value if len(value) <= 80 else value[:77] + "..."
    missing, unknown = _mismatches(prefix, params)

    def listed(paths):
        more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
        return ", ".join(paths[:5]) + more

    parts = [f"lacks {listed(missing)}"] if missing else []
    parts += [f"names {listed(unknown)}, which the parameters do not have"] if unknown else []
    kinds = type(prefix).__name__, type(params).__name__
    parts = parts or ["has other containers than the parameters ({} and {})".format(*kinds)]
    return f"{name}={value} {' and '.join(parts)}: "


def _mismatches(prefix, tree, path=""):
    """The paths of `tree` that `prefix` does not have, and those that only `prefix` has."""

    def children(node):
        pairs = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)[0]
        return {jax.tree_util.keystr(key): child for key, child in pairs}

    given, there = children(prefix), children(tree)
    if "" in given:  # a leaf, which stands for all below
        return [], []
    missing = [path + key for key in there if key not in given]
    unknown = [path + key for key in given if key not in there]
    if "" in there:  # a parameter, for which a whole tree is given
        missing = []
    for key in given:
        if key in there:
            below = _mismatches(given[key], there[key], path + key)
            missing, unknown = missing + below[0], unknown + below[1]
    return missing, unknown


def merge(fast: PyTree, params: PyTree) -> PyTree:
    """The leaves of `fast`, and those of `params` where `fast` has None; it undoes `select`.

    Args:
      fast: What `select` returned, or a tree like it with new leaves.
      params: The whole tree.

    Returns:
      A tree like `params`.
    """
    return jax.tree.map(
        lambda new, old: old if new is None else new, fast, params, is_leaf=lambda x: x is None
    )
