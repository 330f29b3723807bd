"""Noise is new in every inner step of every method, and is off where there are no keys."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.battery import METHODS, assert_close

from cml_jax import Batch, Model
from cml_jax.methods.reptile import reptile_released
from cml_jax.types import Noisy

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


@pytest.mark.parametrize("name", METHODS)
def test_each_inner_step_has_its_own_noise(name):
    frozen = {"anil": {"body"}, "boil": {"head"}}.get(name, set())
    build = METHODS[name]
    if name == "collaborative":
        build = partial(build, co_learner=Model(lambda *_: {}, lambda p, f: (0.0 * f[:, None], f)))
    method = build(MODEL, lambda outputs, targets: jnp.sum(outputs * targets) / 4)
    keys = jax.random.split(jax.random.key(1), 4)
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
