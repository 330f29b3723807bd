"""Starting from the body of another run's best network."""

import jax
import jax.numpy as jnp

from cml_jax.types import MetaState
from experiments.choices.key import ConfigError
from experiments.run_folder.checkpoints import CheckpointError, read_best
from experiments.run_folder.folder import check_workdir


def with_body_of(run: str, state: MetaState) -> MetaState:
    """The state with the body of another run's best network; the head and all else stay.

    Args:
      run: The folder of that run, of any method, with the same network.
      state: The state at step 0. Several replicas are a leading axis; each gets the body of the
        other run's replica with its number, or all get that of its only run.

    Raises:
      ConfigError: There is no such checkpoint, or a leaf of the body is not there, or has another
        shape or dtype: the first is named.
    """
    try:
        leaves = read_best(check_workdir(run))
    except (CheckpointError, ValueError) as error:
        raise ConfigError(f"init_from={run}: {error}") from None
    prefix = "['params']['base']['body']"
    other = {path.removeprefix(prefix): x for path, x in leaves.items() if path.startswith(prefix)}
    base = state.params["base"]
    own = {jax.tree_util.keystr(path): x for path, x in jax.tree.leaves_with_path(base["body"])}
    replicas = state.step.ndim  # 1 where the leaves have an axis of replicas
    made = []
    for name, leaf in own.items():
        given = other.pop(name, None)
        shapes = {leaf.shape, leaf.shape[replicas:]}
        if given is None or given.dtype != leaf.dtype or given.shape not in shapes:
            there = "missing" if given is None else f"{given.dtype} {given.shape}"
            raise _differs(run, name, there, f"{leaf.dtype} {leaf.shape}")
        made.append(jnp.broadcast_to(given, leaf.shape))
    for name, leaf in other.items():
        raise _differs(run, name, f"{leaf.dtype} {leaf.shape}", "missing")
    body = jax.tree.unflatten(jax.tree.structure(base["body"]), made)
    return state._replace(params=state.params | {"base": base | {"body": body}})


def _differs(run, name, there, here):
    return ConfigError(
        f"init_from={run}: body{name} is {there} there and {here} here: choose a run of the same "
        "--config.model settings and size of images"
    )
