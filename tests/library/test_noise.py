"""Noise is new in every inner step of every method, and is off where there are no keys."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from support.battery import METHODS, assert_close, assert_same

from cml_jax import Batch, Model, Noisy, Task, evaluate, loss_on, maml, squared_error
from cml_jax.methods import Matched, reptile_released
from cml_jax.models import from_linen, from_nnx

METHODS = {name: build for name, build in METHODS.items() if name != "reptile_adam"} | {
    "reptile_released": partial(
        reptile_released, optimizer=optax.sgd(0.1), num_steps=3, minibatch=4
    )
}


def apply(params, inputs):
    """Linear in the parameters, so that a gradient is the noise of its step."""
    draws = jnp.ones(4)
    if isinstance(inputs, Noisy):
        draws = jax.vmap(jax.random.normal)(inputs.keys)
    return draws[:, None] * (params["body"] + params["head"])[None], draws


MODEL = Model(lambda key, inputs: {"body": jnp.zeros(2), "head": jnp.zeros(2)}, apply)


# Both styles of keys: typed ones, and plain uint32 that only their place tells.
STYLES = pytest.mark.parametrize("style", [jax.random.key, jax.random.PRNGKey])


@STYLES
@pytest.mark.parametrize("name", METHODS)
def test_each_inner_step_has_its_own_noise(name, style):
    frozen = {"anil": {"body"}, "boil": {"head"}}.get(name, set())
    build = METHODS[name]
    if name == "collaborative":
        build = partial(build, co_learner=Model(lambda *_: {}, lambda p, f: (0.0 * f[:, None], f)))
    method = build(MODEL, lambda outputs, targets: jnp.sum(outputs * targets) / 4)
    keys = jax.random.split(style(1), 4)
    targets = jnp.ones((4, 2))

    def adapted(inputs):
        params = method.init(jax.random.key(0), inputs)
        after = method.adapt(params, Batch(inputs, targets)).params
        if name == "collaborative":  # has the head in its head
            after |= {"head": after["head"]["meta_learner"]}
        return after

    def expected(noise):
        moved = jnp.full(2, -0.1 * noise)
        return {p: jnp.zeros(2) if p in frozen else moved for p in ("body", "head")}

    steps = [jax.vmap(jax.random.fold_in, (0, None))(keys, step) for step in range(3)]
    noise = sum(jax.vmap(jax.random.normal)(keys).mean() for keys in steps)
    assert_close(adapted(Noisy(jnp.zeros(4), keys)), expected(noise), 1e-6)
    assert_close(adapted(jnp.zeros(4)), expected(3.0), 1e-6)
    assert not np.isclose(noise, 3.0)


def folded(keys, step):
    return jax.vmap(jax.random.fold_in, (0, None))(keys, step)


@STYLES
@pytest.mark.parametrize(
    "wrap",
    [
        lambda noisy: {"image": noisy, "count": jnp.arange(4, dtype=jnp.uint32)},
        lambda noisy: Matched(noisy, jnp.zeros((4, 2, 3), jnp.int32)),
        lambda noisy: Noisy(noisy, noisy.keys),
        lambda noisy: [noisy, jax.random.split(jax.random.key(7), 4)],
    ],
    ids=["in a dict", "in AMM-GNN's inputs", "in another", "beside typed keys"],
)
def test_every_key_is_folded_wherever_it_stands_and_nothing_else(wrap, style):
    keys = jax.random.split(style(1), 4)
    seen = []
    model = Model(None, lambda params, inputs: (seen.append(inputs), None))
    batch = Batch(wrap(Noisy(jnp.ones((4, 2), jnp.uint32), keys)), None)
    loss_on(model, lambda outputs, targets: 0.0, batch)({}, 3)
    expected = wrap(Noisy(jnp.ones((4, 2), jnp.uint32), folded(keys, 3)))
    if isinstance(expected, list):
        expected[1] = folded(expected[1], 3)
    assert jax.tree.structure(seen[0]) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(seen[0]), jax.tree.leaves(expected), strict=True):
        assert a.dtype == e.dtype and (a == e).all()


class Dropping(nn.Module):
    """Dropout as users write it; `how` is what they say about when."""

    how: str
    rate: float = 0.5

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(30)(x)
        if self.how == "nothing":
            return nn.Dropout(self.rate)(x)
        if self.how == "always":
            return nn.Dropout(self.rate, deterministic=False)(x)
        if self.how == "in the call":
            return nn.Dropout(self.rate)(x, deterministic=not train)
        if self.how == "positional":
            return nn.Dropout(self.rate)(x, not train)
        if self.how == "by its stream":
            return nn.Dropout(self.rate, deterministic=not self.has_rng("dropout"))(x)
        return nn.Dropout(self.rate, rng_collection="noise", deterministic=True)(x)


class DroppingNNX(nnx.Module):
    def __init__(self, how, rngs):
        self.linear = nnx.Linear(3, 30, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, deterministic=how == "never", rngs=rngs)
        self.how = how

    def __call__(self, x):
        argument = {"deterministic": False} if self.how == "in the call" else {}
        return self.dropout(self.linear(x), **argument)


DROPPING = {
    f"linen, {how}": from_linen(Dropping(how), nn.Dense(2))
    for how in ("nothing", "always", "in the call", "positional", "by its stream", "own stream")
} | {
    f"nnx, {how}": from_nnx(partial(DroppingNNX, how), lambda rngs: nnx.Linear(30, 2, rngs=rngs))
    for how in ("nothing", "never", "in the call")
}


@STYLES
@pytest.mark.parametrize("name", DROPPING)
def test_flax_dropout_is_on_where_there_are_keys(name, style):
    model, x = DROPPING[name], jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), float)
    x = x.astype(jnp.float32)
    keys = jax.random.split(style(1), 4)
    params = model.init(jax.random.key(0), Noisy(x, keys))
    assert_same(params, model.init(jax.random.key(0), x))
    _, plain = model.apply(params, x)
    layer = jax.tree.leaves(params["body"])  # bias, kernel
    np.testing.assert_allclose(plain, x @ layer[1] + layer[0][None], rtol=1e-5, atol=1e-6)
    masks = []
    for step in range(3):
        _, dropped = model.apply(params, Noisy(x, folded(keys, step)))
        kept = np.asarray(dropped != 0)
        np.testing.assert_allclose(dropped, np.where(kept, 2 * plain, 0), rtol=1e-5)
        assert 0.25 < kept.mean() < 0.75  # 120 fair coins
        masks.append(kept)
    assert all((masks[i] != masks[i - 1]).any() for i in range(3))
    again = jax.jit(model.apply)(params, Noisy(x, folded(keys, 2)))
    np.testing.assert_array_equal(np.asarray(again[1] != 0), masks[2])


class Attention(nn.Module):
    @nn.compact
    def __call__(self, x):
        attend = nn.MultiHeadDotProductAttention(2, dropout_rate=0.5)
        return attend(x[None], deterministic=True)[0]


class AttentionNNX(nnx.Module):
    def __init__(self, rngs):
        self.attend = nnx.MultiHeadAttention(2, 4, 4, dropout_rate=0.5, decode=False, rngs=rngs)

    def __call__(self, x):
        return self.attend(x[None])[0]


@pytest.mark.parametrize(
    "model", [from_linen(Attention()), from_nnx(lambda rngs: AttentionNNX(rngs))]
)
def test_dropout_in_attention_is_on_where_there_are_keys(model):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)), jnp.float32)
    params = model.init(jax.random.key(0), x)
    plain, _ = model.apply(params, x)
    assert_same(model.apply(params, x)[0], plain)
    keys = jax.random.split(jax.random.key(1), 6)
    dropped = [model.apply(params, Noisy(x, folded(keys, step)))[0] for step in (0, 1, 1)]
    assert (dropped[0] != plain).any() and (dropped[0] != dropped[1]).any()
    assert_same(dropped[1], dropped[2])


def test_two_dropouts_and_the_heads_have_masks_of_their_own():
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x):
            return jnp.concatenate([nn.Dropout(0.5)(x), nn.Dropout(0.5)(x)], 1)

    class TwiceNNX(nnx.Module):
        def __init__(self, rngs):
            self.first, self.second = nnx.Dropout(0.5, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            return jnp.concatenate([self.first(x), self.second(x)], 1)

    ones = Noisy(jnp.ones((4, 20)), jax.random.split(jax.random.key(1), 4))
    for model in (
        from_linen(Twice(), nn.Dropout(0.5)),
        from_nnx(lambda rngs: TwiceNNX(rngs), lambda rngs: nnx.Dropout(0.5, rngs=rngs)),
    ):
        outputs, features = model.apply(model.init(jax.random.key(0), ones), ones)
        first, second = features[:, :20], features[:, 20:]
        assert (first != second).any()
        head = outputs / jnp.where(features == 0, 1, features)
        assert (head[:, :20][first != 0] == 0).any()  # the head drops other units


@pytest.mark.parametrize("transductive", [True, False])
@pytest.mark.parametrize("query_has_keys", [True, False])
def test_evaluation_adapts_with_noise_and_predicts_without(transductive, query_has_keys):
    model = DROPPING["linen, nothing"]
    method = maml(model, squared_error, learning_rate=0.1, num_steps=2)
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.normal(size=(2, 4, d)), jnp.float32) for d in (3, 2))
    keys = jax.random.split(jax.random.PRNGKey(1), (2, 4))
    query = Noisy(x + 1, keys) if query_has_keys else x + 1
    tasks = Task(Batch(Noisy(x, keys), y), Batch(query, y))
    params = method.init(jax.random.key(0), x[0])
    run = partial(evaluate, method, metric=squared_error, transductive=transductive)
    found = jax.jit(run)(params, tasks)
    for t in range(2):
        adapted = method.adapt(params, Batch(Noisy(x[t], keys[t]), y[t]))
        outputs, _ = model.apply(adapted.params, x[t] + 1)
        np.testing.assert_allclose(found[t], squared_error(outputs, y[t]), rtol=1e-4)
    plain = jax.jit(run)(params, tasks._replace(support=Batch(x, y)))
    assert (found != plain).all()
