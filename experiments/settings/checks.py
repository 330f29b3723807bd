"""The checks of a config that need neither data nor jax."""

import importlib.util
import re
from collections.abc import Collection
from typing import Any

from ml_collections import ConfigDict

from experiments.choices.data_sets import DATA_SETS
from experiments.choices.key import ConfigError, describe_key, valid
from experiments.choices.methods import METHODS
from experiments.choices.networks import NETWORKS
from experiments.choices.outer import LOSSES, METRICS, WEIGHTINGS
from experiments.settings.config import KEYS, OWN_PROBLEM, flat, keys_read, unknown_key, unread_key

_SET_SIZE = 10  # of cml_jax.methods.amm_gnn.attribute_sets, which needs jax
# Settings that a config file, too, may change only where a chosen row reads them.
_NOT_IDLE = ("inner_optimizer", "eval.best_of", "sweep_values")


def check(config: ConfigDict, given: Collection[str] = (), own_problem: bool = False) -> None:
    """Checks types, ranges, finiteness and the rules between settings that need no data.

    Args:
      config: What a config file's `get_config` returned, with the command line's changes.
      given: The settings that the command line names. A chosen row must read each of them, while
        a config file may carry values for choices that are off.
      own_problem: Whether model, tasks, loss and metric come from the caller.

    Raises:
      ConfigError: One line with the setting, its value and the fix.
    """
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"get_config() returned {type(config).__name__}: return a ConfigDict")
    values = flat(config)
    for name in values.keys() - KEYS.keys():
        raise ConfigError(unknown_key(name))
    for name in KEYS:
        if name not in values:
            raise ConfigError(f"the config has no {name}: start it from default_config()")
        if not valid(values[name], KEYS[name]._replace(length=0)):
            raise ConfigError(f"{name}={values[name]!r}: needs {describe_key(KEYS[name])}")
    if own_problem:  # it may bring a co-learner
        values["co_learner"] = "linear"
    read = keys_read(values, OWN_PROBLEM if own_problem else ())
    for name, key in read.items():
        if not valid(values[name], key):
            raise ConfigError(f"{name}={values[name]!r}: needs {describe_key(key)}")
    for name in given:
        if name not in read:
            raise ConfigError(unread_key(name, values))
    if not own_problem:
        _check_choices(values)
        _check_data(values)
    _check_rules(values, read)


def _check_choices(values: dict[str, Any]) -> None:
    """Checks that the chosen rows fit one another."""
    data, network = DATA_SETS[values["data.name"]], NETWORKS[values["model.name"]]
    if network.reads != data.gives:
        fitting = [name for name, row in NETWORKS.items() if row.reads == data.gives]
        raise ConfigError(
            f"model.name={values['model.name']} reads {network.reads}, but data.name="
            f"{values['data.name']} gives {data.gives}: use --config.model.name={fitting[0]}"
        )
    for name, rows in (("loss", LOSSES), ("metric", METRICS)):
        if values[name] != "auto" and rows[values[name]].targets != data.targets:
            raise ConfigError(
                f"{name}={values[name]} is for {rows[values[name]].targets}, but data.name="
                f"{values['data.name']} has {data.targets}: use --config.{name}=auto"
            )
    co_learner, method = values["co_learner"], METHODS[values["method"]]
    if method.targets not in ("", data.targets):
        raise ConfigError(
            f"method={values['method']} is for {method.targets}, but data.name="
            f"{values['data.name']} has {data.targets}: use --config.method=maml"
        )
    if method.all_classes and data.tasks != "images":
        raise ConfigError(
            f"method={values['method']} trains on all classes of a set of images, but data.name="
            f"{values['data.name']} is none: use --config.method=maml"
        )
    if method.all_classes and co_learner not in ("", "none"):
        raise ConfigError(
            f"co_learner={co_learner} with method={values['method']}, which has one head: use "
            "--config.co_learner=none"
        )
    if co_learner in ("", "none"):
        if method.needs_co_learner:
            raise ConfigError(
                f"method={values['method']} needs a second head: give one, as in "
                "--config.co_learner=linear"
            )
    elif co_learner not in network.co_learners:
        raise ConfigError(
            f"co_learner={co_learner} does not fit model.name={values['model.name']}: use "
            f"--config.co_learner={' or '.join(network.co_learners)}"
        )
    if network.methods and values["method"] not in network.methods:
        raise ConfigError(
            f"model.name={values['model.name']} with method={values['method']}: use "
            f"--config.method={network.methods[-1]}"
        )
    if network.method and values["inner_optimizer"] != "sgd":
        raise ConfigError(
            f"inner_optimizer={values['inner_optimizer']} with model.name={values['model.name']}, "
            "whose inner loop is plain gradient descent: leave it out"
        )


def _check_data(values: dict[str, Any]) -> None:
    """Checks the settings of the data set."""
    name, row = values["data.name"], DATA_SETS[values["data.name"]]
    for setting in ("data.amplitude", "data.phase"):
        low, high = values[setting] if len(values[setting]) == 2 else (0, 0)
        if setting.removeprefix("data.") in row.keys and low > high:
            raise ConfigError(f"{setting}={values[setting]}: needs (lowest, highest)")
    if "file" in row.keys and not values["data.file"]:
        folder = values["data.dir"]
        if folder.endswith(".npz"):
            raise ConfigError(
                f"data.dir={folder} is for folders: write --config.data.file={folder}"
            )
        raise ConfigError(f"data.name={name} needs a file: give --config.data.file=PATH.npz")
    if "file" in row.keys and not values["data.file"].endswith(".npz"):
        known = [
            other for other, row in DATA_SETS.items() if row.gives == "nodes" and other != name
        ]
        raise ConfigError(
            f"data.file={values['data.file']} must end in .npz: give the path of an npz, or one of "
            f"{', '.join(known)} as --config.data.name"
        )
    if "classes" in row.keys:
        _check_classes(values, row)
    if NETWORKS[values["model.name"]].needs == "attribute_sets":
        shots = values["data.shots"]
        train = (values["data.train_shots"] or shots) + values["data.queries"]
        for part, examples in (("data", train), ("eval", shots + values["eval.queries"])):
            if values["data.ways"] * examples < _SET_SIZE:
                raise ConfigError(
                    f"{part}.queries={values[f'{part}.queries']}: model.name="
                    f"{values['model.name']} draws sets of {_SET_SIZE} of a task's nodes, which "
                    f"are {values['data.ways'] * examples}: raise --config.{part}.queries"
                )


def _check_classes(values: dict[str, Any], row: Any) -> None:
    """Checks the class counts of a graph, or the file that lists the classes."""
    counts, file = values["data.classes"], values["data.split_file"]
    if any(counts) and not all(counts):
        raise ConfigError(f"data.classes={counts}: needs three counts, or (0,0,0)")
    if file and any(counts):
        raise ConfigError(
            f"data.classes={counts} with data.split_file={file}, which lists the classes: leave "
            "one of them out"
        )
    if not (file or any(counts) or row.class_counts) and values["data.file"]:
        raise ConfigError(
            f"data.name={values['data.name']} needs a class split: --config.data.classes=4,3,3"
        )


def _check_rules(values: dict[str, Any], read: Collection[str]) -> None:
    """Checks the rules between settings that do not follow from rows."""
    if "eval.num_steps" in read and not values["eval.num_steps"]:
        raise ConfigError("eval.num_steps=(): name at least one number of inner steps, as in (1,3)")
    for name in _NOT_IDLE:
        if name not in read and values[name] != KEYS[name].default:
            raise ConfigError(unread_key(name, values))
    _check_sweep(values, read)
    _check_analyses(values)
    weighting = WEIGHTINGS[values["weighting"]]
    if weighting.compares and values["tasks_per_step"] == 1:
        raise ConfigError(
            f"weighting={values['weighting']} with tasks_per_step=1 has nothing to compare: raise "
            "--config.tasks_per_step or use --config.weighting=uniform"
        )
    steps = values["num_steps"] if METHODS[values["method"]].has_inner_steps else 0
    needed = {"displacements": 1, "last_steps": 2}.get(values["weigh_on"], 0)
    if weighting.compares and steps < needed:
        raise ConfigError(
            f"weigh_on={values['weigh_on']} needs {needed} or more inner steps and "
            f"method={values['method']} makes {steps}: use --config.weigh_on=gradients"
        )
    if values["plan.devices"] and values["tasks_per_step"] % values["plan.devices"]:
        raise ConfigError(
            f"plan.devices={values['plan.devices']} does not divide "
            f"tasks_per_step={values['tasks_per_step']}: use a divisor, or 0"
        )
    if values["tensorboard"] and importlib.util.find_spec("tensorboardX") is None:
        raise ConfigError(
            "tensorboard=True needs tensorboardX: pip install 'cml_jax[tensorboard]', "
            "or leave it out"
        )
    _check_hosts(values)


def _check_sweep(values: dict[str, Any], read: Collection[str]) -> None:
    name, swept = values["sweep"], values["sweep_values"]
    if name == "none":
        return
    if name not in read:
        raise ConfigError(f"sweep={name}, but {unread_key(name, values)}")
    for value in swept:
        if not valid(value, KEYS[name]):
            raise ConfigError(f"{name}={value} in sweep_values: needs {describe_key(KEYS[name])}")
    if len(set(swept)) < max(1, len(swept)):
        raise ConfigError(f"sweep_values={swept}: name each value once")


def _check_analyses(values: dict[str, Any]) -> None:
    every, method = values["eval.analyze_every"], METHODS[values["method"]]
    if every % values["eval.every"]:
        raise ConfigError(
            f"eval.analyze_every={every} with eval.every={values['eval.every']}: analyses are made "
            "at validations, choose a multiple"
        )
    alone = method.all_classes or values["co_learner"] in ("", "none")
    if every and alone and not method.has_inner_steps:
        raise ConfigError(
            f"eval.analyze_every={every} with method={values['method']}, which has no inner steps "
            "and no co-learner to analyse: leave it out"
        )


def _check_hosts(values: dict[str, Any]) -> None:
    count, coordinator = values["hosts.count"], values["hosts.coordinator"]
    if count > 1 and not re.fullmatch(r"[^\s:].*:[0-9]+", coordinator):
        raise ConfigError(
            f"hosts.coordinator={coordinator!r} with hosts.count={count}: give the machine of "
            "process 0 and a free port, as in --config.hosts.coordinator=10.0.0.2:8476"
        )
    if values["hosts.index"] >= max(count, 1) or (coordinator and count < 2):
        raise ConfigError(
            f"hosts.index={values['hosts.index']} and hosts.coordinator={coordinator!r} with "
            f"hosts.count={count}: set --config.hosts.count to the number of processes"
        )
