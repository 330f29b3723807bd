"""The outer loop, one step at a time: pure functions that the caller compiles."""

import inspect
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from cml_jax.inner import perturb
from cml_jax.task_batch import adapt, check_tasks, over_tasks
from cml_jax.types import (
    MetaGradient,
    MetaState,
    Method,
    Metric,
    Metrics,
    Params,
    PyTree,
    Task,
    TaskGradients,
)
from cml_jax.weighting import uniform


def init(
    method: Method, optimizer: optax.GradientTransformation, key: jax.Array, inputs: PyTree
) -> MetaState:
    """The state that training starts from.

    Args:
      method: What `maml`, `cml`, ... return.
      optimizer: The outer optimiser. It trains all of `params` except "carried".
      key: A PRNG key.
      inputs: Example inputs of one task, leaves `[n, ...]`. Only their shapes and dtypes matter.

    Returns:
      A `MetaState` at step 0.
    """
    params = method.init(key, inputs)
    return MetaState(params, optimizer.init(_trained(params)), jnp.zeros((), jnp.int32))


def task_gradients(
    method: Method,
    params: Params,
    tasks: Task,
    *,
    since: Method | None = None,
    metrics: Mapping[str, Metric] | None = None,
    chunk: int | None = None,
) -> TaskGradients:
    """The gradient, the displacement and the report of every task, before anything is summed.

        gradient_t     = derivative of objective_t by everything that is trained
        displacement_t = params["base"] - adapted_t, on the leaves that adapt

    With `since`, another method, displacements are measured from where that one arrives.

    `meta_gradient` weighs and sums these. Analyses read them as they are.

    Args:
      method: What `maml`, `cml`, ... return.
      params: `state.params`.
      tasks: A batch of tasks, a `Task` with leaves `[T, n, ...]`.
      since: As in `meta_step`.
      metrics: More to report on the query set, from name to `(outputs, targets) -> scalar`.
      chunk: The number of tasks that run at a time, as in `meta_step`.

    Returns:
      A `TaskGradients`, whose leaves all have the tasks as their first axis.

    Raises:
      TypeError, AssertionError, ValueError: As `meta_step` raises them.

    Example:
      How well the gradients of two tasks agree:

      >>> import jax, optax, cml_jax
      >>> from cml_jax.models import mlp
      >>> from cml_jax.tasks import sinusoid
      >>> method = cml_jax.maml(mlp(), cml_jax.squared_error, learning_rate=0.01, num_steps=1)
      >>> params = method.init(jax.random.key(0), jax.numpy.zeros((5, 1)))
      >>> draw = jax.vmap(lambda key: sinusoid(key, shots=5, queries=10))
      >>> tasks = draw(jax.random.split(jax.random.key(1), 2))
      >>> found = cml_jax.task_gradients(method, params, tasks)
      >>> found.losses.shape
      (2,)
      >>> found.gradients["base"]["head"]["Dense_0"]["kernel"].shape
      (2, 40, 1)
      >>> first, second = (jax.tree.map(lambda x: x[t], found.gradients) for t in range(2))
      >>> agreement = optax.tree.vdot(first, second)
    """
    check_tasks(tasks)
    trained = _trained(params)

    def one_task(task):
        def objective(trained):
            current = params | trained
            adapted = adapt(method, current, task.support)
            if metrics:
                prediction = method.predict(adapted, task.query.inputs)
                loss, report = method.objective(current, adapted, task.query, prediction)
                report |= {k: m(prediction[0], task.query.targets) for k, m in metrics.items()}
            else:
                loss, report = method.objective(current, adapted, task.query)
            base = begin = current["base"]
            if since is not None:
                begin = adapt(since, jax.lax.stop_gradient(current), task.support).params
            # None where `adapt` returned the leaf of the base itself.
            displacement = jax.tree.map(
                lambda base, a, b: None if a is base else b - a, base, adapted.params, begin
            )
            carried = {name: adapted.extra[name] for name in params if name not in trained}
            return loss, (displacement, carried, report)

        (loss, rest), gradient = jax.value_and_grad(objective, has_aux=True)(trained)
        return TaskGradients(loss, gradient, *rest)

    return over_tasks(one_task, tasks, chunk)


def meta_gradient(
    method: Method,
    params: Params,
    tasks: Task,
    *,
    weigh: Callable[[PyTree], jax.Array] = uniform,
    weigh_on: str = "displacements",
    since: Method | None = None,
    radius: jax.typing.ArrayLike | None = None,
    chunk: int | None = None,
    metrics: Mapping[str, Metric] | None = None,
) -> MetaGradient:
    """The weighted sum of the tasks' gradients, which the outer optimiser is given.

        sum_t w_t gradient_t,   w = weigh(displacements)

    Args:
      method: What `maml`, `cml`, ... return.
      params: `state.params`.
      tasks: A batch of tasks, a `Task` with leaves `[T, n, ...]`.
      weigh: As in `meta_step`, and so are weigh_on, since, radius, chunk and metrics.
      weigh_on: What `weigh` reads.
      since: Where displacements are measured from.
      radius: The radius of sharpness-aware minimisation.
      chunk: The number of tasks that run at a time.
      metrics: More to report on the query set.

    Returns:
      A `MetaGradient`: the mean loss, the gradient, what is carried, and the report.

    Raises:
      TypeError, AssertionError, ValueError: As `meta_step` raises them.
    """
    if weigh_on not in ("displacements", "gradients"):
        raise ValueError(f"weigh_on={weigh_on!r} is unknown: use 'displacements' or 'gradients'")

    def weighted_sum(trained):
        by_task = task_gradients(
            method, params | trained, tasks, since=since, metrics=metrics, chunk=chunk
        )
        weights = weigh(_weighed(by_task, weigh_on))
        exact = jax.lax.Precision.HIGHEST  # never TF32 or bfloat16 for a few million products
        gradient = jax.tree.map(
            lambda g: jnp.tensordot(weights.astype(g.dtype), g, 1, precision=exact),
            by_task.gradients,
        )
        report = jax.tree.map(lambda m: m.mean(0), by_task.reports) | {
            "gradient_norm": optax.tree.norm(gradient),
            "weight_mean": weights.mean(),
            "weight_min": weights.min(),
            "weight_max": weights.max(),
            "weight_negative": jnp.mean(weights < 0, dtype=jnp.float32),
        }
        carried = jax.tree.map(_mean_or_count, by_task.carried)
        return MetaGradient(by_task.losses.mean(), gradient, carried, report)

    trained = _trained(params)
    result = weighted_sum(trained)
    return result if radius is None else weighted_sum(perturb(trained, result.gradient, radius))


def meta_step(
    method: Method,
    optimizer: optax.GradientTransformation,
    state: MetaState,
    tasks: Task,
    *,
    weigh: Callable[[PyTree], jax.Array] = uniform,
    weigh_on: str = "displacements",
    since: Method | None = None,
    radius: jax.typing.ArrayLike | None = None,
    chunk: int | None = None,
    metrics: Mapping[str, Metric] | None = None,
) -> tuple[MetaState, Metrics]:
    """One update of the meta-parameters by a weighted sum of the tasks' gradients.

        params <- optimizer(sum_t w_t grad_params objective_t),   w = weigh(displacements)
        displacement_t = params["base"] - adapted_t, on the leaves that adapt

    With `radius`, that gradient leads to `params + radius * gradient / |gradient|`, and the
    gradient there (its weights too) is the one that is applied: sharpness-aware minimisation around
    the optimiser, which is Sharp-MAML_up. The metrics are then those at the perturbed parameters,
    as in its released code.

    `params["carried"]`, where a method has it, is not trained: its next value is the mean over
    tasks (for integers the maximum) of what `method.adapt` returns as `extra["carried"]`.

    An outer optimiser that asks for the loss, such as
    `optax.chain(optax.adam(1e-3), optax.contrib.reduce_on_plateau())`, gets `value`, the mean of
    the tasks' objectives, however the tasks are weighed. Line searches, which evaluate the loss at
    other parameters, are not supported.

    The function is pure and the caller compiles it, as in the example. With `tasks` sharded along
    their first axis, the weighted sum is the only communication between devices.

    Args:
      method: What `maml`, `cml`, ... return.
      optimizer: The outer optimiser, any optax transformation.
      state: The state before the step.
      tasks: A batch of tasks, a `Task` with leaves `[T, n, ...]`.
      weigh: A function from displacements (leaves `[T, ...]`) to the tasks' weights `[T]`, which
        are constants of the step.
      weigh_on: "displacements", or "gradients": then `weigh` reads the tasks' gradients of
        params["base"], which are what the outer loop sums. The paper on gradient agreement weighs
        displacements; the other choice is ours.
      since: A method with the same parameters, from whose result displacements are measured in
        place of params["base"]: with one inner step less than `method`, `weigh` reads the last
        inner step alone. It costs that method's inner loop once more. Ours, not the paper's.
      radius: The radius rho of Sharp-MAML_up (5e-4 in its code), at the cost of a second gradient.
        None turns it off.
      chunk: The number of tasks that run at a time; it must divide T. None runs all at once and
        suits a GPU or TPU. On CPU, the number of devices runs one task on each and needs the least
        memory. The result is the same.
      metrics: More to report on the query set, from name to `(outputs, targets) -> scalar`.

    Returns:
      The state after the step, and a flat dict of scalars: means over tasks of what
      `method.objective` reports and of `metrics`; "gradient_norm"; "weight_mean", "weight_min",
      "weight_max" and "weight_negative", the mean, smallest and largest weight of a task and the
      share of negative weights.

    Raises:
      TypeError, AssertionError: When `tasks` is not a batch of tasks. The message names the leaf.
      ValueError: When chunk does not divide T, when there are no tasks or no examples, or when
        weigh_on is neither of its two values.

    Example:
      >>> from functools import partial
      >>> import jax, optax, cml_jax
      >>> from cml_jax.models import mlp
      >>> from cml_jax.tasks import sinusoid
      >>> method = cml_jax.maml(mlp(), cml_jax.squared_error, learning_rate=0.01, num_steps=1)
      >>> optimizer = optax.adam(1e-3)
      >>> state = cml_jax.init(method, optimizer, jax.random.key(0), jax.numpy.zeros((5, 1)))
      >>> step = jax.jit(partial(cml_jax.meta_step, method, optimizer), donate_argnums=0)
      >>> draw = jax.vmap(lambda key: sinusoid(key, shots=5, queries=10))
      >>> for i in range(2):
      ...     tasks = draw(jax.random.split(jax.random.key(i), 4))
      ...     state, report = step(state, tasks)
      >>> int(state.step)
      2
      >>> sorted(report)[:2]
      ['gradient_norm', 'loss']

    Reference: For `radius`, Abbas et al. 2022, https://arxiv.org/abs/2206.03996, algorithm 1.
    """
    result = meta_gradient(
        method,
        state.params,
        tasks,
        weigh=weigh,
        weigh_on=weigh_on,
        since=since,
        radius=radius,
        chunk=chunk,
        metrics=metrics,
    )
    trained = _trained(state.params)
    extra = {"value": result.loss} if _takes_extra_arguments(optimizer) else {}
    updates, opt_state = optimizer.update(result.gradient, state.opt_state, trained, **extra)
    params: Params = optax.apply_updates(trained, updates)
    return MetaState(params | result.carried, opt_state, state.step + 1), result.report


def _trained(params):
    """All parts except what a method carries along."""
    return {name: part for name, part in params.items() if name != "carried"}


def _weighed(by_task, weigh_on):
    """What the weighting reads."""
    if weigh_on == "gradients":
        return by_task.gradients["base"]
    # Where nothing adapts (no inner steps), zeros: `weigh` reads T from a leaf.
    nothing = not jax.tree.leaves(by_task.displacements)
    return jnp.zeros(by_task.losses.shape) if nothing else by_task.displacements


def _takes_extra_arguments(optimizer):
    # By its signature: some wrappers, such as optax.MultiSteps, pass them on without the type.
    parameters = inspect.signature(optimizer.update).parameters.values()
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def _mean_or_count(values):
    # Counts agree over tasks; a mean in float32 would round large ones.
    return values.mean(0) if jnp.issubdtype(values.dtype, jnp.inexact) else values.max(0)
