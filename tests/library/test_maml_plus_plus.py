"""MAML++: each part against a loop by hand, all of them against finite differences."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree
from support.battery import (
    CO_LEARNER,
    after,
    assert_close,
    assert_same,
    double,
    finite_difference,
    first,
    sinusoids,
    start,
)

import cml_jax
from cml_jax import cml, maml, maml_plus_plus, multi_step_weights, squared_error
from cml_jax.models import BatchNorm, Linear, from_linen, from_nnx, mlp


class Body(nn.Module):
    """A smooth body with a batch norm, as small as it gets."""

    @nn.compact
    def __call__(self, inputs):
        return jnp.tanh(BatchNorm()(Linear(3)(inputs)))


NET = from_linen(Body(), Linear(1))
K, WEIGHTS = 3, np.array([0.2, 0.3, 0.5])
OFF = {"learn_rates": False, "per_step_norm": False}
plus_plus = partial(maml_plus_plus, NET, squared_error, learning_rate=0.1, num_steps=K)


def uneven(params):
    """Another rate and another norm for every step."""
    rng = np.random.default_rng(0)

    def shake(tree):
        return jax.tree.map(lambda x: x + jnp.asarray(rng.uniform(0, 0.2, x.shape), x.dtype), tree)

    return {name: tree if name == "co_learner" else shake(tree) for name, tree in params.items()}


def network(base, norm):
    """`base` with the scale and bias of `norm`."""
    body = base["body"] | {"BatchNorm_0": norm}
    return {"body": body, "head": base["head"]}


def norm_of_step(params, k):
    if k == 0:
        return params["base"]["body"]["BatchNorm_0"]
    return jax.tree.map(lambda x: x[k - 1], params["step_norm"]["body"]["BatchNorm_0"])


def by_hand(params, task):
    """The networks `[theta_k with norm_k]` and their query losses, in Python."""

    def loss(base, batch):
        return squared_error(NET.apply(base, batch.inputs)[0], batch.targets)

    base, networks = params["base"], []
    for k in range(K):
        norm = norm_of_step(params, k)
        gradient = jax.grad(loss)(network(base, norm), task.support)
        rates = jax.tree.map(lambda rate, k=k: rate[k], params["inner_rates"])
        rates = network(rates, {"scale": 0.0, "bias": 0.0})
        base = jax.tree.map(lambda p, r, g: p - r * g, network(base, norm), rates, gradient)
        networks.append(base)
    return networks, [loss(base, task.query) for base in networks]


@pytest.mark.parametrize(
    "epoch, expected",
    [
        (0, [1 / 5] * 5),
        (5, [0.1] * 4 + [0.6]),
        (9.9, [0.006] * 4 + [0.976]),
        (10, [0, 0, 0, 0, 1]),
        (50, [0, 0, 0, 0, 1]),
    ],
)
def test_the_weights_end_with_the_last_step_alone(epoch, expected):
    weights = multi_step_weights(epoch, 5, num_epochs=10)
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    traced = jax.jit(partial(multi_step_weights, num_steps=5, num_epochs=10))(jnp.asarray(epoch))
    np.testing.assert_allclose(traced, weights, rtol=1e-6)


def test_the_weights_are_those_of_the_authors_code():
    for epoch in range(15):
        earlier = max(1 / 5 - epoch / (5 * 15), 0.03 / 5)
        last = min(1 / 5 + epoch * 4 / (5 * 15), 1 - 4 * 0.03 / 5)
        weights = multi_step_weights(epoch, 5, num_epochs=15)
        np.testing.assert_allclose(weights, [earlier] * 4 + [last], rtol=1e-5)


@pytest.mark.parametrize(
    "settings", [{}, {"first_order": True}, {"remat": True}], ids=["maml", "fomaml", "remat"]
)
def test_off_is_maml_bit_for_bit(settings):
    task = first(sinusoids())
    plain = maml(NET, squared_error, learning_rate=0.1, num_steps=K, **settings)
    method = plus_plus(**OFF, **settings)
    params = start(method, task.support.inputs)
    assert_same(params, start(plain, task.support.inputs))
    results = [
        jax.jit(
            lambda params, m=m: (
                m.adapt(params, task.support),
                jax.value_and_grad(after(m, task))(params),
            )
        )(params)
        for m in (plain, method)
    ]
    assert_same(results[1], results[0])


@pytest.mark.parametrize("with_cml, remat", [(False, True), (True, False)])
def test_meta_gradient_is_the_finite_difference(x64, with_cml, remat):
    method, task = plus_plus(step_weights=WEIGHTS, remat=remat), double(first(sinusoids()))
    method = cml(method, CO_LEARNER, squared_error, scale=0.5) if with_cml else method
    params = uneven(start(method, task.support.inputs))
    outer_loss = after(method, task)
    gradient = jax.jit(jax.grad(outer_loss))(params)
    assert_close(gradient, finite_difference(outer_loss, params), 1e-7)
    for name in ("inner_rates", "step_norm"):
        assert optax.tree.norm(gradient[name]) > 1e-3 * optax.tree.norm(gradient)


def test_each_step_has_its_rates_norm_and_query_loss(x64):
    method, task = plus_plus(step_weights=WEIGHTS), double(first(sinusoids()))
    params = uneven(start(method, task.support.inputs))
    networks, losses = jax.jit(by_hand)(params, task)

    @jax.jit
    def actual(params):
        adapted = method.adapt(params, task.support)
        prediction = method.predict(adapted, task.query.inputs)
        in_hand = method.objective(params, adapted, task.query, prediction)
        return prediction, in_hand, method.objective(params, adapted, task.query)

    prediction, in_hand, (value, metrics) = actual(params)
    assert_close(prediction, NET.apply(networks[-1], task.query.inputs), 1e-13)
    np.testing.assert_allclose(value, np.dot(WEIGHTS, losses), rtol=1e-12)
    np.testing.assert_allclose(metrics["multi_step_loss"], value)
    np.testing.assert_allclose(metrics["loss"], losses[-1], rtol=1e-12)
    assert_close(in_hand, (value, metrics), 1e-14)


def test_batch_norm_does_not_adapt_and_the_rest_does():
    method, task = plus_plus(), first(sinusoids())
    params = start(method, task.support.inputs)
    adapted = method.adapt(params, task.support)
    paths = jax.tree_util.tree_leaves_with_path(params["base"])
    for (path, before), now in zip(paths, jax.tree.leaves(adapted.params), strict=True):
        assert (before is now) == ("BatchNorm_0" in jax.tree_util.keystr(path))

    seen = []

    def weigh(displacements):
        seen.append(displacements)
        return cml_jax.uniform(displacements)

    outer = optax.sgd(0.1)
    state = cml_jax.init(method, outer, jax.random.key(0), task.support.inputs)
    jax.eval_shape(
        partial(cml_jax.meta_step, plus_plus(step_weights=WEIGHTS), outer, weigh=weigh),
        state,
        sinusoids(),
    )
    rates = jax.tree.map(lambda _: 0, params["inner_rates"])
    assert jax.tree.map(lambda _: 0, seen[0]) == rates
    assert rates["body"]["BatchNorm_0"] == {"scale": None, "bias": None}


def test_a_network_without_batch_norm_has_no_norm_of_a_step():
    method, task = maml_plus_plus(mlp(), squared_error, learning_rate=0.1, num_steps=2), sinusoids()
    params = start(method, task.support.inputs[0])
    assert jax.tree.leaves(params["step_norm"]) == []
    assert method.adapt(params, first(task).support).extra == {}


def test_more_steps_go_on_with_the_last_row():
    task = first(sinusoids())
    params = uneven(start(plus_plus(), task.support.inputs))
    longer = jax.tree.map(
        lambda x: jnp.concatenate([x, x[-1:], x[-1:]]),
        {name: params[name] for name in ("inner_rates", "step_norm")},
    )
    method = plus_plus(num_steps=K + 2)
    assert_same(
        method.adapt(params, task.support), method.adapt({**params, **longer}, task.support)
    )
    shorter = plus_plus(num_steps=0).adapt(params, task.support)
    assert_same(shorter.params, params["base"])
    assert_same(shorter.extra["step_norm"]["body"]["BatchNorm_0"], norm_of_step(params, 0))


def test_one_inner_step_has_the_norm_of_the_base():
    task = first(sinusoids())
    one = {"num_steps": 1, "learn_rates": False}
    plain, weighted = plus_plus(**one), plus_plus(**one, step_weights=np.ones(1))
    params = start(plain, task.support.inputs)
    assert set(params) == {"base"}
    assert_same(after(plain, task)(params), after(weighted, task)(params))


def test_weights_and_order_may_be_traced(x64):
    task = double(first(sinusoids()))
    params = uneven(start(plus_plus(), task.support.inputs))

    @jax.jit
    def annealed(epoch):
        weights = multi_step_weights(epoch, K, num_epochs=10)
        method = plus_plus(step_weights=weights, first_order=epoch < 5)
        return jax.value_and_grad(after(method, task))(params)

    def fixed(**settings):
        return jax.jit(jax.value_and_grad(after(plus_plus(**settings), task)))(params)

    assert_close(annealed(0.0), fixed(step_weights=np.full(K, 1 / K), first_order=True), 1e-12)
    assert_close(annealed(10.0), fixed(), 1e-12)


@pytest.mark.parametrize("annealed", ["step_weights", "first_order"])
def test_what_does_not_count_is_not_computed(annealed):
    """A conditional on a traced progress stays one under the vmap over tasks."""
    outer = optax.sgd(0.1)
    state = cml_jax.init(plus_plus(), outer, jax.random.key(0), sinusoids().support.inputs[0])

    def step(progress):
        weights = multi_step_weights(progress, K, num_epochs=0.5)
        settings = {"step_weights": weights, "first_order": progress < 0.5}
        method = plus_plus(**{annealed: settings[annealed]})
        return cml_jax.meta_step(method, outer, state, sinusoids())[0].params

    assert " cond[" in str(jax.make_jaxpr(step)(0.1))
    # Not so where the progress is an axis of its own: both sides are computed, and one is taken.
    assert " cond[" not in str(jax.make_jaxpr(jax.vmap(step))(jnp.array([0.1, 0.9])))


@pytest.mark.slow
def test_a_step_of_training_with_agreement_is_the_one_by_hand(x64):
    method = cml(plus_plus(step_weights=WEIGHTS), CO_LEARNER, squared_error, scale=0.5)
    tasks, outer = double(sinusoids(4)), optax.sgd(0.5)
    params = uneven(start(method, tasks.support.inputs[0]))
    state = cml_jax.MetaState(params, outer.init(params), jnp.int32(0))
    step = partial(cml_jax.meta_step, method, outer, weigh=cml_jax.gradient_agreement, chunk=2)
    new, metrics = jax.jit(step)(state, tasks)

    @jax.jit
    @jax.vmap
    def one_task(task):
        moved = jax.tree.map(jnp.subtract, by_hand(params, task)[0][-1], params["base"])
        moved = network(moved, {})  # batch norm does not adapt
        return jax.grad(after(method, task))(params), ravel_pytree(moved)[0]

    gradients, moved = one_task(tasks)
    agreement = moved @ moved.sum(0)
    weights = agreement / jnp.abs(agreement).sum()
    np.testing.assert_allclose(metrics["weight_min"], weights.min(), rtol=1e-10)
    expected = jax.tree.map(lambda p, g: p - 0.5 * jnp.tensordot(weights, g, 1), params, gradients)
    assert_close(new.params, expected, 1e-12)


def test_wrong_steps_are_named():
    with pytest.raises(ValueError, match=r"step_weights has shape \(3,\) but num_steps=5"):
        plus_plus(num_steps=5, step_weights=WEIGHTS)
    with pytest.raises(ValueError, match="num_steps=-1"):
        plus_plus(num_steps=-1)


class OwnNorm(nn.Module):
    """Batch norm under other names of its leaves."""

    names: tuple[str, ...]

    @nn.compact
    def __call__(self, x):
        x = (x - x.mean(0, keepdims=True)) / jnp.sqrt(x.var(0, keepdims=True) + 1e-5)
        leaves = [self.param(name, nn.initializers.ones, x.shape[-1:]) for name in self.names]
        return sum(leaf[None] for leaf in leaves[1:]) + x * leaves[0][None]


class NormNNX(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(1, 3, rngs=rngs)
        self.between = nnx.LayerNorm(3, rngs=rngs)

    def __call__(self, x):
        return jnp.tanh(self.between(self.linear(x)))


class Around(nn.Module):
    layer: Callable[[], nn.Module]

    @nn.compact
    def __call__(self, x):
        return jnp.tanh(self.layer()(Linear(3)(x)))


def around(layer, **settings):
    """A network with one more layer, which has the name that it is given."""
    return from_linen(Around(partial(layer, **settings)), Linear(1))


@pytest.mark.parametrize(
    "net, names",
    [
        (around(BatchNorm, name="bn1"), {"bn1"}),
        (around(BatchNorm, name="standardise"), {"standardise"}),
        (from_linen(nn.Sequential([Linear(3), BatchNorm()]), Linear(1)), {"layers_1"}),
        (around(nn.GroupNorm, num_groups=1), {"GroupNorm_0"}),
        (around(nn.RMSNorm), {"RMSNorm_0"}),
        (around(OwnNorm, names=("gamma", "beta"), name="z"), {"z"}),
        (
            from_nnx(lambda rngs: NormNNX(rngs), lambda rngs: nnx.Linear(3, 1, rngs=rngs)),
            {"between"},
        ),
        (from_linen(nn.WeightNorm(nn.Dense(3)), Linear(1)), set()),
        (mlp(), set()),
    ],
    ids="bn1 other sequential group rms own nnx weight mlp".split(),
)
def test_norms_are_found_by_what_they_are(net, names):
    task = first(sinusoids())
    method = maml_plus_plus(net, squared_error, learning_rate=0.1, num_steps=2)
    params = start(method, task.support.inputs)
    found = jax.tree_util.tree_leaves_with_path(params["step_norm"])
    assert {path[-2].key for path, _ in found} == names
    rates = {path[:-1] for path, _ in jax.tree_util.tree_leaves_with_path(params["inner_rates"])}
    assert rates.isdisjoint(path[:-1] for path, _ in found)
    adapted = method.adapt(params, task.support)
    norms = {path for path, _ in found}
    for (path, old), new in zip(
        jax.tree_util.tree_leaves_with_path(params["base"]),
        jax.tree.leaves(adapted.params),
        strict=True,
    ):
        assert (old is new) == (path in norms)
    # The norm of the second step is the one that counts at the end.
    shaken = params | {"step_norm": jax.tree.map(lambda x: x + 1, params["step_norm"])}
    outputs = [
        method.predict(method.adapt(p, task.support), task.query.inputs)[0]
        for p in (params, shaken)
    ]
    assert (outputs[0] != outputs[1]).any() == bool(names)


class KernelAndScale(nn.Module):
    """A layer whose norm is not a module of its own."""

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (3, 3))
        scale = self.param("scale", nn.initializers.ones, (3,))
        x = x @ kernel
        return (x - x.mean(0, keepdims=True)) * scale[None]


@pytest.mark.parametrize(
    "net",
    [
        around(OwnNorm, names=("g", "b")),
        around(OwnNorm, names=("weight", "offset"), name="z"),
        around(OwnNorm, names=("g",), name="bn"),
        around(OwnNorm, names=("scale",), name="z"),
        around(OwnNorm, names=("scale", "shift")),
        around(KernelAndScale),
    ],
    ids=["g and b", "weight and offset", "g alone", "scale alone", "scale and shift", "in a layer"],
)
def test_what_may_be_a_norm_is_refused(net):
    inputs = jnp.ones((4, 1))
    build = partial(maml_plus_plus, net, squared_error, learning_rate=0.1)
    with pytest.raises(ValueError, match="per_step_norm=True but .* per_step_norm=False") as error:
        build(num_steps=2).init(jax.random.key(0), inputs)
    assert "\n" not in str(error.value)
    build(num_steps=2, per_step_norm=False).init(jax.random.key(0), inputs)


def test_vectors_that_are_no_norm_adapt():
    """A network by hand whose parameters are vectors under plain names."""
    net = cml_jax.Model(
        lambda key, x: {
            "body": {"w": jnp.ones(3), "b": jnp.ones(3)},
            "head": {"scale": jnp.ones(1)},
        },
        lambda p, x: (
            (x * p["body"]["w"][None]).sum(1, keepdims=True) * p["head"]["scale"][None],
            x,
        ),
    )
    method = maml_plus_plus(net, squared_error, learning_rate=0.1, num_steps=2)
    params = method.init(jax.random.key(0), jnp.ones((4, 1)))
    assert jax.tree.leaves(params["step_norm"]) == []
    assert jax.tree.structure(params["inner_rates"]) == jax.tree.structure(params["base"])
