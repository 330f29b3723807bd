"""Every check of a config that needs neither data nor jax."""

import importlib.util
import re

from ml_collections import ConfigDict

from experiments.settings.config import (
    GRAPHS,
    KEYS,
    ON_GRAPHS,
    OPTIMIZABLE,
    ConfigError,
    describe_key,
    flat,
    unknown_key,
    valid,
)

_SET_SIZE = 10  # of cml_jax.methods.amm_gnn.attribute_sets, which needs jax


def check(config: ConfigDict) -> None:
    """Checks types, ranges, finiteness and the rules between keys that need no data.

    Args:
      config: what a config file's `get_config` returned, with the command line's changes.

    Raises:
      ConfigError: one line with the key, its value and the fix.
    """
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"get_config() returned {type(config).__name__}: return a ConfigDict")
    values = flat(config)
    for name in values.keys() - KEYS.keys():
        raise ConfigError(unknown_key(name))
    for name, key in KEYS.items():
        if name not in values:
            raise ConfigError(f"the config has no {name}: start it from default_config()")
        if not valid(values[name], key):
            raise ConfigError(f"{name}={values[name]!r}: needs {describe_key(key)}")
    _check_together(config)


def _check_graph(c: ConfigDict) -> None:
    """The rules between keys on graphs, and that none of them is ignored elsewhere."""
    data = c.data
    if len(data.classes) != 3 or (any(data.classes) and not all(data.classes)):
        raise ConfigError(f"data.classes={data.classes}: needs three counts, or (0,0,0)")
    for name in ("classes", "split_file", "split_seed"):
        if data.name not in GRAPHS and data[name] != KEYS[f"data.{name}"].default:
            raise ConfigError(f"data.{name}={data[name]} is for graphs: leave it out")
    for name in ("subgraph_nodes", "subgraph_neighbours"):
        if c.model.name != "gmeta" and c.model[name] != KEYS[f"model.{name}"].default:
            raise ConfigError(f"model.{name}={c.model[name]} is for model.name=gmeta: leave it out")
    if data.split_file and any(data.classes):
        raise ConfigError(
            f"data.classes={data.classes} with data.split_file={data.split_file}, which lists the "
            "classes: leave one of them out"
        )
    if data.name == "graph" and not data.file:
        if data.dir.endswith(".npz"):
            raise ConfigError(
                f"data.dir={data.dir} is for folders: write --config.data.file={data.dir}"
            )
        raise ConfigError("data.name=graph needs a file: give --config.data.file=PATH.npz")
    if data.file and data.name != "graph":
        raise ConfigError(
            f"data.file={data.file} with data.name={data.name}: use --config.data.name=graph, or "
            "leave it out"
        )
    if data.file and not data.file.endswith(".npz"):
        raise ConfigError(
            f"data.file={data.file} must end in .npz: give the path of an npz, or one of "
            f"{', '.join(GRAPHS[:-1])} as --config.data.name"
        )
    if data.name == "graph" and not (any(data.classes) or data.split_file):
        raise ConfigError("data.name=graph needs a class split: --config.data.classes=4,3,3")
    train = (data.train_shots or data.shots) + data.queries
    for name, examples in (("data", train), ("eval", data.shots + c.eval.queries)):
        if c.model.name == "amm_gnn" and data.ways * examples < _SET_SIZE:
            raise ConfigError(
                f"{name}.queries={c[name].queries}: model.name=amm_gnn draws sets of {_SET_SIZE} "
                f"of a task's nodes, which are {data.ways * examples}: raise "
                f"--config.{name}.queries"
            )


def _check_together(c: ConfigDict) -> None:
    """The rules between keys."""
    for name in ("amplitude", "phase"):
        bounds = c.data[name]
        if len(bounds) != 2 or bounds[0] > bounds[1]:
            raise ConfigError(f"data.{name}={bounds}: needs (lowest, highest)")
    if not c.eval.num_steps:
        raise ConfigError("eval.num_steps=(): name at least one number of inner steps, as in (1,3)")
    if c.data.name == "sinusoid" and c.model.name != "mlp":
        raise ConfigError(f"model.name={c.model.name} on the sinusoid: use --config.model.name=mlp")
    if (c.data.name in GRAPHS) != (c.model.name in ON_GRAPHS):
        fitting = (
            "gcn" if c.data.name in GRAPHS else "mlp" if c.data.name == "sinusoid" else "conv4"
        )
        raise ConfigError(
            f"model.name={c.model.name} does not fit data.name={c.data.name}: "
            f"use --config.model.name={fitting}"
        )
    if c.model.name in ON_GRAPHS and len(c.model.hidden) != 1:
        raise ConfigError(f"model.hidden={c.model.hidden}: {c.model.name} has one width, as (16,)")
    if c.model.name == "amm_gnn" and c.method not in ("maml", "fomaml"):
        raise ConfigError(f"model.name=amm_gnn with method={c.method}: use --config.method=fomaml")
    if c.model.name == "amm_gnn" and c.inner_optimizer != "sgd":
        raise ConfigError(
            f"inner_optimizer={c.inner_optimizer} with model.name=amm_gnn, whose inner loop is "
            "plain gradient descent: leave it out"
        )
    _check_graph(c)
    if c.data.name != "sinusoid" and c.model.name == "mlp":
        raise ConfigError(
            f"model.name=mlp on the images of {c.data.name}: use --config.model.name=conv4"
        )
    if (c.co_learner, c.model.name) in {
        *(("conv", name) for name in ("mlp", *ON_GRAPHS)),
        ("mlp", "conv4"),
    }:
        raise ConfigError(
            f"co_learner={c.co_learner} does not fit model.name={c.model.name}: "
            "use --config.co_learner=linear"
        )
    if c.method == "collaborative" and c.co_learner in ("", "none"):
        raise ConfigError(
            "method=collaborative needs a second head: give one, as in --config.co_learner=linear"
        )
    for name, value, method in (
        ("minibatch", 0, "reptile"),
        ("second_order_after", 0.0, "maml_plus_plus"),
    ):
        if c[name] != value and c.method != method:
            raise ConfigError(f"{name}={c[name]} is for method={method}: leave it out")
    rates = c.body_rate != 1 or c.sweep == "body_rate"
    if c.inner_optimizer != "sgd" and (c.method not in OPTIMIZABLE or rates):
        raise ConfigError(
            f"inner_optimizer={c.inner_optimizer} is for method={' or '.join(OPTIMIZABLE)}, with "
            "body_rate=1: leave it out"
        )
    if c.sweep == "none" and c.sweep_values != KEYS["sweep_values"].default:
        raise ConfigError(f"sweep_values={c.sweep_values} of what? name it: --config.sweep=SETTING")
    if c.sweep != "none":
        key = KEYS[c.sweep]
        for value in c.sweep_values:
            if not valid(value, key):
                raise ConfigError(f"{c.sweep}={value} in sweep_values: needs {describe_key(key)}")
        if len(set(c.sweep_values)) < max(1, len(c.sweep_values)):
            raise ConfigError(f"sweep_values={c.sweep_values}: name each value once")
    no_co_learner = c.co_learner in ("", "none") or c.method == "collaborative"
    if c.eval.best_of == "both" and no_co_learner:
        raise ConfigError("eval.best_of=both needs CML's co-learner: leave it out")
    if c.co_learner_frozen and no_co_learner:
        raise ConfigError("co_learner_frozen=True needs CML's co-learner: leave it out")
    if c.sweep.startswith("co_learner") and no_co_learner:
        raise ConfigError(f"sweep={c.sweep} needs CML's co-learner: give one, or leave it out")
    if c.sweep == "radius" and c.method != "sharp_maml":
        raise ConfigError("sweep=radius is for method=sharp_maml: leave it out")
    own_rates = c.method in ("reptile", "maml_plus_plus")
    if own_rates and (c.body_rate != 1 or c.sweep == "body_rate"):
        raise ConfigError(f"body_rate={c.body_rate} is not for method={c.method}: leave it out")
    if c.method == "reptile" and c.first_order:
        raise ConfigError("first_order=True changes nothing for method=reptile: leave it out")
    if c.weighting == "gradient_agreement" and c.tasks_per_step == 1:
        raise ConfigError(
            "weighting=gradient_agreement with tasks_per_step=1 has nothing to compare: "
            "raise --config.tasks_per_step or use --config.weighting=uniform"
        )
    hosts = c.hosts
    if hosts.count > 1 and not re.fullmatch(r"[^\s:].*:[0-9]+", hosts.coordinator):
        raise ConfigError(
            f"hosts.coordinator={hosts.coordinator!r} with hosts.count={hosts.count}: give the "
            "machine of process 0 and a free port, as in --config.hosts.coordinator=10.0.0.2:8476"
        )
    if hosts.index >= max(hosts.count, 1) or (hosts.coordinator and hosts.count < 2):
        raise ConfigError(
            f"hosts.index={hosts.index} and hosts.coordinator={hosts.coordinator!r} with "
            f"hosts.count={hosts.count}: set --config.hosts.count to the number of processes"
        )
    if c.plan.devices and c.tasks_per_step % c.plan.devices:
        raise ConfigError(
            f"plan.devices={c.plan.devices} does not divide tasks_per_step={c.tasks_per_step}: "
            "use a divisor, or 0"
        )
    if c.tensorboard and importlib.util.find_spec("tensorboardX") is None:
        raise ConfigError(
            "tensorboard=True needs tensorboardX: pip install 'cml_jax[tensorboard]', "
            "or leave it out"
        )
