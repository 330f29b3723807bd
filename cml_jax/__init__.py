"""Gradient-based meta-learning as pure functions: cooperative meta-learning and gradient agreement
on MAML and its relatives.

Training is `init` and `meta_step` on a method, such as `cml(maml(...), ...)`; `evaluate` tests it.

To write a method, return a `Method` whose `adapt` returns an `Adapted`. `gradient_descent` and
`loss_on` are the usual inner loop; `cml_jax.inner` has its parts (`sgd`, `select`, `merge`,
`perturb`, `check_differentiable`), and `task_gradients` and `meta_gradient` are what `meta_step` is
made of. `cml_jax.methods` has what only some problems need, `cml_jax.models` the networks.
"""

from cml_jax import clipping, inner
from cml_jax.ensemble import ensemble
from cml_jax.evaluation import evaluate
from cml_jax.inner import gradient_descent, loss_on
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
    proto_net,
    reptile,
    reptile_released,
    sharp_maml,
    unicorn_maml,
)
from cml_jax.step import init, meta_gradient, meta_step, task_gradients
from cml_jax.types import (
    Adapted,
    Batch,
    MetaGradient,
    MetaState,
    Method,
    Model,
    Noisy,
    Task,
    TaskGradients,
)
from cml_jax.weighting import gradient_agreement, uniform

__version__ = "0.1.0"

__all__ = [
    "Adapted",
    "Batch",
    "MetaGradient",
    "MetaState",
    "Method",
    "Model",
    "Noisy",
    "Task",
    "TaskGradients",
    "accuracy",
    "anil",
    "boil",
    "clipping",
    "cml",
    "cml_dagger",
    "cml_dagger_released",
    "collaborative",
    "cross_entropy",
    "ensemble",
    "evaluate",
    "fomaml",
    "gradient_agreement",
    "gradient_descent",
    "init",
    "inner",
    "loss_on",
    "maml",
    "maml_plus_plus",
    "meta_gradient",
    "meta_sgd",
    "meta_step",
    "multi_step_weights",
    "proto_net",
    "reptile",
    "reptile_released",
    "sharp_maml",
    "squared_error",
    "task_gradients",
    "unicorn_maml",
    "uniform",
]
