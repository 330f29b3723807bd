"""Linear probing: what a network trained without episodes gives on few-shot node classification.

    python -m experiments.probing --data citeseer --shots 1 5 --seeds 5

Train a GCN on the nodes of the training classes, freeze it, and fit a logistic regression to the
support nodes of every test task. `--data` is a graph that `cml_jax.data.graphs.load_graph` finds,
or block_graph (no files).
"""

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cml_jax import Task, accuracy, cross_entropy
from cml_jax.data.graphs import CLASS_COUNTS, load_graph, split_classes
from cml_jax.models import gcn
from cml_jax.ops.graph import Graph
from cml_jax.ops.sparse import matmul
from cml_jax.tasks import nodes, task_keys
from cml_jax.tasks.block_graph import block_graph
from cml_jax.tasks.nodes import members
from cml_jax.types import Params
from experiments.metrics import write_json
from experiments.runs import interval

QUERIES = 10


def embed(graph: Graph, body: Params) -> jax.Array:
    """The features of all nodes `[n, hidden]` under the body of `gcn`, each hidden unit made once.

    A relu(A X W1 + b1) W2 + b2
    """
    hidden = jax.nn.relu(jnp.asarray(graph.smoothed) @ body["kernel_1"] + body["bias_1"][None])
    second = body["second"]
    return matmul(graph.adjacency, hidden) @ second["kernel"] + second["bias"][None]


def logistic_regression(
    features: jax.Array, targets: jax.Array, ways: int, num_steps: int = 20
) -> tuple[jax.Array, jax.Array]:
    """Newton's steps from zero on

        sum_i -log softmax(features_i W + b)[targets_i] + 1/2 |W|^2,

    the objective of scikit-learn's default (C = 1) in its multinomial form. b is determined up to a
    constant, which 1e-6 / 2 |b|^2 fixes.

    Args:
      features: `[n, F]`, of the order of one: the step is never cut back.
      targets: int32 `[n]`.
      ways: classes.
      num_steps: of Newton; 20 reach float32's precision.

    Returns:
      W `[F, ways]` and b `[ways]`.
    """
    shape = (features.shape[1] + 1, ways)
    ones = jnp.ones((len(features), 1), features.dtype)
    inputs = jnp.concatenate([features, ones], 1)
    ridge = jnp.ones(shape, features.dtype).at[-1].set(1e-6)

    def loss(flat):
        weights = flat.reshape(shape)
        misfit = len(targets) * cross_entropy(inputs @ weights, targets)
        return misfit + jnp.sum(ridge * weights**2) / 2

    def newton(_, flat):
        return flat - jnp.linalg.solve(jax.hessian(loss)(flat), jax.grad(loss)(flat))

    flat = jax.lax.fori_loop(0, num_steps, newton, jnp.zeros(shape[0] * ways, features.dtype))
    return flat.reshape(shape)[:-1], flat.reshape(shape)[-1]


def probe(embedding: jax.Array, tasks: Task, ways: int) -> jax.Array:
    """The accuracy `[T]` of a logistic regression fitted to every task's support nodes.

    The embedding is first scaled to [0, 1] over all nodes, unit by unit, as in the code: the
    penalty on the weights means nothing without a scale.

    Args:
      embedding: of all nodes `[n, hidden]`.
      tasks: inputs are node ids `[T, n]`.
      ways: classes in a task.
    """
    low = embedding.min(0, keepdims=True)
    embedding = (embedding - low) / jnp.maximum(embedding.max(0, keepdims=True) - low, 1e-12)

    def one(task):
        weights, bias = logistic_regression(
            embedding[task.support.inputs], task.support.targets, ways
        )
        return accuracy(embedding[task.query.inputs] @ weights + bias[None], task.query.targets)

    return jax.vmap(one)(tasks)


def linear_probing(
    graph: Graph,
    counts: Sequence[int],
    seed: int,
    *,
    ways: int,
    shots: int,
    split_seed: int = 0,
    epochs: int = 1000,
    every: int = 10,
    patience: int = 10,
    tasks: int = 100,
) -> np.ndarray:
    """Trains on the training classes and probes the test classes.

    Every epoch is one step of Adam (0.005, weight decay 5e-4 added to the gradient) on the mean
    cross-entropy over all nodes of the training classes, without dropout. Every `every` epochs
    the validation classes are probed; training ends after `patience` probings without a better one,
    and the best parameters are tested. The rates, the probing and the stopping are those of
    TLP-FSNC's supervised baseline; its encoder is one layer on D^-1/2 A D^-1/2, here it is the
    GCN of the meta-learners, so that only the training differs.

    Args:
      graph: as loaded.
      counts: classes for training, validation, test.
      seed: of the start and the tasks.
      ways, shots: of the tasks, which have 10 queries a class.
      split_seed: of the class split.
      epochs: at most.
      every, patience: of the validation.
      tasks: in a validation, and in the test.

    Returns:
      The accuracy `[tasks]` on the test tasks.

    Reference: Tan et al. 2022, https://arxiv.org/abs/2212.05606;
    https://github.com/Zhen-Tan-dmml/TLP-FSNC.
    """
    labels = np.asarray(graph.labels)
    split = split_classes(labels, counts, split_seed, at_least=shots + QUERIES)
    own = np.flatnonzero(np.isin(labels, split.train))
    targets = jnp.asarray(np.searchsorted(split.train, labels[own]).astype(np.int32))
    sample = partial(nodes, ways=ways, shots=shots, queries=QUERIES)
    graph = jax.tree.map(jnp.asarray, graph)
    key = jax.random.key(seed)
    optimizer = optax.chain(optax.add_decayed_weights(5e-4), optax.adam(5e-3))

    @jax.jit
    def start(graph):
        params = gcn(graph, len(split.train)).init(key, jnp.zeros(1, jnp.int32))
        return params, optimizer.init(params)

    @jax.jit
    def train(graph, state):
        def loss(params):
            head = params["head"]["Dense_0"]
            outputs = embed(graph, params["body"])[own] @ head["kernel"] + head["bias"][None]
            return cross_entropy(outputs, targets)

        def epoch(_, state):
            params, opt_state = state
            updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state, params)
            return optax.apply_updates(params, updates), opt_state

        return jax.lax.fori_loop(0, every, epoch, state)

    @partial(jax.jit, static_argnames="name")
    def score(graph, params, split, name, first):
        keys = task_keys(key, name, first, tasks)
        drawn = jax.vmap(sample, (0, None))(keys, split)
        return probe(embed(graph, params["body"]), drawn, ways)

    classes = {
        name: members(labels, np.array(part), shots + QUERIES)
        for name, part in split._asdict().items()
    }
    state = start(graph)
    best, worse = (-1.0, state[0]), 0
    for _ in range(epochs // every):
        state = train(graph, state)
        value = float(score(graph, state[0], classes["validation"], "validation", 0).mean())
        best, worse = ((value, state[0]), 0) if value > best[0] else (best, worse + 1)
        if worse == patience:
            break
    return np.asarray(score(graph, best[1], classes["test"], "test", 0))


def main() -> None:
    """Prints a row a setting; --out stores them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="block_graph")
    parser.add_argument("--data-dir")
    parser.add_argument("--classes", type=int, nargs=3, help="for training, validation and test")
    parser.add_argument("--ways", type=int, default=2)
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--split-seed", type=int, default=0, help="which classes are where")
    parser.add_argument("--epochs", type=int, default=1000, help="at most")
    parser.add_argument("--out", type=Path, help="a JSON file")
    arguments = parser.parse_args()
    if arguments.data == "block_graph":
        graph = block_graph(arguments.split_seed)
    else:
        graph = load_graph(arguments.data, arguments.data_dir)
    counts = arguments.classes or CLASS_COUNTS.get(arguments.data)
    if counts is None:
        parser.error(f"--data {arguments.data} has no usual class split: give --classes")
    rows = []
    for shots in arguments.shots:
        values = [
            linear_probing(
                graph,
                counts,
                seed,
                ways=arguments.ways,
                shots=shots,
                split_seed=arguments.split_seed,
                epochs=arguments.epochs,
            )
            for seed in range(arguments.seeds)
        ]
        setting = {"data": arguments.data, "ways": arguments.ways, "shots": shots}
        rows.append(setting | interval("accuracy", values))
        print(json.dumps(rows[-1]), flush=True)
    if arguments.out:
        write_json(arguments.out, rows)


if __name__ == "__main__":
    main()
