"""Operations that come with their own transposes, and so have every derivative in both modes."""

from collections.abc import Callable
from functools import partial

import jax
import jax.core
import jax.extend.core
import jax.numpy as jnp
from jax.interpreters import ad, batching, mlir

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")

Rule = Callable[..., jax.Array]


def linear_primitive(
    name: str,
    compute: Rule,
    shape: Callable[..., tuple[int, ...]],
    left_transpose: Rule,
    right_transpose: Rule | None = None,
) -> Rule:
    """An operation of two arrays that is linear in the first, or in each of the two.

    XLA derives the transpose of what an operation is computed with. Where another computation is
    faster, it is given here, as an operation of its own. From the transposes follow the derivatives
    of any order, in forward and in reverse mode:

        y = f(left, right),   dy = f(dleft, right) + f(left, dright)
        left_bar = left_transpose(y_bar, right),   right_bar = right_transpose(left, y_bar)

    `jax.custom_vjp` would have the reverse mode alone.

    Args:
      name: What a jaxpr calls it.
      compute: `(platform, left, right, *static) -> y`, in the dtype of `left`, where `platform` is
        one of `PLATFORMS`, or "default". It is differentiated by nobody.
      shape: `(left, right, *static) -> shape` of y, of arrays or what has their shape.
      left_transpose: `(y_bar, right, shape, *static) -> left_bar`, with the shape of `left`; linear
        in `y_bar`.
      right_transpose: `(left, y_bar, shape, *static) -> right_bar`, with the shape of `right`; None
        where `right` is a constant of every derivative.

    Returns:
      A function `(left, right, *static)`; what is static has to be hashable.
    """
    primitive = jax.extend.core.Primitive(name)

    # Under `vmap` the operation stays one. `axes` has a pair for each `vmap`, the outermost first:
    # 0 for an argument with a leading axis of that `vmap`, None for one without.
    # `precision` is what `jax.default_matmul_precision` was where the operation was called: it is
    # compiled, and transposed, elsewhere.
    def bind(left, right, *, static, axes, precision):
        return primitive.bind(left, right, static=static, axes=axes, precision=precision)

    def computed(platform, left, right, *, static, axes, precision):
        with jax.default_matmul_precision(precision):
            one = partial(compute, platform)
            return _mapped(lambda left, right: one(left, right, *static), axes)(left, right)

    def abstract(left, right, *, static, axes, precision):
        del precision
        batch = _batch_shape(left, right, axes)
        y = shape(_single(left, axes, 0), _single(right, axes, 1), *static)
        return jax.core.ShapedArray((*batch, *y), left.dtype)

    def batched(arguments, dims, *, axes, **how):
        pair = tuple(None if dim is None else 0 for dim in dims)
        first = [
            a if d is None else jnp.moveaxis(a, d, 0) for a, d in zip(arguments, dims, strict=True)
        ]
        return bind(*first, axes=(pair, *axes), **how), 0

    def transposed(y_bar, left, right, *, static, axes, precision):
        side = 0 if ad.is_undefined_primal(left) else 1
        of, rule = ((left, left_transpose), (right, right_transpose))[side]
        assert rule is not None  # a constant of every derivative is not asked for one
        if type(y_bar) is ad.Zero:
            return _on(side, ad.Zero(of.aval))
        size = _single(of.aval, axes, side).shape
        given = (y_bar, right) if side == 0 else (left, y_bar)
        pairs = tuple((0, right) if side == 0 else (left, 0) for left, right in axes)
        with jax.default_matmul_precision(precision):
            bar = _mapped(lambda a, b: rule(a, b, size, *static), pairs)(*given)
        shared = tuple(i for i, pair in enumerate(axes) if pair[side] is None)
        return _on(side, jnp.sum(bar, shared) if shared else bar)

    primitive.def_impl(jax.jit(bind, static_argnames=("static", "axes", "precision")))
    primitive.def_abstract_eval(abstract)
    batching.primitive_batchers[primitive] = batched
    ad.defjvp(
        primitive,
        lambda tangent, left, right, **how: bind(tangent, right, **how),
        right_transpose and (lambda tangent, left, right, **how: bind(left, tangent, **how)),
    )
    ad.primitive_transposes[primitive] = transposed
    for platform in (None, *PLATFORMS):
        lowering = mlir.lower_fun(partial(computed, platform or "default"), multiple_results=False)
        mlir.register_lowering(primitive, lowering, platform=platform)

    def operation(left, right, *static):
        precision = jax.config.jax_default_matmul_precision  # pyright: ignore
        return bind(left, right, static=static, axes=(), precision=precision)

    return operation


def _mapped(function, axes):
    for in_axes in reversed(axes):
        function = jax.vmap(function, in_axes)
    return function


def _single(array, axes, side):
    """The argument of one call, without the axes of `vmap`."""
    batched = sum(pair[side] == 0 for pair in axes)
    return jax.ShapeDtypeStruct(array.shape[batched:], array.dtype)


def _batch_shape(left, right, axes):
    sizes = (iter(left.shape), iter(right.shape))
    return tuple(
        [next(of) for of, axis in zip(sizes, pair, strict=True) if axis == 0][0] for pair in axes
    )


def _on(side, bar):
    return (bar, None) if side == 0 else (None, bar)
