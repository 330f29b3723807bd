"""A convolution with its batch norm in the kernel, against the two one after the other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cml_jax.ops import batch_norm, conv, conv_batch_norm, conv_norm, max_pool


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def two_operations(x, kernel, scale, bias, stride, pool):
    y = batch_norm(conv(x, kernel, stride), scale, bias)
    return max_pool(y) if pool else y


def in_one(x, kernel, scale, bias, stride, pool):
    return conv_batch_norm(x, kernel, scale, bias, stride, pool=pool)


def arguments(channels, *, images=6, size=(7, 8), kernel=(3, 3)):
    """Images away from a mean of 0, and scales of both signs."""
    x = normal(0, images, *size, channels) + 2.0
    return x, normal(1, *kernel, channels, 3), jnp.array([0.7, -1.3, 2.0]), normal(2, 3)


def assert_close(actual, expected, tolerance=1e-10):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, tolerance, tolerance * float(jnp.abs(b).max()))


@pytest.fixture(params=["one block", "blocks"])
def block(request, monkeypatch):
    if request.param == "blocks":  # of two images, and of one
        monkeypatch.setattr(conv_norm, "_BLOCK_BYTES", 2 * 7 * 8 * 3 * 8)


@pytest.mark.parametrize("stride, pool", [(1, True), (1, False), (2, False), (2, True)])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_it_is_the_two_through_two_derivatives(x64, block, channels, stride, pool):
    given = arguments(channels)

    def loss(apply, *given):
        return jnp.mean(jnp.sin(apply(*given, stride, pool)))

    def adapted(apply, *given):
        gradients = jax.grad(loss, (1, 2, 3, 4))(apply, *given)
        return loss(apply, *jax.tree.map(lambda a, g: a - 3.0 * g, given, tuple(gradients)))

    for of in (loss, adapted):
        gradient = jax.jit(jax.value_and_grad(of, (1, 2, 3, 4)), static_argnums=0)
        assert_close(gradient(in_one, *given), gradient(two_operations, *given))


@pytest.mark.parametrize("kernel", [(1, 1), (3, 5)])
def test_kernels_of_other_sizes(x64, kernel):
    given = arguments(3, kernel=kernel)
    assert_close(in_one(*given, 1, False), two_operations(*given, 1, False))


def test_a_kernel_for_each_task(x64, block):
    x, *given = arguments(3)
    kernels, scales, biases = (jnp.stack([a, 2 * a - 0.1]) for a in given)
    tasks = jnp.stack([x, x[:, ::-1] ** 2])
    batched = jax.vmap(lambda *given: in_one(*given, 1, True))(tasks, kernels, scales, biases)
    for t, y in enumerate(batched):
        assert_close(y, two_operations(tasks[t], kernels[t], scales[t], biases[t], 1, True))


def test_forward_mode(x64):
    given = arguments(3)
    _, forward = jax.jvp(lambda *given: in_one(*given, 1, True), given, given)
    _, expected = jax.jvp(lambda *given: two_operations(*given, 1, True), given, given)
    assert_close(forward, expected)


@pytest.mark.parametrize("value", [0.0, 1.0, 255.0])
def test_images_without_variance_are_finite(value):
    x, kernel = jnp.full((4, 6, 6, 1), value), jnp.ones((1, 1, 1, 2))

    def total(kernel):
        return jnp.sum(in_one(x, kernel, jnp.ones(2), jnp.zeros(2), 1, False) ** 2)

    y, gradient = jax.value_and_grad(total)(kernel)
    assert abs(y) < 1e-3 and np.isfinite(gradient).all()


def test_float32_is_accurate():
    x, *given = arguments(3, images=20, size=(32, 32))
    with jax.enable_x64(True):
        desired = two_operations(*arguments(3, images=20, size=(32, 32)), 1, False)
    actual = in_one(*(jnp.asarray(a, jnp.float32) for a in (x, *given)), 1, False)
    assert np.abs(np.asarray(actual, np.float64) - np.asarray(desired)).max() < 1e-5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_keeps_the_dtype(dtype):
    given = [a.astype(dtype) for a in arguments(3)]
    actual, expected = (f(*given, 1, True) for f in (in_one, two_operations))
    assert actual.dtype == dtype
    tolerance = {"float32": 1e-5, "bfloat16": 0.1}[dtype]
    np.testing.assert_allclose(
        np.asarray(actual, np.float32), np.asarray(expected, np.float32), tolerance, tolerance
    )


@pytest.mark.parametrize(
    "change, message",
    [
        ({"kernel": (3, 3, 2, 3)}, "x of shape .* channels in its last axis but the kernel"),
        ({"kernel": (2, 3, 3, 3)}, "use odd sizes"),
        ({"scale": (4,)}, "give both one number for each of the 3 channels"),
        ({"bias": (1,)}, "give both one number for each of the 3 channels"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    shapes = {"x": (2, 6, 6, 3), "kernel": (3, 3, 3, 3), "scale": (3,), "bias": (3,)} | change
    with pytest.raises(ValueError, match=message) as error:
        conv_batch_norm(*map(jnp.zeros, shapes.values()))
    assert "\n" not in str(error.value)


def test_a_pooled_map_is_kept_nowhere(monkeypatch):
    """What the derivatives keep of images in blocks is less than one map of all."""
    if jax.default_backend() != "cpu":
        pytest.skip("only a CPU takes blocks of images")
    monkeypatch.setattr(conv_norm, "_BLOCK_BYTES", 16 * 16 * 32 * 4)
    x, kernel = jnp.zeros((16, 16, 16, 3)), jnp.zeros((3, 3, 3, 32))

    def total(kernel):
        return jnp.sum(in_one(x, kernel, jnp.ones(32), jnp.zeros(32), 1, True) ** 2)

    needed = jax.jit(jax.grad(total)).lower(kernel).compile().memory_analysis().temp_size_in_bytes
    assert needed < 16 * 16 * 16 * 32 * 4
