"""Sums over as many blocks as there are: ragged work in compiled programs."""

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
    """Adds up the first `count` blocks, and computes no others.

        sum_{i < count} function(params, constants, i)

    Differentiable any number of times with respect to `params` in reverse mode, as `lax.fori_loop`
    with a traced bound is not: the derivative is such a sum too, of blocks that are computed again,
    so that memory does not grow with `count`.

    Args:
      function: to floating arrays; 0 for blocks behind `count`, which are computed under `vmap`,
        where all go as far as the longest.
      count: int32, may be traced.
      params: floating arrays.
      constants: any arrays; they count as constants of every derivative.

    Returns:
      The sum, as `function` returns it.
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
    """`count`; under vmap the largest, so that the loop's end is not batched: else each step would
    select between the sums before and after, a copy each."""
    return count


@_largest.def_vmap
def _(axis_size, batched, count):
    del axis_size, batched
    return _largest(count.max()), False
