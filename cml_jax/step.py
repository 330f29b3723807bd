"""The outer loop, one step at a time: pure functions that the caller compiles."""

from collections.abc import Callable, Mapping

import chex
import jax
import jax.numpy as jnp
import optax

from cml_jax.inner import perturb
from cml_jax.types import Batch, MetaState, Method, Metric, Metrics, Params, PyTree, Task
from cml_jax.weighting import uniform


def init(
    method: Method, optimizer: optax.GradientTransformation, key: jax.Array, inputs: PyTree
) -> MetaState:
    """The state training starts from.

    Args:
      method: what `maml`, `cml`, ... return.
      optimizer: the outer optimiser, over all of `params` but "carried".
      key: a PRNG key.
      inputs: example inputs of one task, leaves `[n, ...]`; only shapes and dtypes matter.
    """
    params = method.init(key, inputs)
    return MetaState(params, optimizer.init(_trained(params)), jnp.zeros((), jnp.int32))


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

    With `radius`, that gradient leads to params + radius * gradient / |gradient|, and the gradient
    there (its weights too) is the one applied: sharpness-aware minimisation around the optimizer,
    Sharp-MAML_up. The metrics are those at the perturbed parameters, as in its released code.

    `params["carried"]`, where a method has it, is not trained: its next value is the mean over
    tasks (the maximum, for counts) of what `method.adapt` returns as "carried".

    Pure: `jax.jit(partial(meta_step, method, optimizer), donate_argnums=0)`. With `tasks` sharded
    along their first axis the weighted sum is the only communication.

    Args:
      method: static.
      optimizer: static; the outer one.
      state: the state before.
      tasks: a `Task` with leaves `[T, n, ...]`.
      weigh: displacements (leaves `[T, ...]`) to weights `[T]`, constants of the step.
      weigh_on: "displacements", or "gradients": `weigh` reads the tasks' meta-gradients of
        params["base"] instead, which is what the outer loop sums. Ours: the paper on gradient
        agreement weighs displacements.
      radius: rho of Sharp-MAML_up (5e-4 in its code), at the cost of a second gradient; None is
        off.
      chunk: how many tasks run at a time: None is all (GPU, TPU); the number of devices is one
        on each (CPU), and the least memory. It must divide T. The result is the same.
      metrics: more to report on the query set, name to `(outputs, targets) -> scalar`.

    Returns:
      The state after, and a flat dict of scalars: what `method.objective` reports and `metrics`,
      as means over tasks; "gradient_norm"; "weight_mean", "weight_min", "weight_max" and
      "weight_negative" (the mean, the smallest and the largest task weight, and the share of
      negative ones).

    Raises:
      TypeError, AssertionError: at trace time, naming the argument, when `tasks` is no batch of
        tasks.
      ValueError: when chunk does not divide T, there are no tasks or no examples, or weigh_on is
        neither.

    Reference: `radius`: Abbas et al. 2022, https://arxiv.org/abs/2206.03996, algorithm 1.
    """
    _check_tasks(tasks)
    if weigh_on not in ("displacements", "gradients"):
        raise ValueError(f"weigh_on={weigh_on!r} is unknown: use 'displacements' or 'gradients'")
    trained = _trained(state.params)

    def one_task(task, trained):
        def objective(trained):
            params = state.params | trained
            adapted = method.adapt(params, task.support)
            if metrics:
                prediction = method.predict(adapted, task.query.inputs)
                loss, report = method.objective(params, adapted, task.query, prediction)
                report |= {k: m(prediction[0], task.query.targets) for k, m in metrics.items()}
            else:
                loss, report = method.objective(params, adapted, task.query)
            carried = {k: adapted[k] for k in params if k not in trained}
            return loss, (_displacement(params["base"], adapted), carried, report)

        return jax.grad(objective, has_aux=True)(trained)

    def weighted_gradient(trained):
        results = _over_tasks(lambda task: one_task(task, trained), tasks, chunk)
        gradients, (displacements, carried, report) = results
        weights = weigh(displacements if weigh_on == "displacements" else gradients["base"])
        exact = jax.lax.Precision.HIGHEST  # never TF32 or bfloat16 for a few million products
        gradient = jax.tree.map(
            lambda g: jnp.tensordot(weights.astype(g.dtype), g, 1, precision=exact), gradients
        )
        report = jax.tree.map(lambda m: m.mean(0), report) | {
            "gradient_norm": optax.tree.norm(gradient),
            "weight_mean": weights.mean(),
            "weight_min": weights.min(),
            "weight_max": weights.max(),
            "weight_negative": jnp.mean(weights < 0, dtype=jnp.float32),
        }
        return gradient, jax.tree.map(_mean_or_count, carried), report

    result = weighted_gradient(trained)
    if radius is not None:
        result = weighted_gradient(perturb(trained, result[0], radius))
    gradient, carried, report = result
    updates, opt_state = optimizer.update(gradient, state.opt_state, trained)
    params = optax.apply_updates(trained, updates) | carried
    return MetaState(params, opt_state, state.step + 1), report


def evaluate(
    method: Method,
    params: Params,
    tasks: Task,
    metric: Metric,
    *,
    transductive: bool = True,
    chunk: int | None = None,
) -> jax.Array:
    """Adapts to every support set and scores every query set.

    Args:
      method: static; its inner loop may be longer than in training.
      params: `state.params`.
      tasks: a `Task` with leaves `[T, n, ...]`.
      metric: `(outputs, targets) -> scalar`, such as `accuracy`.
      transductive: True predicts a task's queries in one batch, so that batch statistics (where
        the model has them) see all queries, as MAML's published numbers do. False predicts each
        query together with the support set alone: nothing is learned from other queries.
      chunk: how many tasks run at a time, as in `meta_step`.

    Returns:
      `[T]`, the metric of each task.
    """
    _check_tasks(tasks)

    def one_task(task):
        adapted = method.adapt(params, task.support)

        def predict_one(query):
            inputs = jax.tree.map(
                lambda s, q: jnp.concatenate([s, q[None]]), task.support.inputs, query
            )
            return jax.tree.map(lambda o: o[-1], method.predict(adapted, inputs)[0])

        if transductive:
            outputs, _ = method.predict(adapted, task.query.inputs)
        else:
            outputs = jax.vmap(predict_one)(task.query.inputs)
        return metric(outputs, task.query.targets)

    return _over_tasks(one_task, tasks, chunk)


def _trained(params):
    """All parts but what a method carries along."""
    return {name: part for name, part in params.items() if name != "carried"}


def _mean_or_count(values):
    # Counts agree over tasks; a mean in float32 would round large ones.
    return values.mean(0) if jnp.issubdtype(values.dtype, jnp.inexact) else values.max(0)


def _displacement(base, adapted):
    """`base - adapted`; None (no leaf) where `adapt` returned the leaf of `base` itself."""
    adapted = {part: adapted[part] for part in base}  # without the keys a method adds beside them
    displacement = jax.tree.map(lambda b, a: None if a is b else b - a, base, adapted)
    # Where nothing adapts (no inner steps), one zero: `weigh` reads T from a leaf.
    return displacement if jax.tree.leaves(displacement) else jnp.zeros(())


def _over_tasks(function, tasks, chunk):
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
