"""What every method is tested on: a new method is one line of METHODS."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from cml_jax import (
    Batch,
    Model,
    cml,
    methods,
    squared_error,
)
from cml_jax.models import mlp, mlp_co_learner
from cml_jax.tasks import sinusoid

MODEL = mlp(hidden=(6, 5), activation=jnp.tanh)
CO_LEARNER = mlp_co_learner(width=4, activation=jnp.tanh)
METHODS = {
    "maml": partial(methods.maml, learning_rate=0.1, num_steps=3),
    "fomaml": partial(methods.fomaml, learning_rate=0.1, num_steps=3),
    "anil": partial(methods.anil, learning_rate=0.1, num_steps=3),
    "boil": partial(methods.boil, learning_rate=0.1, num_steps=3),
    "meta_sgd": partial(methods.meta_sgd, learning_rate=0.1, num_steps=3),
    "maml_plus_plus": partial(methods.maml_plus_plus, learning_rate=0.1, num_steps=3),
    "sharp_maml": partial(methods.sharp_maml, learning_rate=0.1, num_steps=3, radius=0.05),
    "unicorn_maml": partial(methods.unicorn_maml, learning_rate=0.1, num_steps=3),
    "collaborative": partial(
        methods.collaborative, co_learner=CO_LEARNER, learning_rate=0.1, num_steps=3
    ),
    "reptile": partial(methods.reptile, optimizer=optax.sgd(0.1), num_steps=3),
    "reptile_adam": partial(
        methods.reptile, optimizer=optax.adam(0.02, b1=0.0, eps_root=1e-8), num_steps=3
    ),
    "reptile_released": partial(
        methods.reptile_released, optimizer=optax.adam(0.02, b1=0.0), num_steps=3, minibatch=2
    ),
}
# For classes alone: each has a test file of its own.
ON_CLASSES = {"proto_net": methods.proto_net, "linear_probing": methods.linear_probing}
# By name, so that a failure says which and a compiled function is found again.
COMBINATIONS = [name + suffix for name in METHODS for suffix in ("", "+cml")]


def build(name, model=MODEL, co_learner=CO_LEARNER, loss=squared_error, scale=0.5):
    """`METHODS[name](model, loss)`; `name` may end in "+cml"."""
    if name.endswith("+cml"):
        method = build(name.removesuffix("+cml"), model, co_learner, loss)
        return cml(method, co_learner, loss, scale=scale)
    return METHODS[name](model, loss)


# A quadratic loss, 1/2 (theta - c)' A (theta - c), whose task is its A and c.
def quadratic_loss(outputs, targets):
    theta, matrix = outputs
    return 0.5 * (theta - targets) @ matrix @ (theta - targets)


QUADRATIC = Model(
    lambda key, inputs: {"body": jnp.array([0.4, -0.2]), "head": jnp.array([0.7])},
    lambda p, matrix: (
        (jnp.concatenate([p["body"], p["head"]]), matrix),
        (p["body"], matrix),
    ),
)


def quadratic_batch(seed):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(3, 3))
    return Batch(jnp.asarray(root @ root.T + np.eye(3)), jnp.asarray(rng.normal(size=3)))


def sinusoids(num_tasks=8, seed=0):
    """`num_tasks` sinusoid tasks, 5 support and 7 query points each."""
    keys = jax.random.split(jax.random.key(seed), num_tasks)
    return jax.vmap(partial(sinusoid, shots=5, queries=7))(keys)


def start(method, inputs, seed=0):
    """The first parameters, in the dtype of `inputs`; the models themselves start in float32."""
    params = method.init(jax.random.key(seed), inputs.astype(jnp.float32))
    return double(params) if inputs.dtype == jnp.float64 else params


def first(tasks):
    """The first task of a batch."""
    return jax.tree.map(lambda leaf: leaf[0], tasks)


def double(tree):
    """Floating leaves in float64."""
    return jax.tree.map(
        lambda x: x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )


def after(method, task):
    """`params -> the outer loss on task`."""

    def outer_loss(params):
        adapted = method.adapt(params, task.support)
        return method.objective(params, adapted, task.query)[0]

    return outer_loss


def meta_gradient(method, params, task):
    """The gradient of the outer loss with respect to all that is trained."""
    trained = {name: part for name, part in params.items() if name != "carried"}
    return jax.grad(lambda trained: after(method, task)(params | trained))(trained)


def finite_difference(function, params, step=1e-5):
    """The gradient of a scalar function by central differences, float64, one leaf at a time."""
    flat, unravel = ravel_pytree(params)
    assert flat.dtype == jnp.float64

    def slope(direction):
        up, down = unravel(flat + step * direction), unravel(flat - step * direction)
        return (function(up) - function(down)) / (2 * step)

    return unravel(jax.jit(jax.vmap(slope))(jnp.eye(flat.size)))


def assert_close(actual, expected, rtol, atol=0.0):
    """Each leaf within `rtol` of the largest entry of the whole tree, and the same structure."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    largest = max(float(np.abs(x).max()) for x in jax.tree.leaves(expected))
    for (path, a), e in zip(
        jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(expected), strict=True
    ):
        assert a.shape == e.shape, jax.tree_util.keystr(path)
        np.testing.assert_allclose(
            a, e, rtol=0, atol=atol + rtol * largest, err_msg=jax.tree_util.keystr(path)
        )


def assert_same(actual, expected):
    """Bit for bit."""
    jax.tree.map(np.testing.assert_array_equal, actual, expected)
