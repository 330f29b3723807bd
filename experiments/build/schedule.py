"""How long a run trains, when it validates, saves and reports, and how much it is tested."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.choices.methods import METHODS
from experiments.choices.outer import WEIGHTINGS


class Schedule(NamedTuple):
    """How long a run trains, when it validates, saves and reports, and how much it is tested.

    Attributes:
      train_steps: Number of meta-steps.
      tasks_per_step: Tasks in a meta-batch.
      validate_every: Meta-steps between validations.
      validation_tasks: Tasks of a validation.
      analyze_every: Meta-steps between analyses; 0 is none.
      patience: Validations without a better one until training ends; 0 is train_steps.
      checkpoint_seconds: Seconds between checkpoints.
      log_seconds: Seconds between reports where there is no terminal.
      skip_non_finite: Whether steps that are not finite are skipped, or end the run.
      remedy: What to change where a step was not finite, in words.
      compares_tasks: Whether task weights come from comparing tasks.
      tensorboard: Whether TensorBoard files are written too.
      remat_auto: Whether inner steps are computed again where memory does not suffice.
      test_steps: Numbers of inner steps, each of which is tested.
      test_tasks: Tasks of the final test.
      test_each_alone: Whether the test also predicts each query alone, where that differs.
    """

    train_steps: int
    tasks_per_step: int
    validate_every: int
    validation_tasks: int
    analyze_every: int
    patience: int
    checkpoint_seconds: float
    log_seconds: float
    skip_non_finite: bool
    remedy: str
    compares_tasks: bool
    tensorboard: bool
    remat_auto: bool
    test_steps: Sequence[int]
    test_tasks: int
    test_each_alone: bool


def schedule(settings: Mapping[str, Any]) -> Schedule:
    """The schedule of a run.

    Args:
      settings: Values by dotted names, checked.
    """
    return Schedule(
        train_steps=settings["train_steps"],
        tasks_per_step=settings["tasks_per_step"],
        validate_every=settings["eval.every"],
        validation_tasks=settings["eval.validation_tasks"],
        analyze_every=settings["eval.analyze_every"],
        patience=settings["eval.patience"],
        checkpoint_seconds=60 * settings["checkpoint_every_minutes"],
        log_seconds=settings["log_every_seconds"],
        skip_non_finite=settings["non_finite"] == "skip",
        remedy=_remedy(settings),
        compares_tasks=WEIGHTINGS[settings["weighting"]].compares,
        tensorboard=settings["tensorboard"],
        remat_auto=settings["plan.remat"] == "auto",
        test_steps=_test_steps(settings),
        test_tasks=settings["eval.num_tasks"],
        test_each_alone=settings["eval.each_alone"],
    )


def _test_steps(settings):
    if not METHODS[settings["method"]].has_inner_steps:
        return [0]
    return [steps or settings["num_steps"] for steps in settings["eval.num_steps"]]


def _remedy(settings):
    named, read = [], METHODS[settings["method"]].keys
    inner = [name for name in ("inner_learning_rate",) if name in read]
    for name in (*inner, "outer_learning_rate"):
        swept = settings["sweep"] == name
        value = ",".join(map(str, settings["sweep_values"])) if swept else settings[name]
        named.append(f"--config.{'sweep_values' if swept else name}={value}")
    return f"lower {' or '.join(named)} in a new run"
