"""Rows: all choices, checks and building come from them, and nothing that is given is ignored."""

import importlib
import inspect
import re
import shlex
from pathlib import Path

import jax
import numpy as np
import pytest
from support.battery import assert_same

from cml_jax import Noisy
from cml_jax.data import Images, Split, omniglot
from cml_jax.tasks.members import consecutive_members
from experiments.build import tasks
from experiments.build.problem import problem
from experiments.build.resolve import call, resolve
from experiments.choices.data_sets import DATA_SETS
from experiments.choices.methods import INNER_OPTIMIZERS, METHODS
from experiments.choices.networks import CO_LEARNERS, NETWORKS
from experiments.choices.outer import LOSSES, METRICS, OUTER_OPTIMIZERS, SCHEDULES, WEIGHTINGS
from experiments.settings.checks import check
from experiments.settings.config import (
    KEYS,
    TABLES,
    ConfigError,
    default_config,
    flat,
    keys_read,
)

ROOT = Path(__file__).parents[2]
FUNCTIONS = [
    *(row.load for row in DATA_SETS.values()),
    *(row.curve for row in DATA_SETS.values() if row.curve),
    *(row.model.path for row in NETWORKS.values()),
    *(co_learner.path for row in NETWORKS.values() for co_learner in row.co_learners.values()),
    *(row.embedding.path for row in NETWORKS.values() if row.embedding),
    *(row.method for row in NETWORKS.values() if row.method),
    *(row.function for row in METHODS.values()),
    *(row.meta_step for row in METHODS.values() if row.meta_step),
    *(row.function for rows in (LOSSES, METRICS, WEIGHTINGS) for row in rows.values()),
    *(row.function for rows in (INNER_OPTIMIZERS, OUTER_OPTIMIZERS) for row in rows.values()),
    *SCHEDULES.values(),
]


@pytest.mark.parametrize("path", sorted(set(FUNCTIONS)))
def test_every_row_names_a_function(path):
    assert callable(resolve(path))


def test_a_function_gets_what_it_has_parameters_for():
    offered = {"model": 1, "graph": 2}
    assert call(lambda model, *, rate=0.5: (model, rate), offered, rate=0.1, remat=True) == (1, 0.1)
    assert call(lambda graph, **inner: (graph, inner), offered, remat=True) == (2, {"remat": True})
    with pytest.raises(TypeError, match="loss"):
        call(lambda loss: loss, offered)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_takes_every_setting_of_its_row(name):
    row = NETWORKS[name]
    read = set(inspect.signature(resolve(row.model.path)).parameters)
    elsewhere = {"subgraph_nodes", "subgraph_neighbours"} if row.needs == "subgraphs" else set()
    assert row.keys.keys() <= read | elsewhere
    assert row.co_learners.keys() <= CO_LEARNERS.keys()


def of(**values):
    config = default_config()
    with config.ignore_type():
        config.update_from_flattened_dict({k.replace("__", "."): v for k, v in values.items()})
    return config


GLYPHS, SINUSOID = of(), of(data__name="sinusoid", model__name="mlp")


@pytest.mark.parametrize(
    "config, name, who, instead",
    [
        (GLYPHS, "radius", "method=sharp_maml", "method=maml reads inner_learning_rate"),
        (GLYPHS, "sharp", "method=sharp_maml", "method=maml reads"),
        (GLYPHS, "multi_step_until", "method=maml_plus_plus", "method=maml reads"),
        (GLYPHS, "weigh_on", "weighting=gradient_agreement", "weighting=uniform reads nothing"),
        (GLYPHS, "co_learner_scale", "co_learner=linear or conv or mlp", "co_learner=none reads"),
        (GLYPHS, "co_learner_rate", "co_learner=linear or conv or mlp", "co_learner=none reads"),
        (GLYPHS, "co_learner_depth", "co_learner=conv", "co_learner=none reads nothing"),
        (of(co_learner="linear"), "co_learner_depth", "co_learner=conv", "linear reads co_learner"),
        (SINUSOID, "data.ways", "data.name=glyphs or omniglot or", "sinusoid reads data.amplitude"),
        (SINUSOID, "model.filters", "model.name=conv4", "model.name=mlp reads model.hidden"),
        (SINUSOID, "model.pool", "model.name=conv4", "model.name=mlp reads model.hidden"),
        (GLYPHS, "model.activation", "model.name=mlp", "model.name=conv4 reads model.filters"),
        (GLYPHS, "model.hidden", "model.name=mlp or gcn", "model.name=conv4 reads model.filters"),
        (GLYPHS, "model.dropout", "model.name=gcn", "model.name=conv4 reads model.filters"),
        (GLYPHS, "data.amplitude", "data.name=sinusoid", "data.name=glyphs reads data.ways:"),
        (GLYPHS, "data.rotations", "data.name=omniglot", "data.name=glyphs reads data.ways:"),
        (GLYPHS, "data.dir", "data.name=omniglot", "data.name=glyphs reads data.ways:"),
        (of(method="fomaml"), "first_order", "method=maml", "method=fomaml reads"),
        (of(method="anil"), "body_rate", "method=maml", "method=anil reads"),
        (of(method="proto_net"), "num_steps", "method=maml or", "method=proto_net reads nothing"),
        (of(method="proto_net"), "eval.num_steps", "method=maml or", "method=proto_net reads"),
        (of(inner_optimizer="adam"), "body_rate", "inner_optimizer=sgd", "adam reads nothing"),
        (GLYPHS, "sweep_values", "sweep=inner_learning_rate or", "sweep=none reads nothing"),
        (
            of(method="collaborative", co_learner="linear"),
            "co_learner_scale",
            "method=maml or",
            "method=collaborative reads inner_learning_rate",
        ),
    ],
)
def test_a_setting_that_nothing_reads_is_refused_where_it_is_given(config, name, who, instead):
    check(config)  # a config file may carry it
    with pytest.raises(ConfigError) as error:
        check(config, [name])
    line = str(error.value)
    assert line.startswith(f"--config.{name} is a setting of {who}") and instead in line
    assert "\n" not in line and "leave it out" in line


def chosen(table, row):
    """A config with the row, and what else must be chosen for it."""
    config = of(**{table.replace(".", "__"): row})
    values = flat(config)
    if values["data.name"] == "graph":
        config.data.file, config.data.classes = "x.npz", (4, 3, 3)
    gives = DATA_SETS[values["data.name"]].gives
    if table == "data.name":
        config.model.name = next(name for name, net in NETWORKS.items() if net.reads == gives)
    reads = NETWORKS[values["model.name"]].reads
    if table == "model.name":
        config.data.name = next(name for name, data in DATA_SETS.items() if data.gives == reads)
    if reads == "nodes" or gives == "nodes":
        config.model.hidden, config.data.queries = (16,), 5
    if table == "model.name" and NETWORKS[row].methods:
        config.method = NETWORKS[row].methods[0]
    if row == "mlp" and table == "co_learner":
        config.data.name, config.model.name = "sinusoid", "mlp"
    if table == "method" and METHODS[row].needs_co_learner:
        config.co_learner = "linear"
    if table == "method" and METHODS[row].all_classes:
        config.data.name = "omniglot"
    if table == "sweep" and row.startswith("co_learner"):
        config.co_learner = "linear"
    if table == "sweep" and row == "radius":
        config.method = "sharp_maml"
    return config


PAIRS = [(table, row) for table, rows in TABLES.items() for row in rows if row]


@pytest.mark.parametrize("table, row", PAIRS)
def test_every_pair_of_a_row_and_a_setting_is_read_or_refused(table, row):
    config = chosen(table, row)
    check(config)
    read = keys_read(flat(config))
    assert TABLES[table][row].keys() <= KEYS.keys()
    refused = 0
    for name in KEYS:
        if name in read:
            check(config, [name])
            continue
        refused += 1
        with pytest.raises(ConfigError, match=f"^--config.{re.escape(name)} is a setting of "):
            check(config, [name])
    assert refused > 5


def commands():
    """The commands of the pages of results, each once."""
    pages = [ROOT / "docs/results.md", *sorted((ROOT / "docs/results").glob("*.md"))]
    lines = (line for page in pages for line in page.read_text().splitlines())
    found = (match[1] for line in lines for match in re.finditer(r"`(python -m [^`]*)`", line))
    return sorted({line for line in found if "--config=" in line})


def test_the_commands_of_all_results_are_still_accepted():
    assert len(commands()) > 70
    for command in commands():
        _, _, module, *arguments = shlex.split(command)
        assert importlib.util.find_spec(module), command
        path, given = None, {}
        for argument in arguments:
            name, _, value = argument.partition("=")
            if name == "--config":
                path, _, text = value.partition(":")
            elif name.startswith("--config."):
                given[name.removeprefix("--config.")] = value
        study = importlib.import_module(path.removesuffix(".py").replace("/", "."))
        config = study.get_config(text) if text else study.get_config()
        for name, value in given.items():
            default = KEYS[name].default
            config.update_from_flattened_dict({name: parsed(value, default)})
        check(config, given)


def parsed(text, default):
    if isinstance(default, tuple):
        return tuple(type(default[0])(part) for part in text.strip("()").split(",") if part)
    if isinstance(default, bool):
        return text == "True"
    return type(default)(text)


def test_the_battery_has_every_method():
    from support import battery

    names = {row.function.rpartition(":")[2] for row in METHODS.values()}
    assert names <= battery.METHODS.keys() | battery.ON_CLASSES.keys()


@pytest.fixture
def made(monkeypatch):
    """A row of made images."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 4, 4, 3), np.uint8)
    counts = Split(("a", "b"), ("c", "d"), ("e", "f"))
    images = Images(pixels, consecutive_members([5] * 6), counts, "made", "hash")
    monkeypatch.setattr(omniglot, "load_made", lambda data_dir: images, raising=False)
    row = DATA_SETS["cifar_fs"]
    return images, row._replace(load="cml_jax.data.omniglot:load_made")


def drawn(row, split="train", **changes):
    """The images of a task's queries."""
    settings = flat(of(data__name="cifar_fs", data__ways=2, data__queries=2, **changes))
    source = tasks.images(row, settings | {"eval.queries": 2})
    sample = source.train_sample if split == "train" else source.test_sample
    return np.asarray(sample(jax.random.key(0), source.data[split]).query.inputs)


@pytest.mark.parametrize("split", ["train", "test"])
def test_images_are_normalised_by_the_training_images(made, split):
    images, row = made
    training = images.pixels[:10] / 255
    scale = training.mean((0, 1, 2)), training.std((0, 1, 2))
    expected = (drawn(row, split) - scale[0]) / scale[1]
    np.testing.assert_allclose(drawn(row, split, data__normalize=True), expected, atol=1e-5)


@pytest.mark.parametrize("change", [{"flip": True}, {"shift": 1}, {"recolor": 0.5}])
def test_images_are_changed_in_training_alone(made, change):
    _, row = made
    changes = {f"data__{name}": value for name, value in change.items()}
    assert (drawn(row) != drawn(row, **changes)).any()
    np.testing.assert_array_equal(drawn(row, "test"), drawn(row, "test", **changes))


def test_a_network_that_drops_has_keys_in_training_and_the_same_images():
    changes = dict(model__name="resnet12", model__widths=(2, 2, 2, 2), data__ways=2)
    off, on = (problem(flat(of(**changes, model__drop_rate=rate))) for rate in (0.0, 0.1))
    key = jax.random.key(0)
    plain, noisy = (p.train_sample(key, None) for p in (off, on))
    assert not isinstance(plain.support.inputs, Noisy)
    assert isinstance(noisy.support.inputs, Noisy) and noisy.support.inputs.keys.shape == (2,)
    assert_same((plain.support.targets, plain.query), (noisy.support.targets, noisy.query))
    assert_same(plain.support.inputs, noisy.support.inputs.inputs)
    assert not isinstance(on.draw_test(key, None).support.inputs, Noisy)
