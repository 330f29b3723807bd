"""Methods from settings: adapters where a method's arguments are not its settings."""

from collections.abc import Mapping
from typing import Any

import jax
import optax

import cml_jax
from cml_jax.types import Loss, Method, Model
from experiments.build.optimizers import inner_optimizer as inner_optimizer_of
from experiments.build.optimizers import is_set
from experiments.build.resolve import call, resolve
from experiments.choices.methods import METHODS


def inner_method(
    settings: Mapping[str, Any],
    *,
    function: str = "",
    num_steps: int,
    remat: bool = False,
    progress: jax.typing.ArrayLike | None = None,
    **parts: Any,
) -> Method:
    """The method that the settings name, without CML around it.

    Args:
      settings: With dotted names; rates may be traced.
      function: "module:function" that takes the place of the method's own; "" does not.
      num_steps: Steps of the inner loop.
      remat: As in `cml_jax.maml`.
      progress: The share of training that is done, which may be traced; None is at test.
      **parts: What the problem has: `model`, `loss`, `co_learner`, `graph`, `examples`.
    """
    row = METHODS[settings["method"]]
    own = {name: settings[name] for name in row.keys}
    rate = settings["inner_learning_rate"]
    if own.get("inner_optimizer", "sgd") != "sgd":
        own["optimizer"] = inner_optimizer_of(settings["inner_optimizer"], rate)
    elif is_set(own.get("body_rate", 1)):
        own["learning_rate"] = {"body": rate * own["body_rate"], "head": rate}
    else:
        own["learning_rate"] = rate
    if not own.get("first_order"):
        own.pop("first_order", None)
    if row.first_order:
        own["first_order"] = True
    available = own | parts | {"num_steps": num_steps, "remat": remat, "progress": progress}
    return call(resolve(function or row.function), available)


def reptile(
    model: Model,
    loss: Loss,
    *,
    inner_optimizer: str,
    inner_learning_rate: jax.typing.ArrayLike,
    num_steps: int,
    minibatch: int,
    examples: int,
) -> Method:
    """Reptile; with minibatches or an inner optimiser that remembers, as its released code has it.

    Args:
      model, loss, num_steps: As in `cml_jax.reptile`.
      inner_optimizer: A name; its Adam has beta1 = 0 and no eps_root.
      inner_learning_rate: The rate of that optimiser.
      minibatch: Examples of an inner step; 0 is all.
      examples: Examples of a test task's support set.
    """
    if inner_optimizer == "adam":
        optimizer = optax.adam(inner_learning_rate, b1=0.0)
    else:
        optimizer = inner_optimizer_of(inner_optimizer, inner_learning_rate)
    shared = {"optimizer": optimizer, "num_steps": num_steps}
    if inner_optimizer == "sgd" and not minibatch:
        return cml_jax.reptile(model, loss, **shared)
    return cml_jax.reptile_released(model, loss, minibatch=minibatch or examples, **shared)


def maml_plus_plus(
    model: Model,
    loss: Loss,
    *,
    learning_rate: jax.typing.ArrayLike,
    num_steps: int,
    multi_step_until: float,
    second_order_after: float,
    progress: jax.typing.ArrayLike | None,
    first_order: bool = False,
    remat: bool = False,
) -> Method:
    """MAML++ at some point of training, or at test.

    Args:
      model, loss, learning_rate, num_steps, first_order, remat: As in `cml_jax.maml_plus_plus`.
      multi_step_until: The share of training with a loss after every inner step.
      second_order_after: The share of training in first order.
      progress: The share of training that is done; None is at test.
    """
    more = {}
    if progress is not None and multi_step_until:
        more["step_weights"] = cml_jax.multi_step_weights(
            progress, num_steps, num_epochs=multi_step_until
        )
    if first_order:
        more["first_order"] = True
    elif progress is not None and second_order_after:
        more["first_order"] = progress < second_order_after
    return cml_jax.maml_plus_plus(
        model, loss, learning_rate=learning_rate, num_steps=num_steps, remat=remat, **more
    )


def sharp_maml(
    model: Model,
    loss: Loss,
    *,
    radius: jax.typing.ArrayLike,
    sharp: str,
    learning_rate: Any,
    num_steps: int,
    first_order: bool = False,
    remat: bool = False,
) -> Method:
    """The inner loop of Sharp-MAML; MAML's where the outer loop alone is perturbed.

    Args:
      model, loss, radius, learning_rate, num_steps, first_order, remat: As in
        `cml_jax.sharp_maml`.
      sharp: The loop that is perturbed, "lower", "upper" or "both".
    """
    shared = {"learning_rate": learning_rate, "num_steps": num_steps, "remat": remat}
    shared["first_order"] = first_order
    if sharp == "upper":
        return cml_jax.maml(model, loss, **shared)
    return cml_jax.sharp_maml(model, loss, radius=radius, **shared)


def sharp_outer_loop(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What Sharp-MAML has `meta_step` do."""
    return {} if settings["sharp"] == "lower" else {"radius": settings["radius"]}


def collaborative(
    model: Model,
    loss: Loss,
    *,
    co_learner: Model,
    num_steps: int,
    learning_rate: Any = None,
    optimizer: optax.GradientTransformation | None = None,
    first_order: bool = False,
    remat: bool = False,
) -> Method:
    """`cml_jax.collaborative`, its arguments by name."""
    inner = {"learning_rate": learning_rate, "optimizer": optimizer, "num_steps": num_steps}
    inner |= {"first_order": first_order, "remat": remat}
    return cml_jax.collaborative(model, loss, co_learner=co_learner, **inner)
