"""ResNet-12: parameter counts, an independent network, meta-gradients, DropBlock."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.battery import after, assert_close, double, finite_difference, meta_gradient

import cml_jax
from cml_jax import Batch, Noisy, Task, cross_entropy
from cml_jax.models import resnet12, resnet12_co_learner
from cml_jax.models.resnet12 import drop_block

TINY = (3, 4, 3, 5)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def shapes(model, *inputs):
    """The parameters' and the prediction's shapes, with nothing computed."""
    spec = jax.ShapeDtypeStruct(inputs, jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), spec)
    return params, *jax.eval_shape(model.apply, params, spec)


# A block of MetaOptNet's code with c channels in and w out: conv3x3 9 c w, 9 w w, 9 w w, conv1x1
# c w, none with a bias; four batch norms of 2 w. 64-128-256-512 on colours:
# 76,160 + 377,856 + 1,509,376 + 6,033,408 = 7,996,800.
@pytest.mark.parametrize(
    "widths, size, pooled, body, head",
    [
        ((64, 128, 256, 512), 84, True, 7_996_800, 512 * 5 + 5),
        ((64, 128, 256, 512), 32, True, 7_996_800, 512 * 5 + 5),
        ((64, 160, 320, 640), 84, True, 12_424_320, 640 * 5 + 5),
        ((64, 160, 320, 640), 84, False, 12_424_320, 25 * 640 * 5 + 5),
    ],
)
def test_parameter_counts(widths, size, pooled, body, head):
    params, outputs, features = shapes(
        resnet12(5, widths=widths, average_pool=pooled), 25, size, size, 3
    )
    ins = (3, *widths[:-1])
    assert body == sum(10 * c * w + 18 * w * w + 8 * w for c, w in zip(ins, widths, strict=True))
    assert (count(params["body"]), count(params["head"])) == (body, head)
    assert outputs.shape == (25, 5)
    assert features.shape == (25, size // 16, size // 16, widths[-1])


@pytest.mark.parametrize("depth, size", [(0, 2_565), (2, 4_724_229), (4, 9_445_893)])
def test_parameter_counts_of_the_co_learner(depth, size):
    params, outputs, _ = shapes(resnet12_co_learner(5, depth=depth), 75, 5, 5, 512)
    assert count(params) == size == depth * (9 * 512 * 512 + 3 * 512) + 512 * 5 + 5
    assert outputs.shape == (75, 5)


# ResNet-12 again, in NumPy alone and in MetaOptNet's order: LeakyReLU, then the pool.
def plain_conv(x, kernel):
    size = kernel.shape[0]
    pad = size // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))
    return np.einsum("nhwcab,abcf->nhwf", windows, kernel)


def plain_norm(x, params):
    x = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
    return x * params["scale"] + params["bias"]


def plain_leaky_relu(x):
    return np.maximum(x, 0) + 0.1 * np.minimum(x, 0)


def plain_pool(x):
    n, h, w, c = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c)
    return x.max((2, 4))


def plain_resnet12(params, x, average_pool):
    for block in (params["body"][f"ResidualBlock_{i}"] for i in range(4)):
        y = plain_norm(plain_conv(x, block["kernel_0"]), block["BatchNorm_0"])
        y = plain_norm(plain_conv(plain_leaky_relu(y), block["kernel_1"]), block["BatchNorm_1"])
        y = plain_norm(plain_conv(plain_leaky_relu(y), block["kernel_2"]), block["BatchNorm_2"])
        shortcut = plain_norm(plain_conv(x, block["shortcut"][None, None]), block["BatchNorm_3"])
        x = plain_pool(plain_leaky_relu(y + shortcut))
    head = params["head"]["Linear_0"]["Dense_0"]
    pooled = x.mean((1, 2)) if average_pool else x.reshape(len(x), -1)
    return pooled @ head["kernel"] + head["bias"], x


def scrambled(params, seed=0):
    """Away from the start, where batch norm's scale is 1 and its bias 0."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: x + jnp.asarray(rng.normal(size=x.shape)) / 3, double(params))


# 37 px: odd maps (37, 9), whose last row and column a pool drops.
@pytest.mark.parametrize("size, average_pool", [(37, True), (32, False)])
def test_resnet12_is_the_plain_network(x64, size, average_pool):
    model = resnet12(5, widths=TINY, average_pool=average_pool)
    images = np.random.default_rng(1).normal(size=(4, size, size, 3))
    params = scrambled(model.init(jax.random.key(0), jnp.asarray(images, jnp.float32)))
    actual = jax.jit(model.apply)(params, images)
    expected = plain_resnet12(jax.tree.map(np.asarray, params), images, average_pool)
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=0, atol=1e-10)


def test_resnet12_is_torchs(x64):
    """The same network of PyTorch's own operations, with its gradient."""
    torch = pytest.importorskip("torch", reason="RESNET-12 NOT COMPARED WITH TORCH: install torch")
    functional = torch.nn.functional
    model = resnet12(5, widths=TINY)
    images = np.random.default_rng(1).normal(size=(6, 32, 32, 3))
    params = scrambled(model.init(jax.random.key(0), jnp.asarray(images, jnp.float32)))
    targets = np.arange(6) % 5

    def tensor(value):
        return torch.tensor(np.asarray(value), requires_grad=True)

    theirs = jax.tree.map(tensor, params)

    def norm(x, p):
        return functional.batch_norm(x, None, None, p["scale"], p["bias"], training=True)

    x = torch.tensor(images).permute(0, 3, 1, 2)
    for block in (theirs["body"][f"ResidualBlock_{i}"] for i in range(4)):
        y = x
        for i in range(3):
            y = functional.leaky_relu(y, 0.1) if i else y
            y = functional.conv2d(y, block[f"kernel_{i}"].permute(3, 2, 0, 1), padding=1)
            y = norm(y, block[f"BatchNorm_{i}"])
        shortcut = functional.conv2d(x, block["shortcut"].T[:, :, None, None])
        y = y + norm(shortcut, block["BatchNorm_3"])
        x = functional.max_pool2d(functional.leaky_relu(y, 0.1), 2)
    head = theirs["head"]["Linear_0"]["Dense_0"]
    outputs = x.mean((2, 3)) @ head["kernel"] + head["bias"]
    functional.cross_entropy(outputs, torch.tensor(targets)).backward()

    def loss(params):
        outputs = model.apply(params, images)[0]
        return cross_entropy(outputs, jnp.asarray(targets)), outputs

    gradient, ours = jax.jit(jax.grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(ours, outputs.detach().numpy(), rtol=0, atol=1e-10)
    for a, e in zip(*map(jax.tree.leaves, (gradient, theirs)), strict=True):
        np.testing.assert_allclose(a, e.grad.numpy(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("drop_rate", [pytest.param(0.0, marks=pytest.mark.slow), 0.3])
def test_the_meta_gradient_is_that_of_finite_differences(x64, drop_rate):
    """Second order, through CML's objective too; with DropBlock the masks are constants."""
    rng = np.random.default_rng(0)
    batches = (rng.normal(size=(n, 32, 32, 3)) for n in (3, 6))
    task = Task(*(Batch(jnp.asarray(x), jnp.arange(len(x)) % 3) for x in batches))
    if drop_rate:
        keys = jax.random.split(jax.random.key(5), 3)
        task = task._replace(support=Batch(Noisy(task.support.inputs, keys), task.support.targets))
    model = resnet12(3, widths=(2, 2, 2, 3), drop_rate=drop_rate, dropblock_size=2)
    method = cml_jax.maml(model, cross_entropy, learning_rate=0.3, num_steps=1)
    method = cml_jax.cml(method, resnet12_co_learner(3, depth=1), cross_entropy, scale=0.5)
    params = method.init(jax.random.key(0), task.query.inputs.astype(jnp.float32))
    params = jax.tree.map(
        lambda x: x + 0.1 * np.random.default_rng(x.size).normal(size=x.shape), double(params)
    )

    ours = jax.jit(partial(meta_gradient, method))(params, task)
    # A small step: a larger one is over a kink of some LeakyReLU or max-pool.
    assert_close(ours, finite_difference(after(method, task), params, 1e-7), 1e-6)


def test_dropout_needs_both_keys_and_a_rate():
    images = jnp.asarray(np.random.default_rng(0).normal(size=(3, 32, 32, 3)), jnp.float32)
    keys = jax.random.split(jax.random.key(1), 3)
    off, on = (resnet12(3, widths=TINY, drop_rate=rate) for rate in (0.0, 0.4))
    params = on.init(jax.random.key(0), images)
    plain = off.apply(params, images)
    assert_close(on.apply(params, images), plain, 0)
    assert_close(off.apply(params, Noisy(images, keys)), plain, 0)
    _, first = on.apply(params, Noisy(images, keys))
    _, again = jax.jit(on.apply)(params, Noisy(images, keys))
    np.testing.assert_allclose(first, again, rtol=1e-4, atol=1e-4)
    # 2 x 2 is less than a block: a channel of block 4 is dropped as a whole.
    zeros = np.asarray(first == 0)
    assert 0 < zeros.mean() < 1 and (zeros.all((1, 2)) == zeros.any((1, 2))).all()
    other = jax.random.split(jax.random.key(2), 3)
    assert (on.apply(params, Noisy(images, other))[1] != first).any()


@pytest.mark.parametrize("style", [jax.random.key, jax.random.PRNGKey])
@pytest.mark.parametrize("size, rate", [(1, 0.2), (3, 0.1), (5, 0.1), (50, 0.1)])
def test_drop_block_drops_squares_in_their_share(style, size, rate):
    keys = jax.random.split(style(0), 64)
    factors = np.asarray(drop_block(keys, (64, 10, 9, 32), rate, size, jnp.float32))
    np.testing.assert_allclose(factors.mean(), 1, rtol=1e-4)
    kept = factors != 0
    assert len(np.unique(factors)) == 2
    share = 1 - kept.mean()  # squares overlap: somewhat less
    assert 0.8 * rate < share < 1.1 * rate
    # What is dropped is a union of squares: each dropped place lies in one that is dropped whole.
    rows, columns = min(size, 10), min(size, 9)
    windows = np.lib.stride_tricks.sliding_window_view(~kept, (rows, columns), (1, 2))
    whole = windows.all((-1, -2))
    covered = np.zeros_like(kept)
    for i in range(rows):
        for j in range(columns):
            covered[:, i : i + whole.shape[1], j : j + whole.shape[2]] |= whole
    np.testing.assert_array_equal(covered, ~kept)


def test_all_dropped_is_zero_and_not_nan():
    factors = drop_block(jax.random.split(jax.random.key(0), 2), (2, 2, 2, 3), 1.0, 2, jnp.float32)
    np.testing.assert_array_equal(factors, 0)


@pytest.mark.parametrize(
    "shape, error, message",
    [
        ((4, 15, 15, 3), ValueError, r"resnet12 .* 16 x 16 or more: give larger images(\n|$)"),
        ((4, 3, 84, 84), ValueError, r"channels last: use jnp.moveaxis"),
        ((4, 784), ValueError, r"\[n, height, width, channels\]"),
    ],
)
def test_images_that_are_none_are_refused(shape, error, message):
    with pytest.raises(error, match=message):
        shapes(resnet12(5, widths=TINY), *shape)
    with pytest.raises(TypeError, match=r"inputs are uint8 .* / 255"):
        resnet12(5, widths=TINY).init(jax.random.key(0), jnp.ones((4, 32, 32, 3), jnp.uint8))
    with pytest.raises(ValueError, match=r"widths=\(3,\) but ResNet-12 has four blocks"):
        resnet12(5, widths=(3,))


def test_the_start_is_metaoptnets():
    params = jax.jit(resnet12(5).init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    block = params["body"]["ResidualBlock_2"]
    for name, fan_out in (("kernel_1", 9 * 256), ("shortcut", 256)):
        kernel = np.asarray(block[name])
        np.testing.assert_allclose(kernel.std(), np.sqrt(2 / fan_out), rtol=0.02)
        assert np.abs(kernel).max() > 3 * kernel.std()  # normal, neither uniform nor cut
    np.testing.assert_array_equal(block["BatchNorm_3"]["scale"], 1)
