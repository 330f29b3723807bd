"""What the papers' figures show, as numbers: functions from arrays to arrays that the caller
compiles."""

from cml_jax.analysis.adaptation import adaptation_curve
from cml_jax.analysis.agreement import task_cosines, task_norms, weighted_step
from cml_jax.analysis.confusion import confusion_matrix
from cml_jax.analysis.embedding import between_class_share, principal_components
from cml_jax.analysis.gradients import (
    all_positive,
    by_layer,
    gradient_after_adaptation,
    layer_cosines,
    layer_norms,
    with_query_loss,
)
from cml_jax.analysis.similarity import Observed, layer_similarities, linear_cka, with_layers

__all__ = [
    "Observed",
    "adaptation_curve",
    "all_positive",
    "between_class_share",
    "by_layer",
    "confusion_matrix",
    "gradient_after_adaptation",
    "layer_cosines",
    "layer_norms",
    "layer_similarities",
    "linear_cka",
    "principal_components",
    "task_cosines",
    "task_norms",
    "weighted_step",
    "with_layers",
    "with_query_loss",
]
