"""Times networks on graphs: products with sparse matrices and a meta-step, each in several ways.

    taskset -c 2,3 python -m benchmarks.nodes [--data FOLDER]

Without the files of Amazon-Computer and CiteSeer only the procedural graph is timed.
"""

import argparse
import operator
import resource
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental.sparse import BCOO

import cml_jax
from cml_jax import models, tasks
from cml_jax.data import DataError, load_graph
from cml_jax.graphs.block_graph import block_graph
from cml_jax.graphs.sparse import matmul
from cml_jax.models.layers import uniform_fan_in
from cml_jax.tasks.members import members
from cml_jax.types import Model, Noisy

_WIDTH = 16
_TASKS = 4  # whose weights differ


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=None, help="folder of the graphs' files")
    folder = parser.parse_args().data
    head = (
        f"{'graph':16} {'network':20} {'shots':>5} {'ms':>9} {'adapt ms':>9} {'MB':>8} {'loss':>8}"
    )
    print(f"\nA meta-step: 2 ways, 20 inner steps in first order, one task\n{head}")
    started = time.perf_counter()
    made = block_graph(0, nodes=100_000, degree=20.5, words=128, topical_words=60)
    seconds = time.perf_counter() - started
    edges = (len(made.adjacency.values) - len(made.labels)) // 2
    graph = jax.tree.map(jnp.asarray, made)
    print(f"{f'{edges} edges':16} {'what is read':20} {5:5}" + step(graph, "what is read", 5))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"made in {seconds:.1f} s; peak of this process so far: {peak:.0f} MB")

    graphs = {}
    for name in ("citeseer", "amazon_computer"):
        try:
            graphs[name] = jax.tree.map(jnp.asarray, load_graph(name, folder))
        except DataError as error:
            print(error)

    for name, graph in graphs.items():
        for way in ("what is read", "whole, sparse", "whole, dense"):
            for shots in (1, 5):
                print(f"{name:16} {way:20} {shots:5}" + step(graph, way, shots))

    if graphs:
        print(f"\nProducts with [m, {_WIDTH}], ms: forward, gradient, gradient for {_TASKS} tasks")
    for name, graph in graphs.items():
        for product, matrix in (("A H", graph.adjacency), ("X W", graph.features)):
            for way, times in products(matrix).items():
                print(f"{name:16} {product}  {way:12}" + "".join(f"{t:10.2f}" for t in times))


def products(matrix) -> dict[str, list[float]]:
    """Milliseconds of a product, its gradient, and its gradient for several tasks, for each way."""
    dense = jnp.zeros(matrix.shape).at[matrix.rows, matrix.columns].set(matrix.values)
    places = jnp.stack([matrix.rows, matrix.columns], 1)
    bcoo = BCOO((matrix.values, places), shape=matrix.shape, indices_sorted=True)
    ways = {
        "segment_sum": (matmul, matrix),
        "BCOO": (operator.matmul, bcoo),
        "dense": (operator.matmul, dense),
    }
    right = jax.random.normal(jax.random.key(0), (_TASKS, matrix.shape[1], _WIDTH))
    times = {}
    for way, (product, left) in ways.items():

        def gradient(left, right, product=product):
            return jax.grad(lambda right: jnp.sum(jnp.sin(product(left, right))))(right)

        functions = (product, gradient, jax.vmap(gradient, (None, 0)))
        arguments = (right[0], right[0], right)
        times[way] = [
            median_ms(jax.jit(function), left, argument)
            for function, argument in zip(functions, arguments, strict=True)
        ]
    return times


def step(graph, way, shots) -> str:
    """A row of the table: time of a meta-step and of a test, memory, and the first loss."""
    labels = np.asarray(graph.labels)
    split = members(labels, np.unique(labels[labels >= 0])[:4], shots + 10)
    left = graph.adjacency
    if way == "whole, dense":
        left = jnp.zeros(left.shape).at[left.rows, left.columns].set(left.values)

    def method(graph, left):
        if way == "what is read":
            model = models.gcn(graph, 2)
        else:
            model = whole(
                graph.smoothed, partial(operator.matmul if way == "whole, dense" else matmul, left)
            )
        return cml_jax.fomaml(model, cml_jax.cross_entropy, learning_rate=0.1, num_steps=20)

    def sample(key, queries, noise):
        draw = partial(tasks.nodes, ways=2, shots=shots, queries=queries, noise=noise)
        return jax.vmap(draw, (0, None))(key[None], split)

    optimizer = optax.adam(5e-3)

    def train(graph, left, state, key):
        drawn = sample(key, 5, True)
        return cml_jax.meta_step(method(graph, left), optimizer, state, drawn)

    def test(graph, left, params, key):
        drawn = sample(key, 10, False)
        return cml_jax.evaluate(method(graph, left), params, drawn, cml_jax.accuracy)

    @jax.jit
    def init(graph, left):
        example = jnp.zeros(2 * shots, jnp.int32)
        return cml_jax.init(method(graph, left), optimizer, jax.random.key(0), example)

    state = init(graph, left)
    keys = jax.random.split(jax.random.key(1), 5)
    compiled = jax.jit(train).lower(graph, left, state, keys[0]).compile()
    loss = compiled(graph, left, state, keys[0])[1]["loss"]
    times = [median_ms(compiled, graph, left, state, key, runs=1) for key in keys]
    test = jax.jit(test)
    adapt = [median_ms(test, graph, left, state.params, key, runs=1) for key in keys]
    sizes = compiled.memory_analysis()
    megabytes = (sizes.argument_size_in_bytes + sizes.temp_size_in_bytes) / 2**20
    return f" {np.median(times):9.1f} {np.median(adapt):9.1f} {megabytes:8.0f} {loss:8.4f}"


def whole(smoothed, product) -> Model:
    """The GCN as a pass over the whole graph, dropout by node as in `models.gcn`."""

    def init(key, inputs):
        keys = jax.random.split(key, 3)
        uniform = uniform_fan_in(_WIDTH)
        body = {
            "kernel_1": uniform(keys[0], (smoothed.shape[1], _WIDTH)),
            "bias_1": jnp.zeros(_WIDTH),
            "kernel_2": uniform(keys[1], (_WIDTH, _WIDTH)),
            "bias_2": jnp.zeros(_WIDTH),
        }
        return {"body": body, "head": uniform(keys[2], (_WIDTH, 2))}

    def apply(params, inputs):
        body = params["body"]
        hidden = jax.nn.relu(smoothed @ body["kernel_1"] + body["bias_1"])
        if isinstance(inputs, Noisy):
            hidden *= 2 * jax.random.bernoulli(inputs.keys[0], 0.5, hidden.shape)
            inputs = inputs.inputs
        features = (product(hidden @ body["kernel_2"]) + body["bias_2"])[inputs]
        return features @ params["head"], features

    return Model(init, apply)


def median_ms(function, *arguments, runs=9) -> float:
    """The median of some calls after one that compiles and warms up."""
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(1e3 * (time.perf_counter() - started))
    return float(np.median(times))


if __name__ == "__main__":
    main()
