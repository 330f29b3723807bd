"""Gradient-based meta-learning as pure functions: cooperative meta-learning and gradient agreement
on MAML and its relatives."""

from cml_jax import clipping
from cml_jax.inner import gradient_descent
from cml_jax.losses import accuracy, cross_entropy, squared_error
from cml_jax.methods import (
    anil,
    boil,
    cml,
    cml_dagger,
    cml_dagger_released,
    collaborative,
    fomaml,
    maml,
    maml_plus_plus,
    meta_sgd,
    multi_step_weights,
    reptile,
    reptile_released,
    sharp_maml,
)
from cml_jax.step import evaluate, init, meta_step
from cml_jax.types import Batch, MetaState, Method, Model, Task
from cml_jax.weighting import gradient_agreement, uniform

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "MetaState",
    "Method",
    "Model",
    "Task",
    "accuracy",
    "anil",
    "boil",
    "clipping",
    "cml",
    "cml_dagger",
    "cml_dagger_released",
    "collaborative",
    "cross_entropy",
    "evaluate",
    "fomaml",
    "gradient_agreement",
    "gradient_descent",
    "init",
    "maml",
    "maml_plus_plus",
    "meta_sgd",
    "meta_step",
    "multi_step_weights",
    "reptile",
    "reptile_released",
    "sharp_maml",
    "squared_error",
    "uniform",
]
