"""Evaluation: what it scores, which queries a prediction reads, and what fits into one batch."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from support.battery import MODEL, build, sinusoids

import cml_jax
from cml_jax import Batch, Task, cross_entropy, evaluate, squared_error
from cml_jax.models import ConvBlock, from_linen
from cml_jax.models.conv import ConvHead


def params_of(name):
    return build(name).init(jax.random.key(0), jnp.zeros((5, 1)))


def test_sharded_evaluation_is_the_evaluation(mesh):
    method, params, tasks = build("maml"), params_of("maml"), sinusoids()
    values = jax.jit(partial(evaluate, method, metric=squared_error))(params, tasks)
    sharded = jax.device_put(tasks, NamedSharding(mesh, PartitionSpec("task")))
    for chunk in (None, 1, 2, 4):
        run = jax.jit(partial(evaluate, method, metric=squared_error, chunk=chunk))
        np.testing.assert_allclose(run(params, tasks), values, rtol=1e-5)
    np.testing.assert_allclose(run(params, sharded), values, rtol=1e-5)


def test_evaluation_scores_the_adapted_parameters():
    method, params, tasks = build("maml+cml"), params_of("maml+cml"), sinusoids()
    values = jax.jit(partial(evaluate, method, metric=squared_error))(params, tasks)
    assert values.shape == (8,)
    adapt = jax.jit(method.adapt)
    for t in range(8):
        task = jax.tree.map(lambda x, t=t: x[t], tasks)
        outputs, _ = MODEL.apply(adapt(params, task.support).params, task.query.inputs)
        np.testing.assert_allclose(values[t], squared_error(outputs, task.query.targets), 1e-5)


def test_without_batch_norm_transduction_does_not_matter():
    method, params, tasks = build("maml"), params_of("maml"), sinusoids()
    inductive, transductive = (
        jax.jit(partial(evaluate, method, metric=squared_error, transductive=t))(params, tasks)
        for t in (False, True)
    )
    np.testing.assert_allclose(inductive, transductive, rtol=1e-5)


def a_network_with_batch_norm():
    """A method, its parameters, and two tasks of four queries."""
    net = from_linen(ConvBlock(2, pool=True), ConvHead(ways=2, filters=2, depth=0, pool=True))
    method = cml_jax.maml(net, cross_entropy, learning_rate=0.1, num_steps=1)
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(2, 4, 8, 8, 1)), jnp.float32)
    targets = jnp.array([[0, 1, 0, 1]] * 2)
    tasks = Task(Batch(images, targets), Batch(images[:, ::-1], targets))
    return method, method.init(jax.random.key(0), images[0]), tasks


@pytest.mark.parametrize("transductive", [True, False])
def test_only_transductive_predictions_read_other_queries(transductive):
    method, params, task = a_network_with_batch_norm()
    others = task.query.inputs.at[:, 1:].multiply(3.0).at[:, 2].add(1.0)
    changed = task._replace(query=task.query._replace(inputs=others))

    @jax.jit
    def logit_of_the_first_query(tasks):
        return evaluate(
            method, params, tasks, lambda outputs, _: outputs[0, 0], transductive=transductive
        )

    gap = np.abs(logit_of_the_first_query(task) - logit_of_the_first_query(changed))[0]
    assert gap > 1e-3 if transductive else gap < 1e-6


@pytest.mark.parametrize("query_chunk", [1, 3, 4, 8])
def test_how_many_queries_are_predicted_at_a_time_changes_nothing(query_chunk):
    method, params, tasks = a_network_with_batch_norm()

    @partial(jax.jit, static_argnames="query_chunk")
    def logits(tasks, query_chunk):
        return evaluate(
            method, params, tasks, lambda o, _: o, transductive=False, query_chunk=query_chunk
        )

    expected = logits(tasks, None)
    assert expected.shape == (2, 4, 2) and np.ptp(expected) > 0.1
    np.testing.assert_allclose(logits(tasks, query_chunk), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("query_chunk", [0, -1])
def test_no_queries_at_a_time_is_named(query_chunk):
    with pytest.raises(ValueError, match=f"query_chunk={query_chunk}: give at least 1, or None"):
        evaluate(
            build("maml"),
            {},
            sinusoids(),
            squared_error,
            transductive=False,
            query_chunk=query_chunk,
        )


@pytest.mark.parametrize(
    "support, query",
    [
        ((8, 5, 28, 28, 1), (8, 5, 32, 32, 1)),
        ((8, 5, 3), (8, 6, 4)),
        ((8, 5, 3), (8, 5, 3, 1)),
    ],
)
def test_queries_of_another_shape_need_a_batch_of_their_own(support, query):
    targets = jnp.zeros((8, query[1], 1))
    tasks = Task(Batch(jnp.ones(support), jnp.zeros((8, 5, 1))), Batch(jnp.ones(query), targets))
    message = "transductive=False .* a query are .* give both the same, or use transductive=True"
    with pytest.raises(ValueError, match=message) as error:
        evaluate(build("maml"), {}, tasks, squared_error, transductive=False)
    assert "\n" not in str(error.value) and str(query[2:]) in str(error.value)


@pytest.mark.parametrize("change", [lambda x: {"x": x}, lambda x: (x, x)])
def test_queries_of_another_structure_need_a_batch_of_their_own(change):
    tasks = sinusoids()
    tasks = tasks._replace(query=tasks.query._replace(inputs=change(tasks.query.inputs)))
    with pytest.raises(ValueError, match="transductive=False predicts each query in one batch"):
        evaluate(build("maml"), {}, tasks, squared_error, transductive=False)
