"""Parameter counts, an independent 4-conv network, and the way of a user's own modules."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support.battery import assert_same, double

import cml_jax
from cml_jax import Batch, cross_entropy
from cml_jax.models import (
    conv4,
    conv_co_learner,
    from_linen,
    from_nnx,
    linear_co_learner,
    mlp,
    mlp_co_learner,
)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def shapes(model, *inputs):
    """The parameters' and the prediction's shapes, with nothing computed."""
    spec = jax.ShapeDtypeStruct(inputs, jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), spec)
    return params, *jax.eval_shape(model.apply, params, spec)


@pytest.mark.parametrize(
    "model, co_learner, inputs, features, sizes",
    [
        (conv4(5), conv_co_learner(5), (25, 84, 84, 3), (10, 10, 64), (121_093, 203_210)),
        (conv4(5), conv_co_learner(5, depth=0), (25, 84, 84, 3), (10, 10, 64), (121_093, 129_098)),
        (conv4(5), conv_co_learner(5, depth=4), (25, 84, 84, 3), (10, 10, 64), (121_093, 277_322)),
        (conv4(5, extra_blocks=3), None, (25, 84, 84, 3), (10, 10, 64), (232_261, None)),
        (conv4(5, filters=32), None, (25, 84, 84, 3), (10, 10, 32), (32_901, None)),
        (conv4(5), None, (25, 28, 28, 1), (3, 3, 64), (112_261, None)),
        (mlp(), mlp_co_learner(), (10, 1), (40,), (1_761, 3_442)),
        (mlp(), linear_co_learner(), (10, 1), (40,), (1_761, 1_802)),
    ],
    ids=[
        "4-conv",
        "linear co-learner",
        "co-learner of four blocks",
        "More-MAML",
        "32 filters",
        "28 px",
        "mlp",
        "mlp, linear co-learner",
    ],
)
def test_parameter_counts(model, co_learner, inputs, features, sizes):
    params, outputs, read = shapes(model, *inputs)
    alone, together = sizes
    assert set(params) == {"body", "head"}
    assert count(params) == alone
    assert read.shape == (inputs[0], *features)
    assert outputs.shape == (inputs[0], 1 if len(inputs) == 2 else 5)
    if co_learner is not None:
        extra, co_outputs, _ = shapes(co_learner, *read.shape)
        assert count(params) + count(extra) == together
        assert co_outputs.shape == outputs.shape


def test_cml_daggers_network_is_the_body_and_the_co_learner():
    params, _, features = shapes(conv4(5), 25, 84, 84, 3)
    co_learner, _, _ = shapes(conv_co_learner(5), *features.shape)
    assert count(params["body"]) + count(co_learner) == 195_205


# 4-conv again, from lax alone: convolution *with* its bias, batch norm, ReLU, reduce_window.
def plain_block(params, x, stride=1):
    x = jax.lax.conv_general_dilated(
        x,
        params["kernel"],
        (stride, stride),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    x = x + params["bias"].reshape(1, 1, 1, -1)
    mean, variance = x.mean((0, 1, 2), keepdims=True), x.var((0, 1, 2), keepdims=True)
    x = (x - mean) / jnp.sqrt(variance + 1e-5)
    norm = jax.tree.map(lambda p: p.reshape(1, 1, 1, -1), params["BatchNorm_0"])
    return jnp.maximum(x * norm["scale"] + norm["bias"], 0)


def plain_pool(x):
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def plain_linear(params, x):
    dense = params["Linear_0"]["Dense_0"]
    return x.reshape(len(x), -1) @ dense["kernel"] + dense["bias"].reshape(1, -1)


def plain_conv4(params, x, pool):
    for i in range(len(params["body"])):
        x = plain_block(params["body"][f"ConvBlock_{i}"], x, 1 if pool or i > 3 else 2)
        x = plain_pool(x) if pool and i < 3 else x
    features, x = x, plain_pool(x) if pool else x
    return plain_linear(params["head"], x), features


def plain_co_learner(params, x, depth):
    for i in range(depth):
        x = plain_block(params[f"ConvBlock_{i}"], x)
    return plain_linear(params, plain_pool(x))


def scrambled(params, seed=0):
    """Away from the start, where batch norm's scale is 1 and its bias 0."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: x + jnp.asarray(rng.normal(size=x.shape)) / 3, double(params))


# 19 px: odd maps (19, 9, 4, 2), whose last row and column a pool drops.
@pytest.mark.parametrize("pool, size, extra", [(True, 19, 0), (False, 16, 0), (True, 19, 2)])
def test_conv4_is_the_plain_network(x64, pool, size, extra):
    model = conv4(5, filters=4, pool=pool, extra_blocks=extra)
    images = np.random.default_rng(1).normal(size=(6, size, size, 3))
    params = scrambled(model.init(jax.random.key(0), jnp.asarray(images, jnp.float32)))
    outputs, features = jax.jit(model.apply)(params, images)
    expected_outputs, expected_features = jax.jit(plain_conv4, static_argnums=2)(
        params, images, pool
    )
    np.testing.assert_allclose(features, expected_features, rtol=0, atol=1e-10)
    np.testing.assert_allclose(outputs, expected_outputs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_the_co_learner_is_the_plain_network(x64, depth):
    model = conv_co_learner(5, filters=4, depth=depth)
    features = np.random.default_rng(1).normal(size=(6, 5, 5, 4))
    params = scrambled(model.init(jax.random.key(0), jnp.asarray(features, jnp.float32)))
    outputs, _ = jax.jit(model.apply)(params, features)
    expected = plain_co_learner(params, features, depth)
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-10)


def test_the_gradient_is_that_of_the_plain_network(x64):
    """The convolution's bias is not added: its gradient is 0, and no other changes."""
    model, targets = conv_co_learner(3, filters=2, depth=1), jnp.arange(6) % 3
    features = np.random.default_rng(1).normal(size=(6, 5, 5, 2))
    params = scrambled(model.init(jax.random.key(0), jnp.asarray(features, jnp.float32)))

    def gradient(outputs):
        return jax.jit(jax.grad(lambda params: cross_entropy(outputs(params), targets)))(params)

    actual = gradient(lambda params: model.apply(params, features)[0])
    expected = gradient(lambda params: plain_co_learner(params, features, depth=1))
    for a, e in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        np.testing.assert_allclose(a, e, rtol=0, atol=1e-10)


@pytest.mark.parametrize("hidden", [(40, 40), (7,)])
def test_mlp_is_the_plain_network(x64, hidden):
    model = mlp(2, hidden=hidden)
    x = np.random.default_rng(0).normal(size=(4, 3))
    params = double(model.init(jax.random.key(0), jnp.asarray(x, jnp.float32)))
    outputs, features = model.apply(params, x)
    for i in range(len(hidden)):
        layer = params["body"][f"Linear_{i}"]["Dense_0"]
        x = np.maximum(x @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])[None], 0)
    np.testing.assert_allclose(features, x, rtol=1e-12)
    head = params["head"]["Dense_0"]
    np.testing.assert_allclose(outputs, x @ head["kernel"] + head["bias"][None], rtol=1e-12)


def test_the_start_is_uniform_in_the_papers_bounds():
    init = jax.jit(conv4(5).init)
    params = init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    block = params["body"]["ConvBlock_1"]
    bound = 1 / np.sqrt(9 * 64)
    kernel = np.asarray(block["kernel"])
    assert 0.99 * bound < kernel.max() <= bound and -bound <= kernel.min() < -0.99 * bound
    np.testing.assert_allclose(kernel.std(), bound / np.sqrt(3), rtol=0.02)
    assert 0.5 * bound < np.abs(block["bias"]).max() <= bound
    assert_same(block["BatchNorm_0"], {"scale": np.ones(64), "bias": np.zeros(64)})
    other = init(jax.random.key(1), jnp.zeros((1, 28, 28, 1)))
    assert (other["body"]["ConvBlock_1"]["kernel"] != kernel).any()


@pytest.fixture(params=["linen", "linen co-learner", "nnx", "nnx co-learner"])
def users_own(request):
    """A model and the same by hand: `(model, (params, x) -> (outputs, features))`."""
    if request.param.startswith("linen"):
        body, head = nn.Dense(4), nn.Dense(2)
        build = from_linen
    else:
        body = lambda rngs: nnx.Linear(3, 4, rngs=rngs)  # noqa: E731
        head = lambda rngs: nnx.Linear(4, 2, rngs=rngs)  # noqa: E731
        build = from_nnx

    def dense(params, x):
        return x @ np.asarray(params["kernel"]) + np.asarray(params["bias"])[None]

    if request.param.endswith("co-learner"):
        return build(body), lambda params, x: (dense(params, x), x)

    def by_hand(params, x):
        features = dense(params["body"], x)
        return dense(params["head"], features), features

    return build(body, head), by_hand


def test_a_users_own_modules_are_a_model(users_own):
    model, by_hand = users_own
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    params = model.init(jax.random.key(0), jnp.asarray(x))
    for change in (0.0, 1.0):  # The parameters come from the argument, not from the module.
        changed = jax.tree.map(lambda p, c=change: p + c, params)
        for actual, expected in zip(model.apply(changed, x), by_hand(changed, x), strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    other = model.init(jax.random.key(1), jnp.asarray(x))
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (params, other)), strict=True))
    gradient = jax.jit(jax.grad(lambda p: model.apply(p, x)[0].sum()))(params)
    assert all((g != 0).any() for g in jax.tree.leaves(gradient))


def test_a_users_own_modules_meta_learn():
    model = from_nnx(
        lambda rngs: nnx.Linear(3, 4, rngs=rngs), lambda rngs: nnx.Linear(4, 2, rngs=rngs)
    )
    method = cml_jax.anil(model, cross_entropy, learning_rate=0.1, num_steps=2)
    batch = Batch(jnp.ones((5, 3)), jnp.array([0, 1, 1, 0, 1]))
    params = method.init(jax.random.key(0), batch.inputs)
    adapted = jax.jit(method.adapt)(params, batch).params
    assert_same(adapted["body"], params["base"]["body"])
    assert (adapted["head"]["kernel"] != params["base"]["head"]["kernel"]).any()


class Stateful(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.BatchNorm(use_running_average=False)(x)


def test_running_statistics_are_refused():
    with pytest.raises(ValueError, match=r"Stateful keeps state in \['batch_stats'\].*BatchNorm"):
        from_linen(Stateful(), nn.Dense(2)).init(jax.random.key(0), jnp.ones((4, 3)))
    with pytest.raises(ValueError, match=r"BatchNorm keeps state in .*BatchStat"):
        from_nnx(lambda rngs: nnx.BatchNorm(3, rngs=rngs))
