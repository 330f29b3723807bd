"""Parameter counts, an independent 4-conv network, and the way of a user's own modules."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support.battery import assert_same, double

import cml_jax
from cml_jax import Batch, Model, cross_entropy
from cml_jax.graphs.block_graph import block_graph
from cml_jax.models import (
    ConvBlock,
    conv4,
    conv_co_learner,
    from_linen,
    from_nnx,
    gcn,
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


class TwelveLayers(nn.Module):
    """Names that an alphabet would put in another order, a module twice, one inside of a loop."""

    @nn.compact
    def __call__(self, x):
        for _ in range(11):
            x = nn.Dense(3)(x)
        x = nn.Dense(3, name="a")(x)
        twice = nn.Dense(3, name="Z")
        x = nn.Dropout(0.5)(twice(twice(x)))
        x = nn.RNN(nn.SimpleCell(3))(x[None])[0]
        return nn.relu(nn.Sequential([nn.Dense(3), nn.Dense(3)])(x))


class ThreeLayersNNX(nnx.Module):
    def __init__(self, rngs):
        self.z, self.a = (nnx.Linear(3, 3, rngs=rngs) for _ in range(2))
        self.off = nnx.Dropout(0.5, rngs=rngs)
        self.inside = nnx.List([nnx.Linear(3, 3, rngs=rngs)])

    def __call__(self, x):
        x = self.off(self.a(self.z(x)))
        return jnp.tanh(jax.vmap(self.inside[0])(self.z(x)))


GRAPH = block_graph(0, nodes=40, classes=2, words=10, topical_words=10, words_per_class=5)
BLOCKS = [f"body/ConvBlock_{i}{part}" for i in range(4) for part in ("/BatchNorm_0", "")]
LAYERS = {
    "conv4": (conv4(2, filters=3), (4, 28, 28, 1), [*BLOCKS[:-1], "body", "head"]),
    "conv4, strides": (
        conv4(2, filters=3, pool=False),
        (4, 9, 9, 2),
        [*BLOCKS[:-1], "body", "head"],
    ),
    "mlp": (
        mlp(hidden=(4, 5, 6)),
        (4, 1),
        [f"body/Linear_{i}" for i in range(3)] + ["body", "head"],
    ),
    "gcn": (gcn(GRAPH, 2), (4,), ["body", "head"]),
    # Flax numbers modules as they are made: the output layer is Linear_0.
    "co-learner": (mlp_co_learner(), (4, 5), ["Linear_1", "outputs"]),
    "twelve": (
        from_linen(TwelveLayers(), nn.Dense(2)),
        (4, 3),
        [f"body/Dense_{i}" for i in range(11)]
        + ["body/a", "body/Z", "body/Z#2", "body/RNN_0"]
        + ["body/Dense_11", "body/Dense_12", "body", "head"],
    ),
    "nnx": (
        from_nnx(lambda rngs: ThreeLayersNNX(rngs), lambda rngs: nnx.Linear(3, 2, rngs=rngs)),
        (4, 3),
        ["body/z", "body/a", "body/z#2", "body", "head"],
    ),
    "nnx co-learner": (
        from_nnx(lambda rngs: ThreeLayersNNX(rngs)),
        (4, 3),
        ["z", "a", "z#2", "outputs"],
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_the_outputs_of_all_modules_in_their_order(name):
    model, shape, names = LAYERS[name]
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    x = jnp.arange(4) if name == "gcn" else x
    params = model.init(jax.random.key(0), x)
    outputs, features = model.apply(params, x)
    found = model.layers(params, x)
    assert list(found) == names
    assert_same(found[names[-1]], outputs)
    if "head" in names:
        assert_same(found["body"], features)
    under_jit = jax.jit(model.layers)(params, x)
    assert set(under_jit) == set(found)
    assert all(np.isfinite(layer).all() for layer in under_jit.values())


def test_layers_of_conv4_are_those_of_the_plain_network():
    model = conv4(5, filters=4)
    x = np.random.default_rng(1).normal(size=(6, 28, 28, 1)).astype(np.float32)
    params = model.init(jax.random.key(0), x)
    found = model.layers(params, x)
    for i in range(4):
        x = plain_block(params["body"][f"ConvBlock_{i}"], x)
        x = plain_pool(x) if i < 3 else x
        name = f"body/ConvBlock_{i}" if i < 3 else "body"
        np.testing.assert_allclose(found[name], x, rtol=1e-3, atol=1e-4)


def test_watching_the_layers_leaves_nothing_behind():
    """Classes that are the user's and Flax's own are as they were, after an error too."""

    class Fails(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(3, 3, rngs=rngs)

        def __call__(self, x):
            return self.linear(x)[:, :, 0]

    own = nnx.Linear.__call__, Fails.__call__
    model = from_nnx(lambda rngs: Fails(rngs))
    x = jnp.ones((4, 3))
    params = model.init(jax.random.key(0), x)
    with pytest.raises(IndexError):
        model.layers(params, x)
    assert (nnx.Linear.__call__, Fails.__call__) == own


def test_a_model_needs_no_layers():
    model = Model(lambda key, x: {}, lambda params, x: (x, x))
    assert model.layers is None


CONV = {
    "pooled": conv4(5, filters=2),
    "strided": conv4(5, filters=2, pool=False),
    "pooled, more blocks": conv4(5, filters=2, extra_blocks=1),
}


@pytest.mark.parametrize(
    "name, shape, dtype, error, message",
    [
        ("pooled", (4, 28, 28, 1), "uint8", TypeError, r"inputs are uint8 .* / 255"),
        ("strided", (4, 28, 28, 1), "int32", TypeError, r"inputs are int32 .* / 255"),
        (
            "pooled",
            (4, 15, 15, 1),
            "float32",
            ValueError,
            r"15 x 15 .* 16 x 16 or more.*pool=False",
        ),
        ("pooled", (4, 64, 8, 3), "float32", ValueError, r"64 x 8 .* 16 x 16 or more"),
        ("pooled, more blocks", (4, 12, 12, 1), "float32", ValueError, r"12 x 12 .* 16 x 16"),
        ("pooled", (4, 3, 84, 84), "float32", ValueError, r"channels last: use jnp.moveaxis"),
        ("strided", (4, 1, 28, 28), "float32", ValueError, r"\[n, channels, height, width\]"),
        ("strided", (4, 4, 32, 32), "float32", ValueError, r"\[n, channels, height, width\]"),
        ("strided", (4, 3, 60, 80), "float32", ValueError, r"\[n, channels, height, width\]"),
        ("strided", (4, 28, 28), "float32", ValueError, r"\(4, 28, 28\) .* images\[..., None\]"),
        (
            "pooled",
            (4, 784),
            "float32",
            ValueError,
            r"\(4, 784\) .* \[n, height, width, channels\]",
        ),
    ],
)
def test_images_that_are_none_are_refused_by_init_and_apply(name, shape, dtype, error, message):
    model, images = CONV[name], jax.ShapeDtypeStruct(shape, dtype)
    good = jax.ShapeDtypeStruct((4, 28, 28, 1), "float32")
    params = jax.eval_shape(model.init, jax.random.key(0), good)
    calls = [partial(model.init, jax.random.key(0)), partial(model.apply, params)]
    for call in calls:
        with pytest.raises(error, match=message) as found:
            jax.eval_shape(call, images)
        assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    "name, shape",
    [
        ("pooled", (4, 16, 16, 64)),
        ("pooled", (4, 16, 200, 3)),
        ("strided", (4, 3, 3, 64)),
        ("strided", (4, 1, 1, 512)),
        ("strided", (4, 4, 4, 4)),
        ("strided", (4, 1, 100, 40)),
        ("strided", (4, 3, 7, 64)),
        ("strided", (4, 4, 32, 64)),
        ("strided", (4, 5, 84, 84)),
    ],
)
def test_feature_maps_and_small_images_are_none_the_less_taken(name, shape):
    outputs = jax.eval_shape(
        lambda x: CONV[name].apply(CONV[name].init(jax.random.key(0), x), x)[0],
        jax.ShapeDtypeStruct(shape, "float32"),
    )
    assert outputs.shape == (4, 5)


def test_a_co_learner_under_a_map_that_is_too_small_to_pool_is_refused():
    with pytest.raises(ValueError, match=r"\(1, 1, 2\) .* 2 x 2 max-pool .* pool=False"):
        conv_co_learner(5, filters=2).init(jax.random.key(0), jnp.ones((4, 1, 1, 8)))


@pytest.mark.parametrize(
    "model, shape",
    [
        (mlp(), (4, 784)),
        (from_linen(ConvBlock(2), nn.Dense(2)), (4, 8, 8, 1)),
        (linear_co_learner(), (4, 3)),
    ],
)
def test_pixels_are_refused_by_every_network_of_ours(model, shape):
    with pytest.raises(TypeError, match=r"inputs are uint8 .* / 255"):
        model.init(jax.random.key(0), jnp.ones(shape, jnp.uint8))
