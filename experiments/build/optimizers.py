"""Optimisers and schedules from settings."""

from collections.abc import Mapping
from typing import Any

import jax
import optax

from experiments.build.resolve import resolve
from experiments.choices.methods import INNER_OPTIMIZERS
from experiments.choices.outer import OUTER_OPTIMIZERS, SCHEDULES


def momentum(learning_rate: jax.typing.ArrayLike) -> optax.GradientTransformation:
    """SGD with a momentum of 0.9."""
    return optax.sgd(learning_rate, momentum=0.9)


def inner_adam(learning_rate: jax.typing.ArrayLike) -> optax.GradientTransformation:
    """Adam whose update has finite derivatives at a gradient of zero."""
    return optax.adam(learning_rate, eps_root=1e-8)


def constant(rate: jax.typing.ArrayLike, steps: int) -> jax.typing.ArrayLike:
    """The same rate in all steps."""
    del steps
    return rate


def linear(rate: jax.typing.ArrayLike, steps: int) -> optax.Schedule:
    """A rate that falls to 0 linearly."""
    return optax.linear_schedule(rate, 0.0, steps)


def cosine(rate: jax.typing.ArrayLike, steps: int) -> optax.Schedule:
    """A rate that falls to 0 along half a cosine."""
    return optax.cosine_decay_schedule(rate, steps)


def inner_optimizer(name: str, rate: jax.typing.ArrayLike) -> optax.GradientTransformation:
    """The optimiser of the inner loop."""
    return resolve(INNER_OPTIMIZERS[name].function)(rate)


def outer_optimizer(settings: Mapping[str, Any]) -> optax.GradientTransformation:
    """The outer optimiser with its schedule, clipping and decay, and the co-learner's own rate.

    Args:
      settings: Values by dotted names; rates may be traced.
    """
    row = OUTER_OPTIMIZERS[settings["outer_optimizer"]]
    schedule = resolve(SCHEDULES[settings["outer_schedule"]])
    rate = schedule(settings["outer_learning_rate"], settings["train_steps"])
    decay = {"weight_decay": settings["weight_decay"]} if row.decays else {}
    parts = [resolve(row.function)(rate, **decay)]
    if settings["weight_decay"] and not row.decays:
        parts.insert(0, optax.add_decayed_weights(settings["weight_decay"]))
    if settings["max_gradient_norm"]:
        parts.insert(0, optax.clip_by_global_norm(settings["max_gradient_norm"]))
    if is_set(settings["co_learner_rate"]):
        parts.append(_scale_co_learner(settings["co_learner_rate"]))
    return optax.chain(*parts) if len(parts) > 1 else parts[0]


def is_set(factor: jax.typing.ArrayLike) -> bool:
    """Whether a factor may differ from 1. One that is traced does, from replica to replica."""
    return isinstance(factor, jax.Array) or factor != 1


def _scale_co_learner(factor):
    def update(updates, _):
        if "co_learner" not in updates:
            return updates
        return updates | {"co_learner": optax.tree.scale(factor, updates["co_learner"])}

    return optax.stateless(update)
