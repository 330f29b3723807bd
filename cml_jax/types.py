"""The types that all of the library is written in: pytrees of arrays, tuples of pure functions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

PyTree = Any
Params = PyTree
Metrics = dict[str, jax.Array]
Prediction = tuple[PyTree, PyTree]  # (outputs, features)
Loss = Callable[[PyTree, PyTree], jax.Array]  # (outputs, targets) -> scalar, the mean over examples
Metric = Loss


class Batch(NamedTuple):
    """Labelled examples.

    Attributes:
      inputs: What a network reads, any pytree with leaves `[n, ...]`.
      targets: What it should answer, any pytree with leaves `[n, ...]`.
    """

    inputs: PyTree
    targets: PyTree


class Noisy(NamedTuple):
    """Inputs together with PRNG keys: a network that draws noise, such as dropout, draws it from
    these keys. On inputs without keys it draws none.

    Every inner step folds its number into the keys, so that each step has noise of its own. Keys of
    both styles do, those of `jax.random.key` and those of `jax.random.PRNGKey`.

    Attributes:
      inputs: What the network reads, leaves `[n, ...]`.
      keys: One PRNG key for each example, `[n]` (old-style keys: uint32 `[n, 2]`).
    """

    inputs: PyTree
    keys: jax.Array


class Task(NamedTuple):
    """One few-shot task. A batch of tasks is a `Task` whose leaves are `[T, n, ...]`.

    Attributes:
      support: The examples that the inner loop adapts to.
      query: The examples that the adapted network is scored on.
    """

    support: Batch
    query: Batch


class Model(NamedTuple):
    """A network as pure functions, cut in two where a co-learner reads it.

    A co-learner is a `Model` too: its inputs are features and its parameters may be any tree.

    Attributes:
      init: `(key, inputs) -> {"body": ..., "head": ...}`, the parameters to start from.
      apply: `(params, inputs) -> (outputs, features)`, where the features are what the body hands
        to the head.
      layers: `(params, inputs) -> {name: output}`, the output of every layer, from the input
        to the outputs. Only analyses call it. None where the network does not offer it.
    """

    init: Callable[[jax.Array, PyTree], Params]
    apply: Callable[[Params, PyTree], Prediction]
    layers: Callable[[Params, PyTree], dict[str, PyTree]] | None = None


class Adapted(NamedTuple):
    """What the inner loop of a `Method` returns.

    Attributes:
      params: The adapted network, a tree with the structure of `params["base"]`. Leaves that the
        method does not adapt are the very leaves of `params["base"]`.
      extra: Whatever else the method's own `predict` and `objective` read, by name. A method that
        carries something from step to step returns its next value as `extra["carried"]`.
    """

    params: Params
    extra: dict[str, PyTree] = {}  # of all instances: replaced (`extra | {...}`), never changed


class Method(NamedTuple):
    """A meta-learner as four pure functions of one task.

    It is not a pytree of arrays: close over it, do not pass it through `jax.jit`.

    Attributes:
      init: `(key, inputs) -> params`, a dict with the network's parameters under "base" and
        whatever else the method and its wrappers train beside it. What is kept from step to step
        without being trained is under "carried", see `meta_step`.
      adapt: `(params, support) -> Adapted`, the inner loop.
      predict: `(adapted, inputs) -> (outputs, features)`.
      objective: `(params, adapted, query, prediction=None) -> (loss, metrics)`, what the outer loop
        minimises, and a dict of scalars to report. Callers that have
        `predict(adapted, query.inputs)` already pass it as `prediction`. This saves a second
        forward *and* backward pass, which no compiler merges.
    """

    init: Callable[[jax.Array, PyTree], Params]
    adapt: Callable[[Params, Batch], Adapted]
    predict: Callable[[Adapted, PyTree], Prediction]
    objective: Callable[..., tuple[jax.Array, Metrics]]


class MetaState(NamedTuple):
    """Everything that training changes.

    Attributes:
      params: The method's parameters, `{"base": ..., ...}`.
      opt_state: The state of the outer optimiser.
      step: The number of steps taken, int32.
    """

    params: Params
    opt_state: optax.OptState
    step: jax.Array


class TaskGradients(NamedTuple):
    """What `task_gradients` returns: every leaf has the tasks as its first axis, `[T, ...]`.

    Attributes:
      losses: The objective of each task, `[T]`.
      gradients: The derivative of each task's objective by everything that is trained, a tree like
        `params` without "carried".
      displacements: `params["base"] - adapted.params` of each task, a tree like `params["base"]`
        with None in place of the leaves that do not adapt.
      carried: `{"carried": ...}` with the next value of each task, or `{}`.
      reports: A dict of `[T]`, what the objective reports and the metrics asked for.
    """

    losses: jax.Array
    gradients: PyTree
    displacements: PyTree
    carried: dict[str, PyTree]
    reports: Metrics


class MetaGradient(NamedTuple):
    """What `meta_gradient` returns.

    Attributes:
      loss: The mean of the tasks' objectives, a scalar.
      gradient: The weighted sum of the tasks' gradients, a tree like `params` without "carried".
      carried: `{"carried": ...}` with the value that the next step starts from, or `{}`.
      report: A dict of scalars, as `meta_step` returns it.
    """

    loss: jax.Array
    gradient: PyTree
    carried: dict[str, PyTree]
    report: Metrics
