"""Linear probing: what a network trained without episodes gives on few-shot node classification.

    python -m experiments.linear_probing --config=configs/nodes.py --config.data.name=citeseer

Trains a GCN on the nodes of the training classes, freezes it, and fits a logistic regression to
the support nodes of every test task. The tasks are those that `experiments.main` tests with the
same config.
"""

import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

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
from experiments import build
from experiments.build.nodes import OnGraph
from experiments.choices.key import ConfigError
from experiments.machine.backend import BackendError, start
from experiments.report.run_report import try_report
from experiments.run_folder import folder
from experiments.run_folder.results import Results, interval, read_results
from experiments.run_folder.task_values import write_task_values
from experiments.settings.command_line import CONFIG, WORKDIR, fail, parse_flags
from experiments.settings.config import flat

EPOCHS, EVERY, PATIENCE = 1000, 10, 10


def embed(graph: Graph, body: Params) -> jax.Array:
    """The features of all nodes under the body of `gcn`, each hidden unit computed once.

        A relu(A X W1 + b1) W2 + b2

    Args:
      graph: The graph, with A X in `graph.smoothed`.
      body: The parameters "body" of `models.gcn`.

    Returns:
      `[nodes, hidden]`.
    """
    hidden = jax.nn.relu(jnp.asarray(graph.smoothed) @ body["kernel_1"] + body["bias_1"][None])
    second = body["second"]
    return matmul(graph.adjacency, hidden) @ second["kernel"] + second["bias"][None]


def logistic_regression(
    features: jax.Array, targets: jax.Array, ways: int
) -> tuple[jax.Array, jax.Array]:
    """Fits a logistic regression by 20 Newton steps from zero, which reach float32's precision.

        minimise  sum_i -log softmax(features_i W + b)[targets_i] + penalty / 2 |W|^2

    This is the objective of scikit-learn's default, C = 1: penalty = 1, and 2 for two classes, for
    which scikit-learn has one vector w and 1/2 |w|^2: at the minimum W = (-w / 2, w / 2), so that
    |w|^2 = 2 |W|^2. b is determined up to a constant, which 1e-6 / 2 |b|^2 fixes.

    Args:
      features: `[n, F]`, numbers of the order of one: the steps are never shortened.
      targets: int32 `[n]`, the classes.
      ways: Number of classes.

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

    flat = jax.lax.fori_loop(0, 20, newton, jnp.zeros(shape[0] * ways, features.dtype))
    return flat.reshape(shape)[:-1], flat.reshape(shape)[-1]


def probe(embedding: jax.Array, tasks: Task, ways: int) -> jax.Array:
    """The accuracy `[T]` of a logistic regression fitted to every task's support nodes.

    The embedding is first scaled to [0, 1] over all nodes, unit by unit, as in TLP-FSNC's code: the
    penalty on the weights means nothing without a scale.

    Args:
      embedding: The features of all nodes, `[nodes, hidden]`.
      tasks: A batch of tasks whose inputs are node ids `[T, n]`.
      ways: Number of classes in a task.
    """
    low = embedding.min(0, keepdims=True)
    embedding = (embedding - low) / jnp.maximum(embedding.max(0, keepdims=True) - low, 1e-12)

    def one(task):
        weights, bias = logistic_regression(
            embedding[task.support.inputs], task.support.targets, ways
        )
        return accuracy(embedding[task.query.inputs] @ weights + bias[None], task.query.targets)

    return jax.vmap(one)(tasks)


class Probed(NamedTuple):
    """What linear probing reached.

    Attributes:
      step: The epoch with the best validation, whose network was tested.
      validation: The mean accuracy of its validation.
      accuracies: The accuracy of every test task, `[test_tasks]`.
    """

    step: int
    validation: float
    accuracies: np.ndarray


def linear_probing(
    data: Mapping[str, OnGraph],
    sample: Callable[[jax.Array, OnGraph], Task],
    *,
    ways: int,
    hidden: int,
    seed: int,
    validation_tasks: int,
    test_tasks: int,
    epochs: int = EPOCHS,
) -> Probed:
    """Trains on the training classes and probes the test classes.

    Every epoch is one step of Adam (0.005, weight decay 5e-4 added to the gradient) on the mean
    cross-entropy over all nodes of the training classes, without dropout. Every 10 epochs the
    validation tasks are probed; training ends after 10 probings without a better one, and the best
    parameters are tested. The rates, the probing and the stopping are those of TLP-FSNC's
    supervised baseline; its encoder is one layer on D^-1/2 A D^-1/2, here it is the GCN of the
    meta-learners, so that only the training differs.

    Args:
      data: The graph and the classes of the splits "train", "validation" and "test".
      sample: `(key, data[split]) -> Task`, the tasks of validation and test.
      ways: Number of classes in a task.
      hidden: Number of hidden units.
      seed: Seed of the initial parameters and of the tasks.
      validation_tasks: Number of tasks in a validation.
      test_tasks: Number of test tasks.
      epochs: Number of epochs at most.

    Reference: Tan et al. 2022, https://arxiv.org/abs/2212.05606;
    https://github.com/Zhen-Tan-dmml/TLP-FSNC.
    """
    graph, members = data["train"].graph, data["train"].members
    filled = np.arange(members.ids.shape[1]) < members.counts[:, None]
    own, targets = members.ids[filled], np.nonzero(filled)[0]
    key = jax.random.key(seed)
    optimizer = optax.chain(optax.add_decayed_weights(5e-4), optax.adam(5e-3))

    @jax.jit
    def init(graph):
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
        drawn = jax.vmap(sample, (0, None))(task_keys(key, split, 0, count), data)
        return probe(embed(data.graph, params["body"]), drawn, ways)

    def probed(params, split, count):
        return np.asarray(score(params, data[split], split, count))

    state = init(graph)
    best, value, at = state[0], -1.0, 0
    for epoch in range(EVERY, epochs + 1, EVERY):
        state = train(graph, own, targets, state)
        new = float(probed(state[0], "validation", validation_tasks).mean())
        if new > value:
            best, value, at = state[0], new, epoch
        if epoch - at == EVERY * PATIENCE:
            break
    return Probed(at, value, probed(best, "test", test_tasks))


def main(_: list[str]) -> None:
    """Prints the accuracy; with --workdir stores it."""
    settings, started = flat(CONFIG.value), time.monotonic()
    try:
        workdir = folder.check_workdir(WORKDIR.value) if WORKDIR.value else None
        if workdir and (workdir / folder.RESULTS).exists():
            results = read_results(workdir)
            print(f"finished: {workdir / folder.RESULTS}\ntest: {results}")
            return
        _check(settings)
        start()
        problem = build.problem(settings)
    except (BackendError, ConfigError, OSError, ValueError) as error:
        fail(error, 2)
    print(problem.description, file=sys.stderr)
    probed = linear_probing(
        problem.data,
        problem.draw_test,
        ways=problem.ways,
        hidden=settings["model.hidden"][0],
        seed=settings["seed"],
        validation_tasks=settings["eval.validation_tasks"],
        test_tasks=settings["eval.num_tasks"],
    )
    test = {"predicts": "logistic regression", "num_steps": 0, "transductive": True}
    test |= interval("accuracy", probed.accuracies)
    results = Results(
        method="linear probing",
        data=problem.name,
        split_hash=problem.split_hash,
        graph=problem.facts.get("graph"),
        images=problem.facts.get("images"),
        validation={"accuracy": probed.validation, "step": probed.step},
        test=test,
        test_all=[test],
        seed=settings["seed"],
        wall_seconds=time.monotonic() - started,
    )
    try:
        if workdir:
            write_task_values(workdir, [np.asarray(probed.accuracies, np.float32)[None]])
            results.write(workdir)
            try_report(workdir, problem=problem)
    except OSError as error:
        fail(error, 1)
    print(f"test: {results}")


def _check(settings):
    if settings["model.name"] != "gcn":
        raise ConfigError("linear probing is of model.name=gcn: use --config=configs/nodes.py")
    for name, only in (("num_seeds", 1), ("sweep", "none"), ("co_learner", "none")):
        if settings[name] not in (only, ""):
            raise ConfigError(
                f"{name}={settings[name]} is not for linear probing, which has one run and one "
                "head: leave it out"
            )


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
