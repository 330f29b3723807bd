"""What a batch of tasks has to be, and what a method has to return: each mistake is one line."""

from functools import partial

import jax
import jax.numpy as jnp
import optax
import pytest
from support.battery import build, sinusoids

import cml_jax
from cml_jax import Adapted, Task, evaluate, meta_step, squared_error, task_gradients

OUTER = optax.sgd(0.05)


def begin(name):
    return cml_jax.init(build(name), OUTER, jax.random.key(0), jnp.zeros((5, 1)))


def broken(adapt):
    return build("reptile_released")._replace(adapt=adapt)


@pytest.mark.parametrize(
    "adapt, error, message",
    [
        (lambda params, _: params["base"], TypeError, "returned a dict: return cml_jax.Adapted"),
        (
            lambda params, _: Adapted(params["base"] | {"tail": 0.0}, {"carried": 0}),
            ValueError,
            "structure .*tail.* but params.* put what else there is into Adapted.extra",
        ),
        (
            lambda params, _: Adapted(params["base"], {"moments": 0}),
            ValueError,
            r"params have 'carried' but Adapted.extra has \['moments'\]",
        ),
    ],
    ids=["a dict", "another structure", "nothing carried"],
)
def test_what_a_method_returns_is_checked(adapt, error, message):
    method, params = broken(adapt), begin("reptile_released").params
    with pytest.raises(error, match=message) as found:
        task_gradients(method, params, sinusoids())
    assert "\n" not in str(found.value)
    with pytest.raises(error, match=message):
        evaluate(method, params, sinusoids(), squared_error)


def wrong(**parts):
    """The tasks with some leaves replaced: `wrong(query_targets=...)`."""
    tasks = sinusoids()
    for name, change in parts.items():
        part, leaf = name.split("_")
        batch = getattr(tasks, part)
        batch = batch._replace(**{leaf: change(getattr(batch, leaf))})
        tasks = tasks._replace(**{part: batch})
    return tasks


@pytest.mark.parametrize(
    "tasks, error, message",
    [
        (tuple(sinusoids()), TypeError, r"tasks is a tuple but must be a cml_jax.Task"),
        (None, TypeError, r"tasks is a NoneType"),
        (Task(sinusoids().support, tuple(sinusoids().query)), TypeError, r"tasks.query is a tuple"),
        (Task(None, sinusoids().query), TypeError, r"tasks.support is a NoneType"),
        (wrong(query_targets=lambda x: x[:4]), AssertionError, r"tasks.query.targets .* T,"),
        (wrong(query_inputs=lambda x: x[:4]), AssertionError, r"tasks.query.inputs .* T,"),
        (wrong(support_targets=lambda x: x[:, :4]), AssertionError, r"tasks.support.targets .* n,"),
        (wrong(query_targets=lambda x: x[:, :4]), AssertionError, r"tasks.query.targets .* n,"),
        (wrong(support_inputs=lambda x: x[:, 0, 0]), AssertionError, r"tasks.support.inputs needs"),
        (
            jax.tree.map(lambda x: x[:0], sinusoids()),
            ValueError,
            r"tasks.support.inputs is empty, \(0, 5, 1\)",
        ),
    ],
    ids=[
        "no task",
        "nothing",
        "no batch",
        "no support",
        "T of targets",
        "T of inputs",
        "n of the support",
        "n of the query",
        "rank",
        "no tasks",
    ],
)
def test_wrong_tasks_are_named(tasks, error, message):
    state = begin("maml")
    with pytest.raises(error, match=message):
        jax.jit(partial(meta_step, build("maml"), OUTER))(state, tasks)
    with pytest.raises(error, match=message):
        evaluate(build("maml"), state.params, tasks, squared_error)


@pytest.mark.parametrize("chunk", [3, 0, -2, 16])
def test_a_chunk_that_does_not_divide_is_named(chunk):
    with pytest.raises(ValueError, match=f"chunk={chunk} does not divide the 8 tasks"):
        meta_step(build("maml"), OUTER, begin("maml"), sinusoids(), chunk=chunk)
    with pytest.raises(ValueError, match=f"chunk={chunk} does not divide the 8 tasks"):
        evaluate(build("maml"), begin("maml").params, sinusoids(), squared_error, chunk=chunk)
