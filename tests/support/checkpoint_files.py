"""The checkpoints of a run of three steps, and what must come back from them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cml_jax.types import MetaState
from experiments.run_folder.checkpoints import Checkpoints


def state(step):
    params = {
        "base": {
            "body": {"kernel": jnp.arange(600.0).reshape(20, 30) * step, "bias": jnp.ones(30)},
            "head": {"kernel": jnp.full((4,), step, jnp.bfloat16)},
        }
    }
    schedule = optax.cosine_decay_schedule(1e-3, 10)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    return MetaState(params, optimizer.init(params), jnp.int32(step))


def extra(step):
    return {"best": {"value": step / 7, "step": step}}


def save_three_steps(workdir):
    """Checkpoints of the steps 1, 2 and 3 in last/, and of 2 in best/."""
    checkpoints = Checkpoints(workdir)
    for step in (1, 2, 3):
        checkpoints.save_last(step, state(step), extra(step))
    checkpoints.save_best(2, state(2), extra(2))
    checkpoints.close()


def restore(workdir):
    checkpoints = Checkpoints(workdir)
    try:
        return checkpoints.restore_last(state(0))
    finally:
        checkpoints.close()


def assert_is(restored, step):
    assert restored[0] == step and restored[2] == extra(step)
    expected = state(step)
    assert jax.tree.structure(restored[1]) == jax.tree.structure(expected)
    for got, want in zip(jax.tree.leaves(restored[1]), jax.tree.leaves(expected), strict=True):
        assert isinstance(got, jax.Array) and got.dtype == want.dtype
        assert np.array_equal(got, want)


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
