"""Linear probing: what a network trained without episodes gives on few-shot node classification.

    python -m experiments.linear_probing --config=configs/nodes.py --config.data.name=citeseer

Trains a GCN on the nodes of the training classes, freezes it, and fits a logistic regression to
the support nodes of every test task: the same tasks as `experiments.main` tests with this config.
"""

import sys
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app

from cml_jax import Task, accuracy, cross_entropy
from cml_jax.graphs.graph import Graph
from cml_jax.graphs.sparse import matmul
from cml_jax.models import gcn
from cml_jax.tasks import task_keys
from cml_jax.types import Params
from experiments.build import graphs
from experiments.build import problem as build
from experiments.build.replicas import interval
from experiments.evaluate import describe
from experiments.run_folder.folder import write_json
from experiments.settings.command_line import CONFIG, WORKDIR, fail, parse_flags
from experiments.settings.config import GRAPHS, ConfigError

EPOCHS, EVERY, PATIENCE = 1000, 10, 10


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

        sum_i -log softmax(features_i W + b)[targets_i] + penalty / 2 |W|^2

    the objective of scikit-learn's default, C = 1: penalty = 1, and 2 for two classes, of which it
    has one vector w and 1/2 |w|^2: at the minimum W = (-w / 2, w / 2), so |w|^2 = 2 |W|^2. b is
    determined up to a constant, which 1e-6 / 2 |b|^2 fixes.

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
    penalty = 2 if ways == 2 else 1
    ridge = jnp.full(shape, penalty, features.dtype).at[-1].set(1e-6)

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


def linear_probing(config, epochs: int = EPOCHS) -> dict:
    """Trains on the training classes and probes the test classes.

    Every epoch is one step of Adam (0.005, weight decay 5e-4 added to the gradient) on the mean
    cross-entropy over all nodes of the training classes, without dropout. Every 10 epochs the
    validation tasks are probed; training ends after 10 probings without a better one, and the best
    parameters are tested. The rates, the probing and the stopping are those of TLP-FSNC's
    supervised baseline; its encoder is one layer on D^-1/2 A D^-1/2, here it is the GCN of the
    meta-learners, so that only the training differs.

    Args:
      config: `data`, `seed`, `model.hidden`, and the tasks of `eval`; nothing else is used.
      epochs: at most.

    Returns:
      What results.json holds, as of a run of `experiments.main`.

    Raises:
      ValueError: when the data cannot give such tasks.

    Reference: Tan et al. 2022, https://arxiv.org/abs/2212.05606;
    https://github.com/Zhen-Tan-dmml/TLP-FSNC.
    """
    started = time.monotonic()
    problem = build.problem(config)
    print(graphs.in_words(problem.graph), file=sys.stderr)
    graph, members = problem.data["train"].graph, problem.data["train"].members
    filled = np.arange(members.ids.shape[1]) < members.counts[:, None]
    own, targets = members.ids[filled], np.nonzero(filled)[0]
    key, [hidden] = jax.random.key(config.seed), config.model.hidden
    optimizer = optax.chain(optax.add_decayed_weights(5e-4), optax.adam(5e-3))

    @jax.jit
    def start(graph):
        params = gcn(graph, len(members.counts), hidden=hidden).init(key, jnp.zeros(1, jnp.int32))
        return params, optimizer.init(params)

    @jax.jit
    def train(graph, own, targets, state):
        def loss(params):
            head = params["head"]
            outputs = embed(graph, params["body"])[own] @ head["kernel"] + head["bias"][None]
            return cross_entropy(outputs, targets)

        def epoch(_, state):
            params, opt_state = state
            updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state, params)
            return optax.apply_updates(params, updates), opt_state

        return jax.lax.fori_loop(0, EVERY, epoch, state)

    @partial(jax.jit, static_argnames=("split", "count"))
    def score(params, data, split, count):
        drawn = jax.vmap(problem.test_sample, (0, None))(task_keys(key, split, 0, count), data)
        return probe(embed(data.graph, params["body"]), drawn, config.data.ways)

    def probed(params, split, count):
        return np.asarray(score(params, problem.data[split], split, count))

    state = start(graph)
    best, value, at = state[0], -1.0, 0
    for epoch in range(EVERY, epochs + 1, EVERY):
        state = train(graph, own, targets, state)
        new = float(probed(state[0], "validation", config.eval.validation_tasks).mean())
        if new > value:
            best, value, at = state[0], new, epoch
        if epoch - at == EVERY * PATIENCE:
            break
    values = probed(best, "test", config.eval.num_tasks)
    row = {"predicts": "logistic regression", "num_steps": 0, "transductive": True}
    row |= interval("accuracy", values)
    return {
        "method": "linear probing",
        "data": config.data.name,
        "split_hash": problem.split_hash,
        "validation": {"accuracy": value, "step": at},
        "test": row,
        "test_all": [row],
        "seed": config.seed,
        "graph": problem.graph,
        "wall_seconds": time.monotonic() - started,
    }


def main(_: list[str]) -> None:
    """Prints the accuracy; with --workdir stores it."""
    config = CONFIG.value
    path = Path(WORKDIR.value) / "results.json" if WORKDIR.value else None
    if path and path.exists():
        print(f"finished: {path}")
        return
    try:
        if config.data.name not in GRAPHS or config.model.name != "gcn":
            raise ConfigError("linear probing is of model.name=gcn: use --config=configs/nodes.py")
        for name, only in (("num_seeds", 1), ("sweep", "none"), ("co_learner", "none")):
            if config[name] not in (only, ""):
                raise ConfigError(
                    f"{name}={config[name]} is not for linear probing, which has one run and one "
                    "head: leave it out"
                )
        results = linear_probing(config)
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, results)
    except (ConfigError, ValueError, OSError) as error:
        fail(error, 2)
    print(f"test: {describe('accuracy', results['test'])}")


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
