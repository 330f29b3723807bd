"""The inner loop: differentiable gradient descent on the part of a tree that adapts."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from cml_jax.types import Batch, Loss, Model, Noisy, Params, PyTree


def loss_on(model: Model, loss: Loss, batch: Batch) -> Callable[..., jax.Array]:
    """The loss of `model` on `batch` as a function of its parameters, to a scalar.

        base -> loss,    (base, step) -> loss with the noise of an inner step

    The keys of a `Noisy` among the inputs, of either style, and typed PRNG keys anywhere else are
    noise, such as dropout's: with `step` every key has it folded in, so that each inner step draws
    anew. What has no key has no noise.
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
    """Plain gradient descent, `-learning_rate * gradient`, with a rate that may be a prefix tree.

    Args:
      learning_rate: a scalar (Python or traced) or a prefix of the parameter tree, such as
        `{"body": 0.0, "head": 0.5}`.
    """

    def update(gradients, _):
        rates = rate_per_leaf(learning_rate, gradients)
        return jax.tree.map(lambda rate, g: -rate * g, rates, gradients)

    return optax.stateless(update)


def rate_per_leaf(learning_rate: PyTree, params: PyTree) -> PyTree:
    """The rate of every leaf of `params`, from a scalar or a prefix tree of rates.

    Args:
      learning_rate: as `sgd` takes it.
      params: the parameters or their gradients.

    Returns:
      A tree with the structure of `params` whose leaves are the rates as they were given.

    Raises:
      ValueError: when learning_rate is no prefix of `params`.
    """
    try:
        return jax.tree.map(
            lambda rate, part: jax.tree.map(lambda _: rate, part), learning_rate, params
        )
    except ValueError as error:
        raise ValueError(
            f"learning_rate={jax.tree.structure(learning_rate)} is no prefix of the "
            f"parameters, whose parts are {_parts(params)}: use a scalar or a rate per part"
        ) from error


def gradient_descent(
    loss: Callable[..., jax.Array],
    params: Params,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    *,
    adapts: PyTree = True,
    first_order: jax.typing.ArrayLike = False,
    remat: bool = False,
    first_step: jax.typing.ArrayLike | None = None,
) -> Params:
    """`num_steps` optax steps on `loss`, differentiable with respect to everything it is made of.

    `theta_{k+1} = theta_k + u_k`,  `u_k = optimizer(grad loss(theta_k))`; with `first_order`, every
    gradient inside `u_k` is a constant, so that `d theta_K / d theta_0` is the identity (under an
    optimiser whose update does not read the parameters).

    Args:
      loss: the support loss as a function of the whole tree, to a scalar.
      params: the tree the loop starts from.
      optimizer: any optax transformation; to second order one that `check_differentiable` takes.
      num_steps: K >= 0, static.
      adapts: a prefix tree of bools: which parts adapt. The others are closed over, not carried.
      first_order: treat the inner gradients as constants (FOMAML). It may be a traced bool, for
        annealing from first to second order in one program: only the one that holds is computed
        (both under a vmap over this bool).
      remat: recompute each step in the backward pass, so that memory grows by one copy of the
        adapted parameters a step and not by the activations.
      first_step: with it, step k minimises `loss(params, first_step + k)`, as `loss_on` takes it.

    Returns:
      The adapted tree; leaves that do not adapt are the very leaves of `params`.

    Raises:
      ValueError: when num_steps is negative or `adapts` is no prefix of `params`.

    Reference: MAML, Finn et al. 2017, https://arxiv.org/abs/1703.03400, eq. 1.
    """
    if num_steps < 0:
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

    if num_steps:
        carry = (fast, optimizer.init(fast))
        step = jax.checkpoint(step, prevent_cse=False) if remat else step
        numbers = None
        if first_step is not None:
            numbers = jnp.arange(num_steps, dtype=jnp.int32) + jnp.asarray(first_step, jnp.int32)
        (fast, _), _ = jax.lax.scan(step, carry, numbers, num_steps, unroll=num_steps == 1)
    return merge(fast, params)


def check_differentiable(optimizer: optax.GradientTransformation, params: Params) -> None:
    """Refuses an inner optimiser through whose first step the second order is not finite.

    Such as Adam with eps_root=0: it divides by the square root of a squared gradient, whose
    derivative at zero is infinite, and one dead unit turns the whole meta-gradient into NaN. The
    update itself is differentiated, at one gradient of zero beside one of one; what is traced of
    the optimiser (its learning rate, say) is taken to be 1/2.

    Args:
      optimizer: any optax transformation that needs no more than gradients and parameters.
      params: the tree it is for; only its structure and dtypes matter.

    Raises:
      ValueError: when that derivative is not finite.
    """

    def total(gradients, params):
        updates, _ = optimizer.update(gradients, optimizer.init(params), params)
        return sum(u.sum() for u in jax.tree.leaves(updates))

    def like_params(values):
        return jax.tree.map(lambda leaf: jnp.array(values, leaf.dtype), params)

    with jax.ensure_compile_time_eval():
        at = like_params([0, 1]), like_params([1, 1])
        # Backwards, as the outer loop goes: forwards, jnp.where hides what it does not take.
        program = jax.make_jaxpr(jax.grad(total, (0, 1)))(*at)
        known = [
            jnp.full(x.shape, 0.5, x.dtype) if isinstance(x, jax.core.Tracer) else x
            for x in program.consts
        ]
        slopes = jax.core.eval_jaxpr(program.jaxpr, known, *jax.tree.leaves(at))
        finite = all(jnp.isfinite(slope).all() for slope in slopes)
    if not finite:
        raise ValueError(
            "optimizer: the derivative of its update is not finite where a gradient is 0, so one "
            "dead unit makes a second-order meta-gradient NaN: use optax.adam(..., eps_root=1e-8) "
            "or another with its eps inside the square root, or first_order=True"
        )


def perturb(params: Params, gradient: Params, radius: jax.typing.ArrayLike) -> Params:
    """The ascent step of sharpness-aware minimisation, to the border of a ball.

        params + radius * gradient / |gradient|

    Args:
      params: any tree.
      gradient: a tree like `params`; its norm is over all leaves together.
      radius: rho >= 0.

    Returns:
      A tree like `params`, and `params` itself in value where the gradient is zero. (Sharp-MAML's
      code adds 1e-12 to the norm, whose derivative at zero is not finite.)

    Reference: Foret et al. 2021, https://arxiv.org/abs/2010.01412, eq. 2 with p = 2.
    """
    square = optax.tree.norm(gradient, squared=True)
    norm = jnp.sqrt(jnp.where(square > 0, square, 1))
    return jax.tree.map(lambda p, g: p + (radius / norm).astype(p.dtype) * g, params, gradient)


def select(adapts: PyTree, params: PyTree) -> PyTree:
    """`params` with None (no leaf) in the place of every leaf for which `adapts` is False."""
    try:
        return jax.tree.map(
            lambda keep, part: jax.tree.map(lambda leaf: leaf if keep else None, part),
            adapts,
            params,
        )
    except ValueError as error:
        raise ValueError(
            f"adapts={adapts} is no prefix of the parameters, whose parts are {_parts(params)}: "
            "use True or a tree of bools such as {'body': False, 'head': True}"
        ) from error


def _parts(params):
    return list(params) if isinstance(params, dict) else jax.tree.structure(params)


def merge(fast: PyTree, params: PyTree) -> PyTree:
    """The leaves of `fast`, and those of `params` where `fast` has None: undoes `select`."""
    return jax.tree.map(
        lambda new, old: old if new is None else new, fast, params, is_leaf=lambda x: x is None
    )
