"""How long a run trains, and when it validates, saves and reports."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments.choices.outer import WEIGHTINGS


class Schedule(NamedTuple):
    """How long a run trains, and when it validates, saves and reports.

    Attributes:
      train_steps: Meta-steps.
      tasks_per_step: Tasks in a meta-batch.
      validate_every: Meta-steps between validations.
      validation_tasks: Tasks of a validation.
      patience: Validations without a better one until training ends; 0 is train_steps.
      checkpoint_seconds: Seconds between checkpoints.
      log_seconds: Seconds between reports where there is no terminal.
      skip_non_finite: Whether steps that are not finite are skipped, or end the run.
      remedy: What to change where a step was not finite, in words; a format string of what is
        swept.
      compares_tasks: Whether task weights come from comparing tasks.
      tensorboard: Whether TensorBoard files are written too.
      remat_auto: Whether inner steps are computed again where memory does not suffice.
    """

    train_steps: int
    tasks_per_step: int
    validate_every: int
    validation_tasks: int
    patience: int
    checkpoint_seconds: float
    log_seconds: float
    skip_non_finite: bool
    remedy: str
    compares_tasks: bool
    tensorboard: bool
    remat_auto: bool


def schedule(settings: Mapping[str, Any]) -> Schedule:
    """The schedule of a run.

    Args:
      settings: By dotted names, checked.
    """
    return Schedule(
        train_steps=settings["train_steps"],
        tasks_per_step=settings["tasks_per_step"],
        validate_every=settings["eval.every"],
        validation_tasks=settings["eval.validation_tasks"],
        patience=settings["eval.patience"],
        checkpoint_seconds=60 * settings["checkpoint_every_minutes"],
        log_seconds=settings["log_every_seconds"],
        skip_non_finite=settings["non_finite"] == "skip",
        remedy=f"lower --config.inner_learning_rate={settings['inner_learning_rate']} or "
        f"--config.outer_learning_rate={settings['outer_learning_rate']} in a new run",
        compares_tasks=WEIGHTINGS[settings["weighting"]].compares,
        tensorboard=settings["tensorboard"],
        remat_auto=settings["plan.remat"] == "auto",
    )
