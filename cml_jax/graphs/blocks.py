"""Sums over a number of blocks that is only known when a compiled program runs."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cml_jax.types import PyTree


def sum_blocks(
    function: Callable[[PyTree, PyTree, jax.Array], PyTree],
    count: jax.Array,
    params: PyTree,
    constants: PyTree,
) -> PyTree:
    """The sum of the first `count` blocks; only these are computed.

        sum_{i < count} function(params, constants, i)

    It has reverse-mode derivatives of any order with respect to `params`, which `lax.fori_loop`
    with a traced bound does not have. The derivative is such a sum too, of blocks that are computed
    again, so that memory does not grow with `count`.

    Args:
      function: A function of params, constants and the number of a block (an int32 scalar) to a
        tree of floating arrays. It must return zeros for blocks after `count`: under `vmap` these
        are computed up to the largest count of all.
      count: The number of blocks, an int32 scalar that may be traced.
      params: A tree of floating arrays.
      constants: A tree of any arrays. They are constants of every derivative.

    Returns:
      The sum, a tree like what `function` returns.
    """

    @jax.custom_vjp
    def total(count, params, constants):
        def add(i, sums):
            return jax.tree.map(jnp.add, sums, function(params, constants, i))

        shapes = jax.eval_shape(function, params, constants, jnp.int32(0))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.fori_loop(0, _largest(count), add, zeros)

    def forward(count, params, constants):
        return total(count, params, constants), (count, params, constants)

    def backward(residuals, cotangents):
        count, params, constants = residuals

        def pull_back(both, constants, i):
            params, cotangents = both
            return jax.vjp(lambda params: function(params, constants, i), params)[1](cotangents)[0]

        return None, sum_blocks(pull_back, count, (params, cotangents), constants), None

    total.defvjp(forward, backward)
    return total(count, params, constants)


@jax.custom_batching.custom_vmap
def _largest(count):
    """The count itself, and under `vmap` the largest of all: with a batched end of the loop, each
    step would select between the sums before and after it, at a copy each."""
    return count


@_largest.def_vmap
def _(axis_size, batched, count):
    del axis_size, batched
    return _largest(count.max()), False
