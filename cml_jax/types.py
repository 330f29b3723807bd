"""The few types everything else is written in: pytrees of arrays, and tuples of pure functions."""

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
    """Examples: `inputs` and `targets` are any pytrees with leaves `[n, ...]`."""

    inputs: PyTree
    targets: PyTree


class Noisy(NamedTuple):
    """Inputs of a model that draws noise, such as dropout: it does so where it has keys.

    Attributes:
      inputs: leaves `[n, ...]`.
      keys: PRNG keys `[n]`; each inner step folds its number in, see `cml_jax.inner.loss_on`.
    """

    inputs: PyTree
    keys: jax.Array


class Task(NamedTuple):
    """What is learned from (`support`) and what is asked (`query`); a batch of tasks has leaves
    `[T, n, ...]`."""

    support: Batch
    query: Batch


class Model(NamedTuple):
    """A network as two pure functions, cut where the co-learner reads it.

    Attributes:
      init: `(key, inputs) -> {"body": ..., "head": ...}`.
      apply: `(params, inputs) -> (outputs, features)`; `features`: what the body hands to the head.

    A co-learner is a `Model` too: its inputs are features, its params any tree.
    """

    init: Callable[[jax.Array, PyTree], Params]
    apply: Callable[[Params, PyTree], Prediction]


class Method(NamedTuple):
    """A meta-learner as four pure functions of one task. Static: bind it, never trace it.

    Attributes:
      init: `(key, inputs) -> params`, `{"base": {"body", "head"}}`; methods and wrappers
        add keys beside it. "carried" is for what is kept from step to step and not trained: see
        `meta_step`.
      adapt: `(params, support) -> adapted`, the inner loop; `adapted` has the structure of
        `params["base"]`, and the very leaves of it that the method does not adapt. A method may add
        keys beside "body" and "head" that its own `predict` and `objective` read.
      predict: `(adapted, inputs) -> (outputs, features)`.
      objective: `(params, adapted, query, prediction=None) -> (loss, metrics)`, what the outer loop
        minimises. `prediction` is `predict(adapted, query.inputs)` where the caller has it already:
        it saves the second forward *and* backward pass, which no compiler merges.
    """

    init: Callable[[jax.Array, PyTree], Params]
    adapt: Callable[[Params, Batch], Params]
    predict: Callable[[Params, PyTree], Prediction]
    objective: Callable[..., tuple[jax.Array, Metrics]]


class MetaState(NamedTuple):
    """What training changes: `params` (`{"base", ...}`), outer `opt_state`, `step` (int32)."""

    params: Params
    opt_state: optax.OptState
    step: jax.Array
