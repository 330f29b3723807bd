"""Methods from settings, and adapters for those whose arguments are not their settings."""

from collections.abc import Mapping
from typing import Any

import jax
import optax

import cml_jax
from cml_jax import methods
from cml_jax.types import Loss, Method, Model
from experiments.build.optimizers import inner_optimizer as inner_optimizer_of
from experiments.build.optimizers import is_set
from experiments.build.problem import Problem
from experiments.build.resolve import call, resolve
from experiments.choices.methods import METHODS


def base_method(
    settings: Mapping[str, Any],
    problem: Problem,
    data: Any,
    num_steps: int,
    remat: bool = False,
    progress: jax.typing.ArrayLike | None = None,
) -> Method:
    """The method that the settings name, without CML's co-learner.

    Args:
      settings: Values by dotted names; what is swept is traced.
      problem: What is learned.
      data: Data of the split, which may be traced.
      num_steps: Number of inner steps.
      remat: As in `cml_jax.maml`.
      progress: The share of training that is done, which may be traced; None is at test.
    """
    row = METHODS[settings["method"]]
    own = {name: settings[name] for name in row.keys}
    inner = {"num_steps": num_steps, "remat": remat}
    rate = settings["inner_learning_rate"]
    if own.get("inner_optimizer", "sgd") != "sgd":
        inner["optimizer"] = inner_optimizer_of(settings["inner_optimizer"], rate)
    elif is_set(own.get("body_rate", 1)):
        inner["learning_rate"] = {"body": rate * own["body_rate"], "head": rate}
    else:
        inner["learning_rate"] = rate
    if row.first_order or own.get("first_order"):
        inner["first_order"] = True
    parts = {
        "model": problem.model_on(data),
        "loss": problem.loss,
        "co_learner": problem.co_learner,
        "graph": getattr(data, "graph", None),
        "examples": problem.examples,
        "ways": problem.ways,
        "embedding": problem.embedding,
        "progress": progress,
    }
    method = call(resolve(problem.method or row.function), own | parts, **inner)
    return problem.inputs(data)(method) if problem.inputs else method


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
    """Reptile; with minibatches or an inner optimiser with a state, as its released code has it.

    Args:
      model, loss, num_steps: As in `cml_jax.reptile`.
      inner_optimizer: Name of the inner optimiser; its Adam has beta1 = 0 and no eps_root.
      inner_learning_rate: Step size of that optimiser.
      minibatch: Examples of an inner step; 0 is all.
      examples: Examples of a test task's support set.
    """
    if inner_optimizer == "adam":
        optimizer = optax.adam(inner_learning_rate, b1=0.0)
    else:
        optimizer = inner_optimizer_of(inner_optimizer, inner_learning_rate)
    if inner_optimizer == "sgd" and not minibatch:
        return cml_jax.reptile(model, loss, optimizer=optimizer, num_steps=num_steps)
    return cml_jax.reptile_released(
        model, loss, optimizer=optimizer, num_steps=num_steps, minibatch=minibatch or examples
    )


def maml_plus_plus(
    model: Model,
    loss: Loss,
    *,
    num_steps: int,
    multi_step_until: float,
    second_order_after: float,
    progress: jax.typing.ArrayLike | None,
    **inner: Any,
) -> Method:
    """MAML++ at some point of training, or at test.

    Args:
      model, loss, num_steps: As in `cml_jax.maml_plus_plus`.
      multi_step_until: The share of training with a loss after every inner step.
      second_order_after: The share of training in first order.
      progress: The share of training that is done; None is at test.
      **inner: The other arguments of `cml_jax.maml_plus_plus`.
    """
    if progress is not None and multi_step_until:
        inner["step_weights"] = cml_jax.multi_step_weights(
            progress, num_steps, num_epochs=multi_step_until
        )
    if progress is not None and second_order_after:
        inner.setdefault("first_order", progress < second_order_after)
    return cml_jax.maml_plus_plus(model, loss, num_steps=num_steps, **inner)


def linear_probing(
    model: Model,
    loss: Loss,
    *,
    ways: int,
    penalty: float,
    embedding: Model | None,
    progress: jax.typing.ArrayLike | None,
) -> Method:
    """Ordinary classification in training, a logistic regression on its features at test.

    Ordinary classification is MAML without inner steps, on labels that mean the same in all tasks.

    Args:
      model: The network, whose outputs are all training classes.
      loss: Of training.
      ways, penalty, embedding: As in `cml_jax.methods.linear_probing`.
      progress: The share of training that is done; None is at test.
    """
    if progress is None:
        return methods.linear_probing(model, ways=ways, penalty=penalty, embedding=embedding)
    return cml_jax.maml(model, loss, learning_rate=0.0, num_steps=0, adapts=False)


def sharp_maml(
    model: Model, loss: Loss, *, radius: jax.typing.ArrayLike, sharp: str, **inner: Any
) -> Method:
    """The inner loop of Sharp-MAML; MAML's where the outer loop alone is perturbed.

    Args:
      model, loss, radius: As in `cml_jax.sharp_maml`.
      sharp: The loop that is perturbed, "lower", "upper" or "both".
      **inner: The other arguments of both methods.
    """
    if sharp == "upper":
        return cml_jax.maml(model, loss, **inner)
    return cml_jax.sharp_maml(model, loss, radius=radius, **inner)


def sharp_outer_loop(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What Sharp-MAML has `meta_step` do."""
    return {} if settings["sharp"] == "lower" else {"radius": settings["radius"]}
