"""The outer loop, one step at a time: pure functions that the caller compiles."""

import inspect
from collections.abc import Callable, Mapping

import chex
import jax
import jax.numpy as jnp
import optax

from cml_jax.inner import perturb
from cml_jax.types import (
    Adapted,
    Batch,
    MetaGradient,
    MetaState,
    Method,
    Metric,
    Metrics,
    Noisy,
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
    metrics: Mapping[str, Metric] | None = None,
    chunk: int | None = None,
) -> TaskGradients:
    """The gradient, the displacement and the report of every task, before anything is summed.

        gradient_t     = derivative of objective_t by everything that is trained
        displacement_t = params["base"] - adapted_t, on the leaves that adapt

    `meta_gradient` weighs and sums these. Analyses read them as they are.

    Args:
      method: What `maml`, `cml`, ... return.
      params: `state.params`.
      tasks: A batch of tasks, a `Task` with leaves `[T, n, ...]`.
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
    _check_tasks(tasks)
    trained = _trained(params)

    def one_task(task):
        def objective(trained):
            current = params | trained
            adapted = _adapt(method, current, task.support)
            if metrics:
                prediction = method.predict(adapted, task.query.inputs)
                loss, report = method.objective(current, adapted, task.query, prediction)
                report |= {k: m(prediction[0], task.query.targets) for k, m in metrics.items()}
            else:
                loss, report = method.objective(current, adapted, task.query)
            # None where `adapt` returned the leaf of the base itself.
            displacement = jax.tree.map(
                lambda b, a: None if a is b else b - a, current["base"], adapted.params
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
      weigh: As in `meta_step`, and so are weigh_on, radius, chunk and metrics.
      weigh_on: What `weigh` reads.
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
        by_task = task_gradients(method, params | trained, tasks, metrics=metrics, chunk=chunk)
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
        radius=radius,
        chunk=chunk,
        metrics=metrics,
    )
    trained = _trained(state.params)
    extra = {"value": result.loss} if _takes_extra_arguments(optimizer) else {}
    updates, opt_state = optimizer.update(result.gradient, state.opt_state, trained, **extra)
    params: Params = optax.apply_updates(trained, updates)
    return MetaState(params | result.carried, opt_state, state.step + 1), result.report


def evaluate(
    method: Method,
    params: Params,
    tasks: Task,
    metric: Metric,
    *,
    transductive: jax.typing.ArrayLike = True,
    chunk: int | None = None,
) -> jax.Array:
    """Adapts to every support set and scores the query set.

    Noise (dropout, where the inputs are a `Noisy`) is drawn while adapting and never while
    predicting.

    Args:
      method: What `maml`, ... return. Its inner loop may be longer than in training.
      params: `state.params`.
      tasks: A batch of tasks, a `Task` with leaves `[T, n, ...]`.
      metric: `(outputs, targets) -> scalar`, such as `accuracy`.
      transductive: True predicts all queries of a task in one batch, so that batch statistics
        (where the network has them) see all queries, as in MAML's published numbers. False predicts
        each query together with the support set only, so that nothing is learned from the other
        queries. A traced bool makes one program of both.
      chunk: The number of tasks that run at a time, as in `meta_step`.

    Returns:
      The metric of each task, `[T]`.

    Raises:
      TypeError, AssertionError: When `tasks` is not a batch of tasks. The message names the leaf.
      ValueError: When chunk does not divide T, when there are no tasks or no examples, or when
        transductive=False and a query has another shape than a support example.

    Example:
      >>> import jax, cml_jax
      >>> from cml_jax.models import mlp
      >>> from cml_jax.tasks import sinusoid
      >>> method = cml_jax.maml(mlp(), cml_jax.squared_error, learning_rate=0.01, num_steps=10)
      >>> params = method.init(jax.random.key(0), jax.numpy.zeros((5, 1)))
      >>> draw = jax.vmap(lambda key: sinusoid(key, shots=5, queries=10))
      >>> tasks = draw(jax.random.split(jax.random.key(1), 3))
      >>> errors = cml_jax.evaluate(method, params, tasks, cml_jax.squared_error)
      >>> errors.shape
      (3,)
    """
    _check_tasks(tasks)
    traced = isinstance(transductive, jax.Array)
    if traced or not transductive:
        _check_queries_join_the_support(tasks)

    def one_task(task):
        adapted = _adapt(method, params, task.support)
        support, queries = map(_without_noise, (task.support.inputs, task.query.inputs))

        def predict_one(query):
            inputs = jax.tree.map(lambda s, q: jnp.concatenate([s, q[None]]), support, query)
            return jax.tree.map(lambda o: o[-1], method.predict(adapted, inputs)[0])

        def predict_all(queries):
            return method.predict(adapted, queries)[0]

        predict_each = jax.vmap(predict_one)
        if traced:
            outputs = jax.lax.cond(transductive, predict_all, predict_each, queries)
        else:
            outputs = (predict_all if transductive else predict_each)(queries)
        return metric(outputs, task.query.targets)

    return over_tasks(one_task, tasks, chunk)


def _trained(params):
    """All parts except what a method carries along."""
    return {name: part for name, part in params.items() if name != "carried"}


def _adapt(method, params, support):
    """`method.adapt`, and a line that says which rule of `Adapted` it broke."""
    adapted = method.adapt(params, support)
    if not isinstance(adapted, Adapted):
        raise TypeError(
            f"method.adapt returned a {type(adapted).__name__}: return "
            "cml_jax.Adapted(params, extra), with params like params['base']"
        )
    expected, found = map(jax.tree.structure, (params["base"], adapted.params))
    if found != expected:
        raise ValueError(
            f"method.adapt returned parameters with the structure {found} but params['base'] is "
            f"{expected}: return the same, and put what else there is into Adapted.extra"
        )
    if "carried" in params and "carried" not in adapted.extra:
        raise ValueError(
            f"params have 'carried' but Adapted.extra has {list(adapted.extra)}: return its next "
            "value as extra['carried']"
        )
    return adapted


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


def _without_noise(inputs):
    """`inputs` with every `Noisy` in it replaced by the inputs alone."""

    def is_noisy(node):
        return isinstance(node, Noisy)

    return jax.tree.map(lambda x: x.inputs if is_noisy(x) else x, inputs, is_leaf=is_noisy)


def over_tasks(function: Callable[[Task], PyTree], tasks: Task, chunk: int | None = None) -> PyTree:
    """A function of one task applied to a batch of them, `chunk` at a time.

    Args:
      function: From a `Task` with leaves `[n, ...]` to any tree of arrays.
      tasks: A batch of tasks, leaves `[T, n, ...]`.
      chunk: The number of tasks that run at a time, as in `meta_step`.

    Returns:
      A tree with leaves `[T, ...]`.

    Raises:
      ValueError: When chunk does not divide T.
    """
    num_tasks = jax.tree.leaves(tasks)[0].shape[0]
    if chunk is None or chunk == num_tasks:
        return jax.vmap(function)(tasks)
    if chunk < 1 or num_tasks % chunk:
        raise ValueError(
            f"chunk={chunk} does not divide the {num_tasks} tasks: choose a divisor, or None"
        )
    # [T] -> [chunk, T / chunk], scanned along the second axis: the first stays a contiguous cut of
    # T, so tasks sharded over as many devices stay where they are.
    split = jax.tree.map(lambda x: x.reshape(chunk, -1, *x.shape[1:]).swapaxes(0, 1), tasks)
    results = jax.lax.map(jax.vmap(function), split)
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(num_tasks, *x.shape[2:]), results)


def _check_tasks(tasks):
    """`tasks` is a Task of two Batches whose leaves agree on T, and within a batch on n."""
    for name, value, kind in (
        ("tasks", tasks, Task),
        ("tasks.support", getattr(tasks, "support", None), Batch),
        ("tasks.query", getattr(tasks, "query", None), Batch),
    ):
        if not isinstance(value, kind):
            raise TypeError(
                f"{name} is a {type(value).__name__} but must be a cml_jax.{kind.__name__}: "
                f"wrap it, {kind.__name__}{kind._fields}"
            )
    num_tasks = None
    for part in ("support", "query"):
        num_examples = None
        for path, leaf in jax.tree_util.tree_leaves_with_path(getattr(tasks, part)):
            name = f"tasks.{part}{jax.tree_util.keystr(path)}"
            if jnp.ndim(leaf) < 2:
                chex.assert_rank(leaf, 2, custom_message=f"{name} needs leading axes [T, n]")
            if 0 in leaf.shape[:2]:
                raise ValueError(f"{name} is empty, {leaf.shape}: give at least one task, example")
            num_tasks = num_tasks or leaf.shape[0]
            num_examples = num_examples or leaf.shape[1]
            chex.assert_axis_dimension(
                leaf, 0, num_tasks, custom_message=f"{name} disagrees on T, the number of tasks"
            )
            chex.assert_axis_dimension(
                leaf, 1, num_examples, custom_message=f"{name} disagrees on n, the examples a task"
            )


def _check_queries_join_the_support(tasks):
    """One query and the support set have to fit into one batch."""
    queries, supports = (_without_noise(batch.inputs) for batch in (tasks.query, tasks.support))
    fit = jax.tree.structure(queries) == jax.tree.structure(supports)
    shapes = [[x.shape[2:] for x in jax.tree.leaves(inputs)] for inputs in (queries, supports)]
    if not fit or shapes[0] != shapes[1]:
        raise ValueError(
            "transductive=False predicts each query in one batch with the support set, but the "
            f"leaves of a query are {shapes[0]} and those of a support example {shapes[1]}: give "
            "both the same, or use transductive=True"
        )
