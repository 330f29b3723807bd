"""Meta-SGD: what its rates start as, what they reach, and their meta-gradient."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.battery import (
    MODEL,
    after,
    assert_close,
    assert_same,
    build,
    double,
    finite_difference,
    first,
    sinusoids,
    start,
)

from cml_jax import maml, meta_sgd, squared_error


def uneven(params):
    """Another rate for every parameter, some of them negative."""
    rng = np.random.default_rng(0)
    rates = jax.tree.map(
        lambda x: jnp.asarray(rng.uniform(-0.05, 0.2, x.shape), x.dtype), params["inner_rates"]
    )
    return params | {"inner_rates": rates}


@pytest.mark.parametrize(
    "settings",
    [
        # Powers of two: their products are exact, so that a fused multiply-add rounds no otherwise.
        {"learning_rate": 0.125},
        {"learning_rate": 0.125, "first_order": True},
        {
            "learning_rate": {"body": 0.0, "head": 0.25},
            "adapts": {"body": False, "head": True},
            "remat": True,
        },
    ],
    ids=["maml", "fomaml", "anil, remat"],
)
def test_equal_rates_are_maml_bit_for_bit(settings):
    task = first(sinusoids())
    plain, learned = (
        method(MODEL, squared_error, num_steps=3, **settings) for method in (maml, meta_sgd)
    )
    params = start(learned, task.support.inputs)
    assert_same(params["base"], start(plain, task.support.inputs)["base"])

    expected = jax.jit(jax.value_and_grad(after(plain, task)))({"base": params["base"]})
    value, gradient = jax.jit(jax.value_and_grad(after(learned, task)))(params)
    assert_same((value, {"base": gradient["base"]}), expected)
    for rate in jax.tree.leaves(gradient["inner_rates"]):
        assert np.abs(rate).max() > 0


def test_meta_gradient_is_the_finite_difference(x64):
    method, task = build("meta_sgd+cml"), double(first(sinusoids()))
    params = uneven(start(method, task.support.inputs))
    outer_loss = after(method, task)
    gradient = jax.jit(jax.grad(outer_loss))(params)
    assert_close(gradient, finite_difference(outer_loss, params), 1e-7)


def test_first_order_gives_the_rates_the_inner_gradient_times_the_outer(x64):
    method = meta_sgd(MODEL, squared_error, learning_rate=0.1, num_steps=1, first_order=True)
    task = double(first(sinusoids()))
    params = uneven(start(method, task.support.inputs))

    def on(batch, base):
        return jax.grad(lambda p: squared_error(MODEL.apply(p, batch.inputs)[0], batch.targets))(
            base
        )

    inner = on(task.support, params["base"])
    adapted = jax.tree.map(lambda p, a, g: p - a * g, params["base"], params["inner_rates"], inner)
    assert_close(method.adapt(params, task.support).params, adapted, 1e-14)
    outer = on(task.query, adapted)
    expected = {"base": outer, "inner_rates": jax.tree.map(lambda g, o: -g * o, inner, outer)}
    assert_close(jax.jit(jax.grad(after(method, task)))(params), expected, 1e-13)


def test_only_what_adapts_has_rates():
    rates, adapts = {"body": 0.3, "head": 0.2}, {"body": False, "head": True}
    build = partial(meta_sgd, MODEL, squared_error, num_steps=2, adapts=adapts)
    task = first(sinusoids())
    method = build(learning_rate=rates)
    params = start(method, task.support.inputs)
    assert jax.tree.leaves(params["inner_rates"]["body"]) == []
    assert_same(
        params["inner_rates"]["head"],
        jax.tree.map(lambda leaf: np.full_like(leaf, 0.2), params["base"]["head"]),
    )
    adapted = method.adapt(params, task.support).params
    for part, adapting in adapts.items():
        before, now = (jax.tree.leaves(tree[part]) for tree in (params["base"], adapted))
        assert [b is a for b, a in zip(before, now, strict=True)] == [not adapting] * len(now)
    with pytest.raises(ValueError, match=r"learning_rate=.* lacks \['head'\].*give one rate"):
        start(build(learning_rate={"body": 0.1}), task.support.inputs)
