"""What a trained run does to tasks: each analysis compiled, over batches of a split's tasks."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

import cml_jax
from cml_jax import analysis
from cml_jax.task_batch import over_tasks
from cml_jax.types import Adapted, Method, Model, Params, Task
from experiments.build import Learner, Problem
from experiments.machine.devices import Plan

ALONE = 8  # tasks that are compared where a meta-step has one
_META, _CO = "meta-learner", "co-learner (released code)"  # as in `Learner.tested`

Arrays = dict[str, Any]  # name to arrays, and to dicts of layers


class NotApplicable(Exception):
    """An analysis does not apply to a run: one line says why."""


class Subject(NamedTuple):
    """A trained run, and the tasks that it is analysed on.

    Attributes:
      learner: The functions of the run, made of a problem that `observed` has changed.
      problem: That problem.
      plan: How tasks are laid out on the devices; its chunk divides T.
      swept: What tells the replica of the run apart, "seed" and the setting that is swept.
      params: The parameters of the checkpoint.
      data: Data of the split, on the devices.
      keys: The tasks' keys, `[batches, T]`.
      num_steps: Inner steps, as in training; 0 where the method has none.
    """

    learner: Learner
    problem: Problem
    plan: Plan
    swept: Mapping[str, Any]
    params: Params
    data: Any
    keys: jax.Array
    num_steps: int

    def method(self, data: Any, num_steps: int | None = None, who: str = _META) -> Method:
        """A method of the run at test, after so many inner steps; None is as in training."""
        steps = self.num_steps if num_steps is None else num_steps
        return self.learner.tested(steps)[who](self.swept, data)


def observed(problem: Problem) -> Problem:
    """The problem with a network whose features are an `analysis.Observed`, where it has layers.

    The layers are {} where the network does not say what they are.
    """

    def model(data):
        plain = problem.model_on(data)
        if plain.layers is not None:
            return analysis.with_layers(plain)

        def apply(params, inputs):
            outputs, features = plain.apply(params, inputs)
            return outputs, analysis.Observed(features, {})

        return plain._replace(apply=apply)

    if problem.co_learner is None:
        return problem._replace(model=model)
    init, apply, _ = problem.co_learner
    reads = Model(
        lambda key, features: init(key, features.features),
        lambda params, features: apply(params, features.features),
    )
    return problem._replace(model=model, co_learner=reads)


def cooperation(run: Subject) -> Arrays:
    """Cosines between the outer gradients of the meta-learner and the co-learner, on the body.

    Returns:
      "tasks": layer to `[batches, T]`; "batches": layer to `[batches]`, of the mean gradients;
      "tasks_hold" and "batches_hold": whether all layers are positive.

    Raises:
      NotApplicable: The run has no co-learner.
    """
    if run.problem.co_learner is None:
        raise NotApplicable("the run has no co-learner")
    return _by_batch(run, partial(cooperation_of_batch, run))


def cooperation_of_batch(run: Subject, params: Params, data: Any, tasks: Task) -> Arrays:
    """What `cooperation` finds in one batch of tasks."""
    bodies = []
    for method in _both_heads(run, data):
        method = analysis.with_query_loss(method, run.problem.loss)
        found = cml_jax.task_gradients(method, params, tasks, chunk=run.plan.chunk)
        bodies.append({"body": found.gradients["base"]["body"]})
    means = [jax.tree.map(lambda g: g.mean(0, keepdims=True), body) for body in bodies]
    of_tasks, of_means = analysis.layer_cosines(*bodies), analysis.layer_cosines(*means)
    return {
        "tasks": of_tasks,
        "batches": {name: value[0] for name, value in of_means.items()},
        "tasks_hold": analysis.all_positive(of_tasks),
        "batches_hold": analysis.all_positive(of_means)[0],
    }


def gradient_norms(run: Subject) -> Arrays:
    """Norms of the gradient that is left after adaptation, layer by layer, without biases.

    Returns:
      "support" and "query": layer to `[batches, T]`.

    Raises:
      NotApplicable: The method has no inner steps.
    """
    _check_inner_steps(run)

    def of_batch(params, data, tasks):
        method = run.method(data)

        def of_one(task):
            adapted = method.adapt(params, task.support)
            return {
                name: analysis.gradient_after_adaptation(method, run.problem.loss, adapted, batch)
                for name, batch in task._asdict().items()
            }

        gradients = over_tasks(of_one, tasks, run.plan.chunk)
        return {k: analysis.layer_norms(g, weights_only=True) for k, g in gradients.items()}

    return _by_batch(run, of_batch)


def similarity(run: Subject) -> Arrays:
    """Linear CKA of each layer's output on the query set, before and after adaptation.

    Returns:
      Layer to `[batches, T]`.

    Raises:
      NotApplicable: The network has no `layers`, or the method no inner steps.
    """
    _check_inner_steps(run)

    def of_one(params, data, task):
        found = _predictions(run, params, data, task)
        layers = [found[when]["query"][1].layers for when in ("before", "after")]
        return analysis.layer_similarities(*layers)

    found = _by_batch(run, _each(run, of_one))
    if not found:
        raise NotApplicable("the network does not say what its layers are (Model.layers)")
    return found


def features(run: Subject) -> Arrays:
    """The features of the first task, and between-class shares of their variance in all tasks.

    Returns:
      "shares": "support" and "query" to "before" and "after" to `[batches, T]`; "first": the same
      to the features of the first task, `[n, ...]`; "targets": "support" and "query" to `[n]`.

    Raises:
      NotApplicable: Tasks have no classes, features are not one array, or the method has no inner
        steps.
    """
    _check_inner_steps(run)
    ways = run.problem.ways
    if not ways:
        raise NotApplicable("tasks have no classes")

    def of_one(params, data, task):
        found = _predictions(run, params, data, task)
        by_set = {
            part: {when: found[when][part][1].features for when in found} for part in task._fields
        }
        if len(jax.tree.leaves(by_set)) != len(found) * len(by_set):
            raise NotApplicable("the features are not one array")
        shares = {
            part: {
                when: analysis.between_class_share(x, getattr(task, part).targets, ways)
                for when, x in each.items()
            }
            for part, each in by_set.items()
        }
        return shares, by_set

    def of_batch(params, data, tasks):
        shares, by_set = _each(run, of_one)(params, data, tasks)
        targets = {part: batch.targets for part, batch in tasks._asdict().items()}
        return {"shares": shares, "of_first": jax.tree.map(lambda x: x[0], (by_set, targets))}

    found = _by_batch(run, of_batch)
    first, targets = jax.tree.map(lambda x: x[0], found["of_first"])
    return {"shares": found["shares"], "first": first, "targets": targets}


def agreement(run: Subject) -> Arrays:
    """Agreement weights, whichever weights the run was trained with.

    Returns:
      "weights", "losses" (of the query set) and "norms" (of displacements): `[batches, T]`;
      "cosines" between tasks: `[batches, T, T]`; "length" and "cosine" of the weighted sum beside
      the mean: `[batches]`.

    Raises:
      NotApplicable: The method has no inner steps.
    """
    _check_inner_steps(run)
    return _by_batch(run, partial(agreement_of_batch, run))


def agreement_of_batch(run: Subject, params: Params, data: Any, tasks: Task) -> Arrays:
    """What `agreement` finds in one batch of tasks."""
    metrics = {"query_loss": run.problem.loss}
    found = cml_jax.task_gradients(
        run.method(data), params, tasks, metrics=metrics, chunk=run.plan.chunk
    )
    weights = cml_jax.gradient_agreement(found.displacements)
    length, cosine = analysis.weighted_step(found.displacements, weights)
    return {
        "weights": weights,
        "losses": found.reports["query_loss"],
        "norms": analysis.task_norms(found.displacements),
        "cosines": analysis.task_cosines(found.displacements),
        "length": length,
        "cosine": cosine,
    }


def adaptation(run: Subject) -> Arrays:
    """The metric on the query set after several numbers of inner steps.

    Returns:
      "num_steps": `[S]`; "values": `[S, batches x T]`; "trained": the inner steps in training.

    Raises:
      NotApplicable: The method has no inner steps.
    """
    _check_inner_steps(run)
    num_steps = sorted({0, 1, 2, 5, 10, run.num_steps, 2 * run.num_steps})

    def of_batch(params, data, tasks):
        return analysis.adaptation_curve(
            lambda k: run.method(data, k),
            params,
            tasks,
            run.problem.metric,
            num_steps,
            chunk=run.plan.chunk,
        )

    values = np.concatenate(_by_batch(run, of_batch), axis=1)
    return {"num_steps": np.array(num_steps), "values": values, "trained": run.num_steps}


ANALYSES: dict[str, Callable[[Subject], Arrays]] = {
    each.__name__: each
    for each in (cooperation, gradient_norms, similarity, features, agreement, adaptation)
}


def _check_inner_steps(run: Subject) -> None:
    if not run.num_steps:
        raise NotApplicable("the method has no inner steps")


def _both_heads(run: Subject, data: Any) -> Sequence[Method]:
    """Who predicts: the meta-learner, and the co-learner on the body that is adapted."""
    method = run.method(data)
    if _CO in run.learner.tested(run.num_steps):
        return method, run.method(data, who=_CO)

    def second(adapted, inputs):  # of collaborative learning, where both heads adapt
        _, features = method.predict(adapted, inputs)
        outputs, _ = run.problem.co_learner.apply(adapted.params["head"]["co_learner"], features)
        return outputs, features

    return method, method._replace(predict=second)


def _predictions(run: Subject, params: Params, data: Any, task: Task) -> dict[str, dict]:
    """Outputs and features of support and query, "before" and "after" adaptation."""
    found = {}
    for when, steps in (("before", 0), ("after", run.num_steps)):
        method = run.method(data, steps)
        adapted: Adapted = method.adapt(params, task.support)
        found[when] = {k: method.predict(adapted, b.inputs) for k, b in task._asdict().items()}
    return found


def _each(run: Subject, function: Callable[..., Any]) -> Callable[..., Any]:
    """From a function of one task to one of a batch of tasks."""
    return lambda params, data, tasks: over_tasks(
        lambda task: function(params, data, task), tasks, run.plan.chunk
    )


def _by_batch(run: Subject, function: Callable[..., Any]) -> Any:
    """What a function of `(params, data, tasks)`, compiled, gives for every batch: leaves
    `[batches, ...]`, on the host."""

    @jax.jit
    def of_batch(params, data, keys):
        keys = jax.lax.with_sharding_constraint(keys, run.plan.tasks)
        return function(params, data, jax.vmap(run.problem.draw_test, (0, None))(keys, data))

    found = [jax.device_get(of_batch(run.params, run.data, keys)) for keys in run.keys]
    return jax.tree.map(lambda *each: np.stack(each), *found)
