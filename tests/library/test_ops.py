"""The operations against XLA's own, in float64, through two derivatives and under vmap."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cml_jax.ops import batch_norm, batch_norm_max_pool, conv, forms, max_pool


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def xla_conv(x, kernel, stride=1):
    pads = [(size // 2, size // 2) for size in kernel.shape[:2]]
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=numbers)


def xla_max_pool(x):
    window = (1, 2, 2, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")


def adapted_loss(apply, stride):
    """MAML's shape: a loss after one gradient step on both arguments, squared to be nonlinear."""

    def loss(x, kernel):
        y = apply(x, kernel, stride)
        return jnp.mean(jnp.square(y)) + jnp.mean(jnp.sin(y))

    def adapted(x, kernel, query):
        dx, dkernel = jax.grad(loss, (0, 1))(x, kernel)
        return loss(query - 0.1 * dx, kernel - 0.1 * dkernel)

    return adapted


def assert_close(actual, desired, tolerance=1e-10):
    def close(a, b):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)

    jax.tree.map(close, actual, desired)


@pytest.mark.parametrize(
    ("size", "channels", "features", "stride"),
    [
        ((6, 7), 1, 16, 1),
        ((7, 6), 3, 4, 1),
        ((5, 5), 5, 3, 1),
        ((6, 7), 1, 16, 2),
        ((7, 6), 3, 4, 2),
        ((5, 5), 5, 3, 2),
        ((1, 2), 3, 2, 2),
        ((7, 8), 16, 16, 2),
        ((8, 8), 16, 16, 1),  # from 16 channels on by Winograd's method: even, odd, least sizes
        ((5, 6), 16, 17, 1),
        ((1, 1), 16, 16, 1),
    ],
)
def test_conv_equals_xla_through_two_derivatives(size, channels, features, stride):
    with jax.enable_x64(True):
        x, query = (normal(seed, 3, *size, channels) for seed in (0, 1))
        kernel = normal(2, 3, 3, channels, features)
        values = (jax.jit(apply, static_argnums=2)(x, kernel, stride) for apply in (conv, xla_conv))
        assert_close(*values)
        ours, reference = (
            jax.jit(jax.value_and_grad(adapted_loss(apply, stride), (0, 1, 2)))(x, kernel, query)
            for apply in (conv, xla_conv)
        )
        assert_close(ours, reference)


@pytest.mark.parametrize(("size", "stride"), [((1, 1), 2), ((5, 3), 1), ((5, 3), 3)])
def test_conv_takes_any_odd_kernel(size, stride):
    with jax.enable_x64(True):
        x, query = (normal(seed, 2, 6, 7, 3) for seed in (0, 1))
        kernel = normal(2, *size, 3, 4)
        ours, reference = (
            jax.jit(jax.grad(adapted_loss(apply, stride), (0, 1, 2)))(x, kernel, query)
            for apply in (conv, xla_conv)
        )
        assert_close(ours, reference)


@pytest.mark.parametrize(
    ("channels", "stride", "kernel_axis"), [(3, 1, 0), (16, 1, 0), (16, 2, 0), (16, 1, None)]
)
def test_conv_under_vmap_equals_a_loop_over_tasks(channels, stride, kernel_axis):
    with jax.enable_x64(True):
        x, query = (normal(seed, 3, 2, 5, 6, channels) for seed in (0, 1))
        kernel = normal(2, 3, 3, 3, channels, 16)
        kernel = kernel if kernel_axis == 0 else kernel[0]
        adapted = jax.value_and_grad(adapted_loss(conv, stride), (0, 1, 2))
        reference = jax.jit(jax.value_and_grad(adapted_loss(xla_conv, stride), (0, 1, 2)))
        batched = jax.jit(jax.vmap(adapted, (0, kernel_axis, 0)))(x, kernel, query)
        for i in range(3):
            task_kernel = kernel[i] if kernel_axis == 0 else kernel
            ours = jax.tree.map(lambda a, i=i: a[i], batched)
            assert_close(ours, reference(x[i], task_kernel, query[i]))


def test_conv_of_a_batch_of_kernels_and_one_batch_of_images():
    with jax.enable_x64(True):
        x, kernels = normal(0, 2, 5, 6, 16), normal(1, 3, 3, 3, 16, 16)

        def loss(apply):
            return lambda kernels: jnp.sum(jnp.sin(apply(x, kernels)))

        def loop(x, kernels):
            return jnp.stack([xla_conv(x, kernel) for kernel in kernels])

        ours, reference = (
            jax.jit(jax.value_and_grad(loss(apply)))(kernels)
            for apply in (jax.vmap(conv, (None, 0)), loop)
        )
        assert_close(ours, reference)


@pytest.mark.parametrize(("channels", "stride"), [(3, 1), (3, 2), (16, 1)])
@pytest.mark.parametrize("images", [4, 1])  # 4 does not divide 6: blocks of 3
def test_conv_in_blocks_of_images_equals_conv_at_once(monkeypatch, channels, stride, images):
    with jax.enable_x64(True):
        x, kernel = normal(0, 6, 5, 4, channels), normal(1, 3, 3, channels, 16)

        def gradient(apply):
            def loss(x, kernel):
                return jnp.sum(jnp.sin(apply(x, kernel, stride)))

            return jax.jit(jax.value_and_grad(loss, (0, 1)))

        entries = 9 * 5 * 4 if channels == 3 else 16 * 3 * 2  # of patches, and of tiles of 2 x 2
        monkeypatch.setattr(forms, "_BLOCK_BYTES", images * entries * channels * 8)
        assert "while" in gradient(conv).lower(x, kernel).as_text()
        assert_close(gradient(conv)(x, kernel), gradient(xla_conv)(x, kernel))


@pytest.mark.parametrize("size", [(5, 6), (3, 9), (8, 1)])  # tiles of 4 x 4 cover more
@pytest.mark.parametrize(
    ("form", "stride"),
    [(f, s) for f in forms.FORMS for s in (1, 2) if s == 1 or f not in forms.TILES],
)
def test_every_form_is_the_same_convolution(form, stride, size):
    with jax.enable_x64(True):
        x, kernel = normal(0, 2, *size, 16), normal(1, 3, 3, 16, 17)
        y, pull = jax.vjp(lambda x, kernel: xla_conv(x, kernel, stride), x, kernel)
        g = normal(2, *y.shape)
        dx, dkernel = pull(g)
        assert_close(forms.FORMS[form]["conv"](x, kernel, stride), y)
        assert_close(forms.FORMS[form]["input_gradient"](g, kernel, size, stride), dx)
        assert_close(forms.FORMS[form]["weight_gradient"](x, g, (3, 3), stride), dkernel)


def test_the_table_of_forms_has_one_that_fits_for_every_device():
    assert {"cpu", "default"} <= forms.TABLE.keys()
    kernels = (((3, 3, 64, 64), 1), ((3, 3, 1, 64), 1), ((3, 3, 64, 64), 2))
    for platform, operation in itertools.product((*forms.TABLE, "rocm"), forms.OPERATIONS):
        for (shape, stride), size in itertools.product(kernels, (3, 14)):
            images = (5, size, size, shape[2])
            form = forms.chosen(platform, operation, images, shape, stride, "float32")
            assert form in forms.FORMS and forms.fits(form, shape, stride, "float32")


def test_which_form_a_cpu_takes():
    def chosen(size, kernel=3, dtype="float32"):
        images, shape = (5, size, size, 64), (kernel, kernel, 64, 64)
        return forms.chosen("cpu", "conv", images, shape, 1, dtype)

    assert chosen(14) == "winograd4" and chosen(7) == "winograd2"  # 80 tiles of 4 x 4, and 20
    assert chosen(14, dtype="bfloat16") == chosen(14, kernel=5) == "patches"


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("bfloat16", 4e-2)])
@pytest.mark.parametrize("channels", [3, 32])
def test_conv_keeps_the_dtype_and_its_accuracy(dtype, tolerance, channels):
    x, kernel = normal(0, 8, 6, 6, channels), normal(1, 3, 3, channels, 32)  # 32 tiles of 4 x 4
    scale = np.sqrt(9 * channels)
    x, kernel = x.astype(dtype), (kernel / scale).astype(dtype)

    def loss(apply, x, kernel):
        return jnp.mean(jnp.square(apply(x, kernel)))

    def gradients(apply, dtype):
        gradient = jax.jit(jax.grad(lambda *a: loss(apply, *a), (0, 1)))
        return gradient(x.astype(dtype), kernel.astype(dtype))

    for ours, reference in zip(
        (jax.jit(conv)(x, kernel), *gradients(conv, dtype)),
        (xla_conv(x, kernel), *gradients(xla_conv, "float32")),
        strict=True,
    ):
        assert ours.dtype == dtype
        ours, reference = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
        assert np.abs(ours - reference).max() <= tolerance * np.abs(reference).max()


@pytest.mark.parametrize(
    "x, kernel, stride, said",
    [
        ((1, 4, 4, 3), (3, 3, 1, 2), 1, r"has 3 channels in its last axis but the kernel takes 1"),
        ((5, 3, 84, 84), (3, 3, 3, 2), 1, r"84 channels .* takes 3: .* jnp.moveaxis\(x, 1, -1\)"),
        ((84, 84, 3), (3, 3, 3, 2), 1, r"x of shape \(84, 84, 3\) .* single image has n = 1"),
        ((1, 4, 4, 3), (3, 3, 2), 1, r"kernel of shape \(3, 3, 2\): give"),
        ((1, 4, 4, 3), (2, 3, 3, 2), 1, r"size \(2, 3\): use odd sizes"),
        ((1, 4, 4, 3), (3, 3, 3, 2), 0, r"stride=0 but .*: raise it"),
    ],
)
def test_conv_says_what_is_wrong_in_one_line(x, kernel, stride, said):
    with pytest.raises(ValueError, match=said) as error:
        conv(jnp.zeros(x), jnp.zeros(kernel), stride)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "bool"])
def test_conv_of_images_as_they_are_stored_says_how_to_convert_them(dtype):
    with pytest.raises(ValueError, match=rf"x is {dtype} but .* x.astype\(jnp.float32\) / 255"):
        jax.jit(conv)(jnp.zeros((1, 4, 4, 1), dtype), jnp.zeros((3, 3, 1, 2)))


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (4, 0)])
def test_a_map_below_the_window_is_not_pooled_to_nothing(size):
    with pytest.raises(ValueError, match=f"map of {size[0]} x {size[1]} but .* larger images"):
        max_pool(jnp.zeros((5, *size, 3)))
    with pytest.raises(ValueError, match=r"x of shape \(4, 4, 3\): give \[n, h, w, c\]"):
        max_pool(jnp.zeros((4, 4, 3)))


@pytest.mark.parametrize("scale, bias", [((3,), (4,)), ((4, 1), (4,)), ((), (4,)), ((4,), (1,))])
def test_norm_parameters_of_another_width_are_named(scale, bias):
    for operation, shape in ((batch_norm, (2, 5, 4)), (batch_norm_max_pool, (2, 5, 6, 4))):
        said = rf"x of shape \({', '.join(map(str, shape))}\) .* each of the 4 channels"
        with pytest.raises(ValueError, match=said):
            operation(jnp.zeros(shape), jnp.zeros(scale), jnp.zeros(bias))


@pytest.mark.parametrize("size", [(6, 8), (7, 3)])
def test_max_pool_equals_reduce_window_through_two_derivatives(size):
    with jax.enable_x64(True):
        x = normal(0, 3, *size, 4)
        assert_close(max_pool(x), xla_max_pool(x))

        def loss(pool, x):
            return jnp.sum(jnp.sin(pool(x)))

        def adapted(pool, x):
            return jnp.sum(jnp.cos(x - 0.1 * jax.grad(loss, 1)(pool, x)))

        first, second = (jax.jit(jax.grad(f, 1), static_argnums=0) for f in (loss, adapted))

        # reduce_window has no second derivative: the winners are constants, so gather them.
        def gathered(x):
            n, h, w, c = x.shape
            x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c)
            x = jnp.moveaxis(x, 2, 3).reshape(n, h // 2, w // 2, 4, c)
            return jnp.take_along_axis(x, jnp.argmax(x, 3, keepdims=True), 3)[:, :, :, 0]

        assert_close(first(max_pool, x), first(xla_max_pool, x))
        assert_close(second(max_pool, x), second(gathered, x))


@pytest.mark.parametrize(
    "window, expected",
    [
        ([1.0, 1.0, 1.0, 1.0], [1, 0, 0, 0]),
        ([0.0, 1.0, 0.5, 1.0], [0, 1, 0, 0]),
        ([0.0, 0.0, 2.0, 2.0], [0, 0, 1, 0]),
        ([-3.0, -2.0, -2.0, -1.0], [0, 0, 0, 1]),
    ],
)
def test_the_first_of_equal_entries_gets_the_gradient(window, expected):
    window = jnp.asarray(window).reshape(1, 2, 2, 1)
    gradient = jax.grad(lambda x: jnp.sum(max_pool(x)))(window)
    np.testing.assert_array_equal(gradient.ravel(), expected)


def test_max_pool_hands_on_what_is_not_a_number():
    for place in range(4):
        window = jnp.arange(4.0).at[place].set(jnp.nan).reshape(1, 2, 2, 1)
        assert jnp.isnan(max_pool(window)).all()


@pytest.mark.parametrize("operation", [max_pool, lambda x: batch_norm(x, x[0, 0, 0], x[0, 0, 1])])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_pool_and_norm_keep_the_dtype_under_vmap(operation, dtype):
    x = normal(0, 3, 2, 4, 6, 5).astype(dtype)
    batched = jax.jit(jax.vmap(operation))(x)
    assert batched.dtype == dtype
    desired = np.stack([np.asarray(operation(task), np.float32) for task in x])
    tolerance = {"float32": 1e-5, "bfloat16": 5e-2}[dtype]
    np.testing.assert_allclose(np.asarray(batched, np.float32), desired, tolerance, tolerance)


def plain_batch_norm(x, scale, bias):
    flat = x.reshape(-1, x.shape[-1])
    ones = jnp.ones((flat.shape[0], 1), x.dtype) / flat.shape[0]
    centred = flat - ones.T @ flat
    variance = ones.T @ centred**2
    return (centred / jnp.sqrt(variance + 1e-5) * scale[None] + bias[None]).reshape(x.shape)


def test_batch_norm_equals_its_definition_through_two_derivatives():
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        x, scale, bias = normal(0, 4, 5, 6, 3) + 2.0, normal(1, 3), normal(2, 3)

        def loss(norm, x, scale, bias):
            return jnp.mean(jnp.sin(norm(x, scale, bias)))

        def adapted(norm, *arguments):
            gradients = jax.grad(loss, (1, 2, 3))(norm, *arguments)
            moved = jax.tree.map(lambda a, g: a - 10.0 * g, arguments, tuple(gradients))
            return loss(norm, *moved)

        assert_close(batch_norm(x, scale, bias), plain_batch_norm(x, scale, bias))
        ours, reference = (
            jax.jit(jax.value_and_grad(adapted, (1, 2, 3)), static_argnums=0)(norm, x, scale, bias)
            for norm in (batch_norm, plain_batch_norm)
        )
        assert_close(ours, reference)


@pytest.mark.parametrize("size", [(4, 6), (5, 7)])
def test_batch_norm_and_pool_in_one_is_the_two_through_two_derivatives(size):
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        x, bias = normal(0, 3, *size, 3) + 2.0, normal(2, 3)
        scale = jnp.array([0.7, -1.3, 2.0])  # the second channel falls

        def loss(pooled, x, scale, bias):
            return jnp.mean(jnp.sin(pooled(x, scale, bias)))

        def adapted(pooled, *arguments):
            gradients = jax.grad(loss, (1, 2, 3))(pooled, *arguments)
            moved = jax.tree.map(lambda a, g: a - 3.0 * g, arguments, tuple(gradients))
            return loss(pooled, *moved)

        def two(x, scale, bias):
            return max_pool(plain_batch_norm(x, scale, bias))

        for of in (loss, adapted):
            gradient = jax.jit(jax.value_and_grad(of, (1, 2, 3)), static_argnums=0)
            assert_close(*(gradient(pool, x, scale, bias) for pool in (batch_norm_max_pool, two)))


def test_the_derivative_at_a_scale_of_zero_is_that_from_above(x64):
    x, zero = normal(0, 2, 4, 4, 1), jnp.zeros(1)

    def total(scale):
        return jnp.sum(batch_norm_max_pool(x, scale, zero))

    np.testing.assert_array_equal(total(zero), 0)
    np.testing.assert_allclose(jax.grad(total)(zero)[0], total(zero + 1e-6) / 1e-6)


def test_batch_norm_and_pool_in_one_has_the_same_bits():
    x = normal(0, 3, 6, 8, 5).astype(jnp.float32)
    scale, bias = normal(1, 5).astype(jnp.float32), normal(2, 5).astype(jnp.float32)
    assert (scale < 0).any() and (scale > 0).any()
    expected = max_pool(batch_norm(x, scale, bias))
    np.testing.assert_array_equal(batch_norm_max_pool(x, scale, bias), expected)


def test_batch_norm_gradient_is_accurate_in_float32():
    x = np.random.default_rng(0).normal(5.0, 1.0, (10, 28, 28, 4))
    cotangent = np.random.default_rng(1).normal(size=x.shape)

    def gradient(x):
        scale, bias = jnp.ones((4,), x.dtype), jnp.zeros((4,), x.dtype)
        _, pull = jax.vjp(batch_norm, x, scale, bias)
        return pull(jnp.asarray(cotangent, x.dtype))

    with jax.enable_x64(True):
        desired = gradient(jnp.asarray(x))
    for a, b in zip(gradient(jnp.asarray(x, jnp.float32)), desired, strict=True):
        b = np.asarray(b)
        assert np.abs(np.asarray(a, np.float64) - b).max() <= 1e-4 * np.abs(b).max()


def test_convs_compile_to_no_convolution_on_cpu():
    if jax.default_backend() != "cpu":
        pytest.skip("the forms for CPU are not what this backend runs")
    gradient = jax.grad(adapted_loss(conv, 1), (0, 1, 2))
    batch = jnp.zeros((2, 3, 6, 6, 16), jnp.float32)
    kernel = jnp.zeros((2, 3, 3, 16, 16), jnp.float32)
    lowered = jax.jit(jax.vmap(gradient)).lower(batch, kernel, batch).as_text()
    assert "dot_general" in lowered and "convolution" not in lowered
