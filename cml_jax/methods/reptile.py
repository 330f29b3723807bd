"""Reptile: move the initialisation towards each task's adapted parameters."""

import jax
import jax.numpy as jnp
import optax

from cml_jax.inner import gradient_descent, loss_on
from cml_jax.types import Adapted, Loss, Method, Model


def reptile(
    model: Model, loss: Loss, *, optimizer: optax.GradientTransformation, num_steps: int
) -> Method:
    """Reptile as an objective, `1/2 |theta - stop_gradient(theta')|^2`.

    Its gradient is `theta - theta'`, so one step of SGD(eps) on the mean over tasks is the
    published interpolation `theta + eps * mean_i(theta'_i - theta)`, and Reptile needs no outer
    loop of its own. The query set is not trained on. The reported "loss" is this distance.

    `theta'` is returned with its first-order path to theta. The objective above cuts this path, and
    a wrapper such as `cml` uses it.

    Every inner step sees the whole support set; `reptile_released` draws minibatches.

    Args:
      model: The network.
      loss: A function `(outputs, targets) -> scalar` for the inner loop.
      optimizer: The inner optimiser, with a fresh state for every task (`reptile_released` carries
        its state from task to task). It need not be differentiable: the order is the first.
      num_steps: The number of inner steps, static.

    Returns:
      A `Method` with the parameters {"base": {"body", "head"}}.

    Raises:
      ValueError: In `adapt`, when num_steps is negative.

    Reference: Nichol et al. 2018, https://arxiv.org/abs/1803.02999, algorithm 2.
    """

    def init(key, inputs):
        return {"base": model.init(key, inputs)}

    def update(updates, state, params=None):
        # Constants, as the gradients: `d theta' / d theta` is the identity and cannot be NaN.
        return optimizer.update(updates, state, jax.lax.stop_gradient(params))

    def adapt(params, support):
        adapted = gradient_descent(
            loss_on(model, loss, support),
            params["base"],
            optax.GradientTransformation(optimizer.init, update),
            num_steps,
            first_order=True,
            first_step=0,
        )
        return Adapted(adapted)

    def predict(adapted, inputs):
        return model.apply(adapted.params, inputs)

    def objective(params, adapted, query, prediction=None):
        del query, prediction
        gap = jax.tree.map(
            lambda p, a: jnp.sum(jnp.square(p - jax.lax.stop_gradient(a))),
            params["base"],
            adapted.params,
        )
        value = jnp.asarray(sum(jax.tree.leaves(gap))) / 2
        return value, {"loss": value}

    return Method(init, adapt, predict, objective)


def reptile_released(
    model: Model,
    loss: Loss,
    *,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    minibatch: int,
) -> Method:
    """Reptile as its released code runs it: minibatches, and an inner optimiser that remembers.

        theta_{k+1} = theta_k + optimizer(grad L(theta_k; minibatch k)),   k = 0, ..., K - 1

    The minibatches walk through the support set, which is shuffled anew for every pass; one
    minibatch may start in one pass and end in the next. The published inner optimiser is
    `optax.adam(rate, b1=0.0)`. Its state is in `params["carried"]`: the tasks of a meta-step start
    from it, and `meta_step` puts the mean of the states that they end in there. A test task starts
    from it too, and leaves it as it is.

    With one task in a meta-step this is the released code. With T tasks the code runs them one
    after another, each from the state that the one before left. Here they run at once, from the
    same state, so that the moments forget T times more slowly. The tasks of a meta-step share the
    order of their minibatches, which changes from step to step: a fixed order would favour the
    labels that it ends with.

    With SGD and `K * minibatch` support examples, `theta - theta'` is what gradient agreement
    weighs in its Reptile form: the sum of K updates on K disjoint parts of the task's examples.

    Args:
      model: The network.
      loss: A function `(outputs, targets) -> scalar` for the inner loop.
      optimizer: The inner optimiser.
      num_steps: The number K of inner steps, static. The code takes more at test (50).
      minibatch: The number of examples in an inner step, static.

    Returns:
      A `Method` whose parameters have "carried" beside "base"; `adapt` returns the next value as
      `extra["carried"]`.

    Raises:
      ValueError: When minibatch is not positive.

    Reference: Nichol et al. 2018, https://arxiv.org/abs/1803.02999, and its code,
    https://github.com/openai/supervised-reptile. Eshratifar et al. 2018,
    https://arxiv.org/abs/1810.08178.
    """
    if minibatch < 1:
        raise ValueError(f"minibatch={minibatch} but an inner step needs an example: raise it")
    plain = reptile(model, loss, optimizer=optimizer, num_steps=num_steps)

    def init(key, inputs):
        params = plain.init(key, inputs)
        state = optimizer.init(params["base"])
        return params | {"carried": {"inner_state": state, "step": jnp.zeros((), jnp.int32)}}

    def adapt(params, support):
        carried = params["carried"]
        size = jax.tree.leaves(support)[0].shape[0]

        def step(carry, row):
            (theta, state), (number, rows) = carry, row
            batch = jax.tree.map(lambda x: x[rows], support)
            at = jax.lax.stop_gradient(theta)
            gradients = jax.grad(loss_on(model, loss, batch))(at, number)
            updates, state = optimizer.update(gradients, state, at)
            return (optax.apply_updates(theta, updates), state), None

        rows = minibatches(carried["step"], size, minibatch, num_steps)
        rows = (jnp.arange(num_steps), rows)
        (theta, state), _ = jax.lax.scan(step, (params["base"], carried["inner_state"]), rows)
        return Adapted(theta, {"carried": {"inner_state": state, "step": carried["step"] + 1}})

    return plain._replace(init=init, adapt=adapt)


def minibatches(seed: jax.Array, size: int, minibatch: int, count: int) -> jax.Array:
    """The rows of minibatches that walk through shuffled passes over all examples.

    Args:
      seed: An integer scalar; another one gives another order.
      size: The number of examples.
      minibatch: The number of rows in a minibatch.
      count: The number of minibatches.

    Returns:
      int32 `[count, minibatch]`.
    """
    passes = -(-count * minibatch // size)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), seed), passes)
    order = jax.vmap(lambda key: jax.random.permutation(key, size))(keys)
    return order.reshape(-1)[: count * minibatch].reshape(count, minibatch)
