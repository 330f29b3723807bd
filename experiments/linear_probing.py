"""Linear probing: what a network trained without episodes gives on few-shot classification.

    python -m experiments.linear_probing --config=configs/omniglot.py
    python -m experiments.linear_probing --config=configs/nodes.py --config.data.name=citeseer

Trains a network on all training classes, freezes it, and fits a logistic regression to the support
set of every test task. The tasks are those that `experiments.main` tests with the same config.

On images this is `experiments.main` with `--config.method=linear_probing` and without what a config
file sets for other methods (the co-learner, the inner optimiser): its flags, its folder and its
files are the same, and a run resumes. A step reads tasks_per_step * ways * data.queries images, as
many as the outer loss of a meta-step, drawn evenly over the training classes; with
data.rotations=True each quarter turn of a class is a class. `outer_*`, `weight_decay` and
`train_steps` are those of the training, and data.flip and the like apply to its images. The best
checkpoint is that with the best validation tasks.

Networks use the statistics of the batch. In training a batch is ways * data.queries images. At test
it is the support set for the regression, and for the queries all of them, or one query with the
support set: both are reported, as for all other methods.

On nodes a GCN is trained on the nodes of the training classes, see `linear_probing`.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags
from ml_collections import ConfigDict

from cml_jax import Task, accuracy, cross_entropy
from cml_jax.graphs.graph import Graph
from cml_jax.graphs.sparse import matmul
from cml_jax.methods import logistic_regression
from cml_jax.models import gcn
from cml_jax.tasks import task_keys
from cml_jax.types import Params
from experiments import build
from experiments import main as program
from experiments.build.nodes import OnGraph
from experiments.choices.key import ConfigError
from experiments.choices.networks import NETWORKS
from experiments.machine.backend import BackendError, start
from experiments.report.run_report import try_report
from experiments.run_folder import folder
from experiments.run_folder.metrics_file import MetricsFile
from experiments.run_folder.results import Results, interval, read_results, versions
from experiments.run_folder.task_values import write_task_values
from experiments.settings.checks import check
from experiments.settings.command_line import CONFIG, WORKDIR, fail, given, parse_flags
from experiments.settings.config import KEYS, flat, keys_read
from experiments.settings.record import record, record_data

EPOCHS, EVERY, PATIENCE = 1000, 10, 10  # on nodes
RATE, DECAY = 5e-3, 5e-4
# What is read on nodes beside the settings of the data; those of training episodes are not.
_READ = {"seed", "model.name", "model.hidden"}
_READ |= {f"eval.{name}" for name in ("num_tasks", "validation_tasks", "queries")}
_OF_TRAINING = {"data.queries", "data.train_shots"}


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
      curve: Every validation: its epoch and its mean accuracy.
    """

    step: int
    validation: float
    accuracies: np.ndarray
    curve: Sequence[tuple[int, float]]


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
    optimizer = optax.chain(optax.add_decayed_weights(DECAY), optax.adam(RATE))

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
    best, value, at, curve = state[0], -1.0, 0, []
    for epoch in range(EVERY, epochs + 1, EVERY):
        state = train(graph, own, targets, state)
        new = float(probed(state[0], "validation", validation_tasks).mean())
        curve.append((epoch, new))
        if new > value:
            best, value, at = state[0], new, epoch
        if epoch - at == EVERY * PATIENCE:
            break
    return Probed(at, value, probed(best, "test", test_tasks), curve)


def main(_: list[str]) -> None:
    """Runs what the flags ask for."""
    if NETWORKS[CONFIG.value.model.name].reads == "nodes":
        _on_nodes(CONFIG.value)
    else:
        _on_images(CONFIG.value)


def _on_images(config):
    """Trains, resumes and tests as `experiments.main` does."""
    if "method" in given() and config.method != "linear_probing":
        fail(f"method={config.method} is for experiments.main: leave it out", 2)
    config.method = "linear_probing"
    for name in ("co_learner", "inner_optimizer"):  # a config file may have them for its method
        if name not in given():
            config[name] = KEYS[name].default
    try:
        check(config, given())
    except ConfigError as error:
        fail(error, 2)
    program.start(config)


def _on_nodes(config):
    """Prints the accuracy; with --workdir stores it."""
    settings, started = flat(config), time.monotonic()
    try:
        workdir = folder.check_workdir(WORKDIR.value) if WORKDIR.value else None
        if workdir and (workdir / folder.RESULTS).exists():
            results = read_results(workdir)
            print(f"finished: {workdir / folder.RESULTS}\ntest: {results}")
            return
        _check(settings)
        start()
        problem = build.problem(settings)
        if workdir:
            record(_as_done(config), workdir)
            record_data(problem.split_hash, workdir, compare=False)
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
        method="linear_probing",
        data=problem.name,
        protocol={
            "ways": problem.ways,
            "shots": settings["data.shots"],
            "queries": settings["eval.queries"],
            "num_steps_train": 0,
            "train_steps": EPOCHS,
            "checkpoint": f"best of validation on {settings['eval.validation_tasks']} tasks every "
            f"{EVERY} steps: step {probed.step}",
        },
        split_hash=problem.split_hash,
        graph=problem.facts.get("graph"),
        images=problem.facts.get("images"),
        validation={"accuracy": probed.validation, "step": probed.step},
        test=test,
        test_all=[test],
        seed=settings["seed"],
        wall_seconds=time.monotonic() - started,
        warnings=[],
        versions=versions(),
    )
    try:
        if workdir:
            log = MetricsFile(workdir)
            for epoch, accuracy_then in probed.curve:
                log.write(epoch, {"validation/accuracy": accuracy_then})
            log.close()
            write_task_values(workdir, [np.asarray(probed.accuracies, np.float32)[None]])
            results.write(workdir)
            try_report(workdir, problem=problem)
    except OSError as error:
        fail(error, 1)
    print(f"test: {results}")


def _as_done(config):
    """The config of what is done on nodes, whatever the file has for other methods."""
    done = ConfigDict(config)
    done.method, done.outer_optimizer, done.outer_schedule = "linear_probing", "adam", "constant"
    done.outer_learning_rate, done.weight_decay = RATE, DECAY
    done.tasks_per_step, done.train_steps = 1, EPOCHS
    done.eval.every, done.eval.patience = EVERY, PATIENCE
    return done


def _check(settings):
    if settings["model.name"] != "gcn":
        raise ConfigError(
            f"model.name={settings['model.name']}: linear probing on nodes is of model.name=gcn"
        )
    if flags.FLAGS.evaluate or flags.FLAGS.accept_changes:
        raise ConfigError(
            "--evaluate and --accept_changes are not for linear probing on nodes: leave them out"
        )
    for name, only in (
        ("num_seeds", 1),
        ("sweep", "none"),
        ("co_learner", "none"),
        ("init_from", ""),
    ):
        if settings[name] not in (only, ""):
            raise ConfigError(
                f"{name}={settings[name]} is not for linear probing, which has one run and one "
                "head: leave it out"
            )
    data = {name for name in keys_read(settings) if name.startswith("data.")}
    for name in given():
        if name not in _READ | data - _OF_TRAINING:
            raise ConfigError(
                f"{name}={settings[name]}: linear probing on nodes, whose training is fixed, does "
                "not read it: leave it out"
            )


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
