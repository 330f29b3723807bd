"""Linear probing: the network, the regression and a graph that it learns."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.graphs import random_graph

from cml_jax.graphs.block_graph import block_graph
from cml_jax.models import gcn
from configs.nodes import get_config
from experiments import build, linear_probing
from experiments.build import nodes
from experiments.run_folder.results import read_results
from experiments.settings.config import flat

ROOT = Path(__file__).parents[2]


def test_the_embedding_of_all_nodes_is_that_of_the_gcn():
    graph = jax.tree.map(jnp.asarray, random_graph()[0])
    model, ids = gcn(graph, 2, hidden=3), jnp.arange(40)
    params = model.init(jax.random.key(0), ids)
    expected = model.apply(params, ids)[1]
    np.testing.assert_allclose(
        linear_probing.embed(graph, params["body"]), expected, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("ways", [2, 3])
def test_the_regression_is_at_its_minimum(x64, ways):
    rng = np.random.default_rng(ways)
    inputs, targets = rng.random((ways * 2, 4)), np.arange(ways * 2) % ways
    weights, bias = jax.jit(linear_probing.logistic_regression, static_argnums=2)(
        inputs, targets, ways
    )
    logits = inputs @ np.asarray(weights) + np.asarray(bias)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    off = shares - np.eye(ways)[targets]
    penalty = 2 if ways == 2 else 1
    np.testing.assert_allclose(inputs.T @ off + penalty * weights, 0, atol=1e-10)
    np.testing.assert_allclose(off.sum(0) + 1e-6 * bias, 0, atol=1e-10)
    assert np.abs(weights).max() > 0.05


def test_of_two_classes_it_is_the_binary_regression(x64):
    """The minimum of sum log(1 + exp(-y (x'w + b))) + 1/2 |w|^2, y = +-1, by gradient descent."""
    rng = np.random.default_rng(0)
    inputs, targets = rng.random((10, 3)), np.arange(10) % 2
    w, b = np.zeros(3), 0.0
    for _ in range(5000):
        off = 1 / (1 + np.exp(-(inputs @ w + b))) - targets
        w, b = w - 0.1 * (inputs.T @ off + w), b - 0.1 * off.sum()
    weights, bias = linear_probing.logistic_regression(inputs, targets, 2)
    np.testing.assert_allclose(weights[:, 1] - weights[:, 0], w, atol=1e-5)
    np.testing.assert_allclose(bias[1] - bias[0], b, atol=1e-5)
    assert np.abs(w).max() > 0.3


def test_learns_a_block_graph(monkeypatch):
    made = block_graph(
        0,
        nodes=300,
        classes=12,
        within=0.8,
        words=60,
        topical_words=30,
        words_per_class=6,
        on_topic=0.4,
    )
    monkeypatch.setattr(nodes, "block_graph", lambda seed: made)
    config = get_config("2way-5shot")
    config.data.classes = (6, 3, 3)
    problem = build.problem(flat(config))
    settings = {"ways": 2, "hidden": 16, "seed": 0, "validation_tasks": 20, "test_tasks": 100}

    def reached(epochs):
        return linear_probing.linear_probing(
            problem.data, problem.draw_test, **settings, epochs=epochs
        )

    start, end = reached(0), reached(60)
    assert end.accuracies.mean() > max(0.9, start.accuracies.mean() + 0.01)
    assert end.accuracies.shape == (100,) and 0 < end.step <= 60 and start.step == 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--config=configs/glyphs.py"], "linear probing is of model.name"),
        (["--config=configs/nodes.py", "--config.num_seeds=2"], "num_seeds=2 is not for linear"),
        (["--config=configs/nodes.py", "--config.co_learner=mlp"], "co_learner=mlp is not for"),
    ],
)
def test_what_is_not_probed(arguments, message):
    command = [sys.executable, "-m", "experiments.linear_probing", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1


def test_the_command_stores_what_it_prints(tmp_path):
    command = [sys.executable, "-m", "experiments.linear_probing", "--config=configs/nodes.py"]
    command += ["--config.eval.num_tasks=10", f"--workdir={tmp_path}/a[1]"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = read_results(tmp_path / "a[1]")
    assert results.method == "linear probing" and results.test["num_tasks"] == 10
    assert done.stdout == f"test: {results}\n" and "logistic regression" in done.stdout
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0 and again.stdout.startswith("finished: ")
    assert again.stdout.splitlines()[1:] == [f"test: {results}"]
