"""The functions that a run trains and tests; settings that are swept may be traced."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import cml_jax
from cml_jax.types import MetaState, Method, Metrics, Task
from experiments.build.methods import base_method
from experiments.build.optimizers import outer_optimizer
from experiments.build.problem import Problem
from experiments.build.replicas import Replicas, replicas
from experiments.build.resolve import resolve
from experiments.choices.methods import METHODS
from experiments.choices.outer import WEIGHTINGS

_CO_LEARNER = "co-learner (released code)"

Settings = Mapping[str, Any]
Swept = Mapping[str, Any]


class Learner(NamedTuple):
    """What a run trains and tests: pure functions that know the settings.

    `swept` is the dict of what differs between replicas, "seed" and the setting that is swept;
    its values may be traced. `data` is the data of a split, which may be traced too.

    Attributes:
      replicas: What tells the replicas of the run apart.
      init: `(swept, data) -> MetaState`.
      meta_step: `(swept, state, tasks, data, remat, chunk) -> (MetaState, metrics)`.
      num_steps: The number of inner steps in training and validation; 0 where there are none.
      static_steps: Whether the numbers of inner steps that `tested` is given must be static.
      validated: Whose validation chooses the checkpoint: prefix in the reports to one of `tested`.
        With `eval.best_of=both`, CML-dagger as the released code has it stands for the co-learner.
      tested: From a number of inner steps to what is scored at test: who predicts, to
        `(swept, data) -> Method`. That is the meta-learner, and with a co-learner CML-dagger too.
    """

    replicas: Replicas
    init: Callable[[Swept, Any], MetaState]
    meta_step: Callable[..., tuple[MetaState, Metrics]]
    num_steps: int
    static_steps: bool
    validated: dict[str, str]
    tested: Callable[[Any], dict[str, Callable[[Swept, Any], Method]]]


def learner(settings: Settings, problem: Problem) -> Learner:
    """The functions of a run.

    Args:
      settings: Values by dotted names, checked.
      problem: What is learned.

    Raises:
      ValueError: The method or the choice of the checkpoint needs a co-learner, and there is none.
    """
    row = METHODS[settings["method"]]
    steps = settings["num_steps"] if row.has_inner_steps else 0
    best_of_both = settings["eval.best_of"] == "both"
    if (row.needs_co_learner or best_of_both) and problem.co_learner is None:
        raise ValueError(
            f"method={settings['method']} with eval.best_of={settings['eval.best_of']} needs a "
            "second head: give problem.co_learner"
        )
    if row.all_classes and not (problem.train_classes and problem.ways):
        raise ValueError(
            f"method={settings['method']} trains on all classes and is tested on tasks: give "
            "problem.train_classes and problem.ways"
        )

    def of(function, **fixed):
        return lambda swept, *arguments: function(
            {**settings, **swept}, problem, *arguments, **fixed
        )

    testable = {row.predicts: base_method}
    if has_cml(settings, problem):
        if row.dagger and not problem.method:
            testable["co-learner (paper)"] = _dagger
        testable[_CO_LEARNER] = _released
    validated = {"validation": row.predicts}
    if best_of_both:
        validated["validation/co_learner"] = _CO_LEARNER

    def tested(num_steps):
        return {who: of(method, num_steps=num_steps) for who, method in testable.items()}

    return Learner(
        replicas(settings),
        of(init),
        of(meta_step),
        steps,
        row.static_steps,
        validated,
        tested,
    )


def train_method(
    settings: Settings,
    problem: Problem,
    data: Any,
    remat: bool = False,
    progress: jax.typing.ArrayLike = 0.0,
) -> Method:
    """The method that is trained: `base_method`, with CML around it where there is a co-learner."""
    method = base_method(settings, problem, data, settings["num_steps"], remat, progress)
    if not has_cml(settings, problem):
        return method
    number = settings["co_learner_number"]
    return cml_jax.cml(
        method,
        problem.co_learner,
        problem.loss,
        scale=settings["co_learner_scale"],
        frozen=settings["co_learner_frozen"],
        number=number if number > 1 else None,
        on_support=settings["co_learner_support"],
    )


def has_cml(settings: Settings, problem: Problem) -> bool:
    """Whether CML's co-learner is trained beside the method."""
    row = METHODS[settings["method"]]
    return problem.co_learner is not None and not (row.needs_co_learner or row.all_classes)


def init(settings: Settings, problem: Problem, data: Any) -> MetaState:
    """The state at step 0, a function of the seed."""
    # From a test task, which has no keys for noise.
    example = jax.eval_shape(problem.draw_test, jax.random.key(0), data).support.inputs
    key = jax.random.fold_in(jax.random.key(settings["seed"]), 0)
    method = train_method(settings, problem, data)
    inputs = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), example)
    return cml_jax.init(method, outer_optimizer(settings), key, inputs)


def meta_step(
    settings: Settings,
    problem: Problem,
    state: MetaState,
    tasks: Task,
    data: Any,
    remat: bool = False,
    chunk: int | None = None,
) -> tuple[MetaState, Metrics]:
    """One update of the meta-parameters, as the settings have it.

    Args:
      settings: Values by dotted names; what is swept is traced.
      problem: What is learned.
      state: The state before the step.
      tasks: A batch of tasks, leaves `[T, n, ...]`.
      data: Data of the training split.
      remat, chunk: As in `cml_jax.maml` and `cml_jax.meta_step`.
    """
    weighting = WEIGHTINGS[settings["weighting"]]
    own = {name.removeprefix("agreement_"): settings[name] for name in weighting.keys}
    more = {}
    if (weigh_on := own.pop("weigh_on", "")) == "last_steps":
        more["since"] = base_method(settings, problem, data, settings["num_steps"] - 1)
    elif weigh_on:
        more["weigh_on"] = weigh_on
    if extra := METHODS[settings["method"]].meta_step:
        more |= resolve(extra)(settings)
    weigh = resolve(weighting.function)
    return cml_jax.meta_step(
        train_method(settings, problem, data, remat, state.step / settings["train_steps"]),
        outer_optimizer(settings),
        state,
        tasks,
        weigh=partial(weigh, **own) if own else weigh,
        chunk=chunk,
        metrics={"loss": problem.loss, problem.metric_name: problem.metric},
        **more,
    )


def _dagger(settings, problem, data, num_steps):
    """CML-dagger as the paper writes it, eq. 9."""
    method = cml_jax.cml_dagger(
        problem.model_on(data),
        _tested_co_learner(settings, problem),
        problem.loss,
        learning_rate=settings["inner_learning_rate"],
        num_steps=num_steps,
    )
    return problem.inputs(data)(method) if problem.inputs else method


def _released(settings, problem, data, num_steps):
    """CML-dagger as the paper's code has it."""
    base = base_method(settings, problem, data, num_steps)
    return cml_jax.cml_dagger_released(base, _tested_co_learner(settings, problem))


def _tested_co_learner(settings, problem):
    """The co-learner that predicts; of several the mean."""
    number = settings["co_learner_number"]
    return cml_jax.ensemble(problem.co_learner, number) if number > 1 else problem.co_learner
