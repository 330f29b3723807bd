"""Operations with their own transposes: both modes of derivatives, `vmap`, precision, devices."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cml_jax import cross_entropy
from cml_jax.models import conv4
from cml_jax.ops import conv, dense, linear_primitive, max_pool


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def assert_close(actual, desired, tolerance=1e-10):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance),
        actual,
        desired,
    )


def sizes(operation):
    """A nonlinear function of the operation, and two arguments for it."""
    if operation == "dense":
        return dense, normal(0, 4, 3), normal(1, 3, 5)
    if operation == "max_pool":
        return lambda x, scale: max_pool(x * scale), normal(0, 2, 4, 4, 2), normal(1, 2, 4, 4, 2)
    stride = 2 if operation == "strided" else 1
    channels = 16 if operation == "wide" else 2
    x, kernel = normal(0, 2, 4, 3, channels), normal(1, 3, 3, channels, 16)
    return partial(conv, stride=stride), x, kernel


OPERATIONS = ("dense", "max_pool", "thin", "wide", "strided")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_both_modes_are_the_slope(x64, operation):
    apply, x, y = sizes(operation)

    def loss(x, y):
        return jnp.sum(jnp.sin(apply(x, y)))

    dx, dy = normal(2, *x.shape), normal(3, *y.shape)
    step = 1e-6
    ends = (jax.jit(loss)(x + s * step * dx, y + s * step * dy) for s in (1, -1))
    slope = (next(ends) - next(ends)) / (2 * step)
    _, forward = jax.jit(lambda *d: jax.jvp(loss, (x, y), d))(dx, dy)
    gx, gy = jax.jit(jax.grad(loss, (0, 1)))(x, y)
    assert_close(forward, slope, 1e-7)
    assert_close(jnp.vdot(gx, dx) + jnp.vdot(gy, dy), forward)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_second_derivative_is_the_same_in_every_order_of_modes(x64, operation):
    apply, x, y = sizes(operation)
    dx, dy = normal(2, *x.shape), normal(3, *y.shape)

    def loss(x, y):
        return jnp.sum(jnp.sin(apply(x, y)))

    def along(x, y):
        return jax.jvp(loss, (x, y), (dx, dy))[1]

    def product(x, y):
        gx, gy = jax.grad(loss, (0, 1))(x, y)
        return jnp.vdot(gx, dx) + jnp.vdot(gy, dy)

    @jax.jit
    def all_orders(x, y):
        return (
            jax.grad(product, (0, 1))(x, y),
            jax.grad(along, (0, 1))(x, y),
            jax.jvp(jax.grad(loss, (0, 1)), (x, y), (dx, dy))[1],
        )

    first, *others = all_orders(x, y)
    for other in others:
        assert_close(other, first)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("shared", ["none", "left", "right", "one of each"])
def test_maps_of_maps_are_loops_in_values_and_gradients(x64, operation, shared):
    apply, x, y = sizes(operation)
    outer, inner = {
        "none": ((0, 0), (1, 2)),
        "left": ((None, 0), (None, 0)),
        "right": ((0, None), (1, None)),
        "one of each": ((None, 0), (0, None)),
    }[shared]
    axes = list(zip(outer, inner, strict=True))

    def stacked(seed, one, pair):
        # The inner map's axis first, then the outer one's, which is before it in memory.
        of_outer, of_inner = pair
        shape = one.shape
        if of_inner is not None:
            shape = (*shape[:of_inner], 2, *shape[of_inner:])
        return normal(seed, *((3, *shape) if of_outer is not None else shape))

    arguments = [
        stacked(seed, one, pair) for seed, (one, pair) in enumerate(zip((x, y), axes, strict=True))
    ]

    def single(arguments, i, j):
        for k, pair in enumerate(axes):
            for axis, index in zip(pair, (i, j), strict=True):
                if axis is not None:
                    arguments = [
                        lax.index_in_dim(a, index, axis, keepdims=False) if k == n else a
                        for n, a in enumerate(arguments)
                    ]
        return arguments

    def mapped(*arguments):
        return jax.vmap(jax.vmap(apply, inner), outer)(*arguments)

    def loop(*arguments):
        rows = [[apply(*single(arguments, i, j)) for j in range(2)] for i in range(3)]
        return jnp.stack([jnp.stack(row) for row in rows])

    def both(apply):
        def loss(*arguments):
            return jnp.sum(jnp.sin(apply(*arguments)))

        return jax.jit(lambda *a: (apply(*a), jax.grad(loss, (0, 1))(*a)))(*arguments)

    assert_close(both(mapped), both(loop))


def test_the_hessian_of_a_network_is_the_same_forward_over_reverse(x64):
    model = conv4(2, filters=2)
    params = model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 1), jnp.float32))
    params = jax.tree.map(lambda p: p.astype(jnp.float64), params)
    images, labels = normal(0, 3, 4, 16, 16, 1), jnp.tile(jnp.arange(4) % 2, (3, 1))
    direction = jax.tree.map(lambda p: normal(p.size, *p.shape), params)

    def gradient(images, labels, params):
        def loss(params):
            return jnp.mean(cross_entropy(model.apply(params, images)[0], labels))

        return jax.grad(loss)(params)

    def forward_over_reverse(images, labels):
        return jax.jvp(partial(gradient, images, labels), (params,), (direction,))[1]

    def reverse_over_reverse(images, labels):
        return jax.vjp(partial(gradient, images, labels), params)[1](direction)[0]

    assert_close(
        *(
            jax.jit(jax.vmap(product))(images, labels)
            for product in (forward_over_reverse, reverse_over_reverse)
        )
    )


@pytest.mark.parametrize("operation", ["dense", "thin", "strided"])
def test_the_precision_of_the_call_is_that_of_its_derivatives(operation):
    apply, x, y = sizes(operation)
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)

    def loss(x, y):
        with jax.default_matmul_precision("float32"):
            y = apply(x, y)
        return jnp.sum(jnp.sin(y))

    def products(loss):
        text = jax.jit(jax.grad(loss, (0, 1))).lower(x, y).as_text()
        return [line for line in text.splitlines() if "stablehlo.dot_general" in line]

    assert len(products(loss)) >= 3
    assert all("HIGHEST" in line for line in products(loss))
    assert not any("HIGHEST" in line for line in products(lambda *a: jnp.sum(jnp.sin(apply(*a)))))


def test_each_device_has_its_own_computation():
    double = linear_primitive(
        "double",
        lambda platform, x, scale: x * scale + x * scale if platform == "cpu" else 2 * x * scale,
        shape=lambda x, scale: x.shape,
        left_transpose=lambda y, scale, x: double(y, scale),
    )
    x = jnp.arange(3.0)

    def adds(platform):
        lowered = jax.jit(double).trace(x, x).lower(lowering_platforms=(platform,))
        return lowered.as_text().count("stablehlo.add")

    assert adds("cpu") == 1
    assert adds("tpu") == adds("cuda") == 0
    np.testing.assert_array_equal(double(x, x), 2 * x * x)  # without jit
    # Its right side is a constant of every derivative.
    np.testing.assert_array_equal(jax.grad(lambda x: jnp.sum(double(x, x)))(x), 2 * x)


@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 4, 3)])
@pytest.mark.parametrize("features", [2, 3, 5])
def test_dense_is_the_product_through_two_derivatives(x64, shape, features):
    x, query, kernel = normal(0, *shape), normal(1, *shape), normal(2, 3, features)

    def adapted(apply):
        def loss(x, kernel):
            return jnp.sum(jnp.sin(apply(x, kernel)))

        def after(x, kernel, query):
            dx, dkernel = jax.grad(loss, (0, 1))(x, kernel)
            return loss(query - 0.1 * dx, kernel - 0.1 * dkernel)

        return jax.jit(jax.value_and_grad(after, (0, 1, 2)))(x, kernel, query)

    assert_close(adapted(dense), adapted(jnp.matmul))


@pytest.mark.parametrize(
    "operation, x, kernel, said",
    [
        (dense, jnp.zeros((2, 3)), jnp.zeros((4, 5)), r"\(2, 3\) and a kernel of shape \(4, 5\)"),
        (dense, jnp.zeros((2, 3)), jnp.zeros(3), r"give \[..., c\] and \[c, f\]"),
        (dense, jnp.zeros((2, 3)), jnp.zeros((3, 5), jnp.bfloat16), "the kernel bfloat16: convert"),
        (conv, jnp.zeros((1, 4, 4, 1)), jnp.zeros((3, 3, 1, 2), jnp.bfloat16), "float32 and the"),
    ],
)
def test_arguments_that_do_not_fit_are_one_line(operation, x, kernel, said):
    with pytest.raises(ValueError, match=said) as error:
        operation(x, kernel)
    assert "\n" not in str(error.value)
