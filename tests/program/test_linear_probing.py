"""Linear probing: the regression, what it reads, and a graph and images that are learned."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special
from support.battery import assert_same
from support.graphs import random_graph
from support.runs import rows

import cml_jax
import experiments
from cml_jax import Batch, Noisy, Task, methods
from cml_jax.data import Images, Split
from cml_jax.graphs.block_graph import block_graph
from cml_jax.methods import logistic_regression
from cml_jax.models import conv4, gcn, resnet12
from cml_jax.tasks import ImagePool, augment, minibatch
from cml_jax.tasks.members import consecutive_members
from configs.nodes import get_config
from experiments import build, linear_probing, make_report
from experiments.build import nodes
from experiments.choices.data_sets import DATA_SETS
from experiments.run_folder.results import read_results
from experiments.run_folder.task_values import read_task_values
from experiments.settings.checks import check
from experiments.settings.config import default_config, flat

ROOT = Path(__file__).parents[2]


def test_the_embedding_of_all_nodes_is_that_of_the_gcn():
    graph = jax.tree.map(jnp.asarray, random_graph()[0])
    model, ids = gcn(graph, 2, hidden=3), jnp.arange(40)
    params = model.init(jax.random.key(0), ids)
    expected = model.apply(params, ids)[1]
    np.testing.assert_allclose(
        linear_probing.embed(graph, params["body"]), expected, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("penalty", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("ways, features", [(2, 4), (3, 4), (3, 40), (5, 7)])
def test_the_regression_is_the_minimum_that_scipy_finds(x64, ways, features, penalty):
    """With more features than examples, and with fewer."""
    rng = np.random.default_rng(ways)
    inputs, targets = rng.random((ways * 2, features)), np.arange(ways * 2) % ways
    squared = penalty * (2 if ways == 2 else 1)

    def loss(flat):
        weights, bias = np.split(flat, [features * ways])
        weights = weights.reshape(features, ways)
        logits = inputs @ weights + bias
        shares = scipy.special.softmax(logits, 1)
        off = shares - np.eye(ways)[targets]
        value = -scipy.special.log_softmax(logits, 1)[np.arange(len(targets)), targets].sum()
        value += squared / 2 * np.square(weights).sum() + 1e-6 / 2 * np.square(bias).sum()
        gradient = (inputs.T @ off + squared * weights).ravel(), off.sum(0) + 1e-6 * bias
        return value, np.concatenate(gradient)

    start = np.zeros((features + 1) * ways)
    found = scipy.optimize.minimize(
        loss, start, jac=True, method="BFGS", options={"gtol": 1e-9, "maxiter": 10_000}
    )
    weights, bias = jax.jit(logistic_regression, static_argnums=2)(inputs, targets, ways, penalty)
    reached = np.concatenate([np.ravel(weights), bias])
    assert np.abs(loss(reached)[1]).max() < 1e-10
    np.testing.assert_allclose(loss(reached)[0], found.fun, rtol=1e-10)
    np.testing.assert_allclose(reached, found.x, atol=1e-5)
    assert np.abs(weights).max() > 1e-3


@pytest.mark.parametrize("penalty", [1e-3, 1.0, 1e3])
def test_float32_is_enough_for_features_of_length_one(penalty):
    rng = np.random.default_rng(0)
    inputs, targets = rng.random((25, 64)), np.arange(25) % 5
    inputs /= np.linalg.norm(inputs, axis=1, keepdims=True)

    def outputs(dtype):
        weights, bias = logistic_regression(inputs.astype(dtype), targets, 5, penalty)
        logits = inputs @ np.asarray(weights, float) + np.asarray(bias, float)
        return logits - logits.mean(1, keepdims=True)

    short = outputs(np.float32)
    with jax.enable_x64(True):
        exact = outputs(np.float64)
    np.testing.assert_allclose(short, exact, atol=1e-4 * np.abs(exact).max() + 1e-6)


def test_of_two_classes_it_is_the_binary_regression(x64):
    """The minimum of sum log(1 + exp(-y (x'w + b))) + 1/2 |w|^2, y = +-1, by gradient descent."""
    rng = np.random.default_rng(0)
    inputs, targets = rng.random((10, 3)), np.arange(10) % 2
    w, b = np.zeros(3), 0.0
    for _ in range(5000):
        off = 1 / (1 + np.exp(-(inputs @ w + b))) - targets
        w, b = w - 0.1 * (inputs.T @ off + w), b - 0.1 * off.sum()
    weights, bias = logistic_regression(inputs, targets, 2)
    np.testing.assert_allclose(weights[:, 1] - weights[:, 0], w, atol=1e-5)
    np.testing.assert_allclose(bias[1] - bias[0], b, atol=1e-5)
    assert np.abs(w).max() > 0.3


@pytest.mark.parametrize(
    "network", [partial(conv4, filters=4), partial(resnet12, widths=(2, 2, 3, 4))]
)
def test_the_embedding_is_what_the_head_reads(network):
    model, images = network(7), jax.random.uniform(jax.random.key(0), (3, 32, 32, 3))
    params = model.init(jax.random.key(1), images)
    [(_, dense)] = params["head"].items()
    [(_, dense)] = dense.items()
    outputs, _ = model.apply(params, images)
    embedding, _ = network(0).apply({"body": params["body"], "head": {}}, images)
    np.testing.assert_allclose(
        embedding @ dense["kernel"] + dense["bias"][None], outputs, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("headless", [True, False])
def test_the_method_regresses_on_the_features_of_the_support_set(headless):
    network = partial(conv4, filters=16, pool=False)
    model, embedding = network(9), network(0) if headless else None
    images = jax.random.uniform(jax.random.key(0), (1, 12, 16, 16, 1))
    targets = jnp.arange(6)[None] % 3
    tasks = Task(Batch(images[:, :6], targets), Batch(images[:, 6:], targets))
    method = methods.linear_probing(model, ways=3, penalty=0.1, embedding=embedding)
    params = method.init(jax.random.key(1), images[0])

    def features(inputs):
        flat = np.asarray(model.apply(params["base"], inputs)[1]).reshape(len(inputs), -1)
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    support, queries = images[0, :6], images[0, 6:]
    weights, bias = map(np.asarray, logistic_regression(features(support), targets[0], 3, 0.1))
    together = features(queries)
    alone = [features(jnp.concatenate([support, q[None]]))[-1] for q in queries]
    for transductive, read in ((True, together), (False, np.stack(alone))):
        found = cml_jax.evaluate(
            method, params, tasks, lambda outputs, _: outputs, transductive=transductive
        )
        np.testing.assert_allclose(found[0], read @ weights + bias, rtol=1e-3, atol=1e-4)


def test_a_minibatch_has_the_number_of_each_images_class():
    """Of classes of 2, 5 and 3 images, whose first pixel tells the class and the image."""
    counts = [2, 5, 3]
    pixels = np.zeros((10, 4, 4, 1), np.uint8)
    pixels[:, 0, 0, 0] = [10 * (c + 1) + i for c, count in enumerate(counts) for i in range(count)]
    pool = ImagePool(pixels, consecutive_members(counts))
    draw = jax.jit(partial(minibatch, size=3000, rotations=True))
    images, targets = map(np.asarray, draw(jax.random.key(0), pool))
    corners = np.round(255 * images[..., 0]).astype(int)
    # A quarter turn counterclockwise takes the first corner down, right, and up again.
    turned = [corners[:, 0, 0], corners[:, 3, 0], corners[:, 3, 3], corners[:, 0, 3]]
    told = np.stack(turned)[targets // 3, np.arange(3000)]
    np.testing.assert_array_equal(told // 10 - 1, targets % 3)
    assert len(set(told)) == 10
    shares = np.bincount(targets, minlength=12) / 3000  # 12 classes, however large
    np.testing.assert_allclose(shares, 1 / 12, atol=5 * np.sqrt(1 / 12 / 3000))
    whole, _ = minibatch(jax.random.key(0), pool, size=5)
    assert (whole[:, 0, 0] > 0).all()


@pytest.fixture
def patterns(monkeypatch):
    """Eight classes of six images, each a pattern of its own under noise."""
    rng = np.random.default_rng(0)
    counts, names = [6] * 8, Split(tuple("abcd"), ("e", "f"), ("g", "h"))
    clean = rng.integers(0, 256, (8, 4, 4, 1)).repeat(4, 1).repeat(4, 2).repeat(6, 0)
    noise = rng.integers(0, 256, clean.shape)
    pixels = ((3 * clean + noise) // 4).astype(np.uint8)
    made = Images(pixels, consecutive_members(counts), names, "made", "hash")
    monkeypatch.setattr(cml_jax.data, "load_made", lambda data_dir: made, raising=False)
    row = DATA_SETS["omniglot"]._replace(load="cml_jax.data:load_made")
    monkeypatch.setitem(DATA_SETS, "omniglot", row)


def images_config(**changes):
    config = default_config()
    config.data.name, config.data.ways, config.data.shots = "omniglot", 2, 2
    config.data.queries = config.eval.queries = 3
    config.model.filters, config.model.pool = 8, False
    config.method, config.outer_learning_rate = "linear_probing", 0.01
    config.tasks_per_step, config.train_steps, config.eval.every = 4, 40, 20
    config.eval.validation_tasks, config.eval.num_tasks = 10, 40
    config.plan.compilation_cache = False
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    check(config)
    return config


def test_images_are_learned_and_stored_as_by_other_methods(patterns, tmp_path):
    results = experiments.run(images_config(), tmp_path)
    assert results is not None
    assert {(test["predicts"], test["num_steps"]) for test in results.test_all} == {
        ("logistic regression", 0)
    }
    assert [test["transductive"] for test in results.test_all] == [True, False]
    assert results.test["accuracy"] > 0.8 and not results.warnings
    assert results.protocol["num_steps_train"] == 0
    values = read_task_values(tmp_path, results)
    assert [array.shape for array in values] == [(1, 40)] * 2
    losses = [row["train/loss"] for row in rows(tmp_path)]
    assert losses[0] > 1.5 * losses[-1]  # log 16 = 2.8: four turns of four classes
    assert losses[0] > 1.5


def test_the_test_tasks_are_those_of_other_methods(patterns):
    probing, maml = images_config(), images_config(method="maml")
    tasks = [
        build.problem(flat(config)).draw_test(jax.random.key(7), pool)
        for config in (probing, maml)
        for pool in [build.problem(flat(config)).data["test"]]
    ]
    assert_same(*tasks)


def test_training_images_are_changed_and_normalized_as_in_tasks(patterns):
    plain = build.problem(flat(images_config()))
    changed = build.problem(flat(images_config(**{"data.normalize": True, "data.flip": True})))
    key, pool = jax.random.key(0), plain.data["train"]
    images = [p.train_sample(key, pool).query.inputs for p in (plain, changed)]
    mean, deviation = augment.channel_statistics(pool.pixels)
    expected = np.asarray(augment.normalize(images[0], mean, deviation))
    same = np.isclose(images[1], expected, atol=1e-5).all((1, 2, 3))
    mirrored = np.isclose(images[1], expected[:, :, ::-1], atol=1e-5).all((1, 2, 3))
    assert (same | mirrored).all() and same.any() and mirrored.any()


def test_dropout_is_on_in_training_alone(patterns):
    changes = {"model.name": "resnet12", "model.drop_rate": 0.5}
    problem = build.problem(flat(images_config(**changes)))
    task = problem.train_sample(jax.random.key(0), problem.data["train"])
    assert isinstance(task.query.inputs, Noisy) and not isinstance(task.support.inputs, Noisy)
    tested = problem.draw_test(jax.random.key(0), problem.data["test"])
    assert not any(isinstance(batch.inputs, Noisy) for batch in tested)


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
        (["--config=configs/glyphs.py"], "method=linear_probing trains on all classes of a set"),
        (
            ["--config=configs/nodes.py", "--config.model.name=sgc"],
            "model.name=sgc: linear probing",
        ),
        (["--config=configs/omniglot.py", "--config.co_learner=linear"], "co_learner=linear with"),
        (["--config=configs/omniglot.py", "--config.inner_learning_rate=1"], "--config.inner_lear"),
        (["--config=configs/nodes.py", "--config.num_seeds=2"], "num_seeds=2 is not for linear"),
        (["--config=configs/nodes.py", "--config.co_learner=mlp"], "co_learner=mlp is not for"),
        (["--config=configs/nodes.py", "--config.train_steps=9"], "train_steps=9: linear probing"),
        (["--config=configs/nodes.py", "--config.data.queries=9"], "data.queries=9: linear"),
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
    assert results.method == "linear_probing" and results.test["num_tasks"] == 10
    assert done.stdout == f"test: {results}\n" and "logistic regression" in done.stdout
    page = (tmp_path / "a[1]" / "report.html").read_text()
    for words in (
        "linear_probing on block_graph 2-way 1-shot",
        "weight_decay",
        "jaxlib",
    ):
        assert words in page
    assert make_report.problem_at_hand(tmp_path / "a[1]") is not None
    assert "Failed or left out" not in page
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0 and again.stdout.startswith("finished: ")
    assert again.stdout.splitlines()[1:] == [f"test: {results}"]
