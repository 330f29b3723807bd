"""Configs: every setting, gathered from the rows of `experiments.choices`."""

import difflib
import re
from collections.abc import Collection
from typing import Any

from ml_collections import ConfigDict

from experiments.choices.data_sets import DATA_SETS
from experiments.choices.key import COUNT, ConfigError, Key, choice
from experiments.choices.methods import INNER_OPTIMIZERS, METHODS
from experiments.choices.networks import CO_LEARNERS, NETWORKS
from experiments.choices.outer import LOSSES, METRICS, OUTER_OPTIMIZERS, SCHEDULES, WEIGHTINGS

__all__ = ["KEYS", "ConfigError", "Key", "default_config", "parse_ways_shots"]

_RATE = (1e-10, 100.0)

# What may differ between runs that are trained side by side: it is traced, not compiled in.
SWEPT = ("inner_learning_rate", "body_rate", "co_learner_scale", "co_learner_rate", "radius")
SWEPT += ("outer_learning_rate",)
OWN_PROBLEM = ("data.name", "model.name")  # tables that do not apply to a problem of the caller's
_SWEEP_VALUES = {"sweep_values": Key((1.0,), (0.0, 100.0), "values to sweep, each with all seeds")}

# A setting that names a row, to the names of its rows, to the settings that each row reads. A
# setting that several of these tables have is read where the chosen row of each of them has it.
TABLES: dict[str, dict[str, dict[str, Key]]] = {
    "data.name": {
        name: {f"data.{leaf}": key for leaf, key in row.keys.items()}
        for name, row in DATA_SETS.items()
    },
    "model.name": {
        name: {f"model.{leaf}": key for leaf, key in row.keys.items()}
        for name, row in NETWORKS.items()
    },
    "co_learner": {name: row.keys for name, row in CO_LEARNERS.items()},
    "method": {name: row.keys for name, row in METHODS.items()},
    "inner_optimizer": {name: row.keys for name, row in INNER_OPTIMIZERS.items()},
    "weighting": {name: row.keys for name, row in WEIGHTINGS.items()},
    "sweep": {"none": {}} | {name: _SWEEP_VALUES for name in SWEPT},
}

_GENERAL = {
    "method": choice("maml", METHODS, "how a task is learned"),
    "co_learner": choice("none", CO_LEARNERS, "CML's second head, in training"),
    "weighting": choice("uniform", WEIGHTINGS, "weights of the tasks in the outer loop"),
    "loss": choice("auto", ("auto", *LOSSES), "loss of both loops; auto: the data set's own"),
    "metric": choice("auto", ("auto", *METRICS), "what is scored; auto: the data set's own"),
    "precision": Key(
        "default",
        ("default", "float32", "tensorfloat32", "bfloat16"),
        "of matrix products; default: the device's own (CPU float32, GPU TF32, TPU bfloat16)",
    ),
    "outer_optimizer": choice("adam", OUTER_OPTIMIZERS, "optax optimiser of the outer loop"),
    "weight_decay": Key(
        0.0, (0.0, 1.0), "of the outer loop (adamw, lamb, lion: decoupled; others: in the gradient)"
    ),
    "outer_learning_rate": Key(1e-3, _RATE, "step size of the outer loop"),
    "outer_schedule": choice("constant", SCHEDULES, "of the outer rate; linear, cosine: to 0"),
    "max_gradient_norm": Key(0.0, (0.0, 1e6), "clips the outer gradient; 0: off"),
    "tasks_per_step": Key(32, (1, 1_000_000), "tasks in a meta-batch"),
    "train_steps": Key(2000, COUNT, "meta-steps"),
    "seed": Key(0, (0, 2**31 - 1), "seed of the initial parameters and of every task"),
    "init_from": Key("", None, "folder of a run whose best network's body training starts from"),
    "num_seeds": Key(1, (1, 10_000), "runs side by side in one program: seed, seed + 1, ..."),
    "sweep": choice("none", TABLES["sweep"], "a setting that takes each of sweep_values"),
    "data.name": choice("glyphs", DATA_SETS, "task distribution"),
    "data.shots": Key(1, (1, 100_000), "support examples per class (sinusoid: points)"),
    "data.train_shots": Key(
        0, (0, 100_000), "support examples per class in training; 0: shots (Reptile takes more)"
    ),
    "data.queries": Key(1, (1, 100_000), "query examples per class in training"),
    "model.name": choice("conv4", NETWORKS, "network"),
    "eval.num_tasks": Key(1000, (2, 10_000_000), "test tasks"),
    "eval.queries": Key(15, (1, 100_000), "query examples per class at validation and test"),
    "eval.each_alone": Key(
        True, None, "test also with each query alone, where there are batch statistics; is slow"
    ),
    "eval.patience": Key(
        0, (0, 2**31 - 1), "validations without a better one that end training; 0: never"
    ),
    "eval.every": Key(250, COUNT, "meta-steps between validations"),
    "eval.analyze_every": Key(
        0, (0, 2**31 - 1), "meta-steps between analyses, in multiples of eval.every; 0: none"
    ),
    "eval.validation_tasks": Key(200, (2, 10_000_000), "tasks of a validation"),
    "plan.chunk": Key(0, (0, 1_000_000), "tasks computed side by side; 0: chosen by the device"),
    "plan.devices": Key(0, (0, 65_536), "devices that share the tasks; 0: chosen"),
    "plan.steps_per_dispatch": Key(0, (0, 1_000_000), "meta-steps per call; 0: chosen"),
    "plan.remat": Key("auto", ("auto", "on", "off"), "inner steps computed again: less memory"),
    "plan.images": Key(
        "auto",
        ("auto", "device", "host"),
        "where image sets are: on each device, or on the host, gathered ahead of the devices",
    ),
    "plan.malloc": Key(True, None, "huge pages, freed memory kept (glibc); restarts the program"),
    "plan.compilation_cache": Key(True, None, "keep compiled programs in the user's cache folder"),
    "hosts.coordinator": Key("", None, "HOST:PORT of process 0, where the others find it"),
    "hosts.count": Key(0, (0, 65_536), "number of processes; 0: as Cloud TPU or SLURM say, else 1"),
    "hosts.index": Key(0, (0, 65_535), "index of this process"),
    "hosts.timeout_seconds": Key(60, (1, 86_400), "seconds of silence until a process is lost"),
    "checkpoint_every_minutes": Key(5.0, (0.0, 1e6), "minutes between checkpoints"),
    "log_every_seconds": Key(5.0, (0.0, 1e6), "seconds between reports"),
    "non_finite": Key("stop", ("stop", "skip"), "steps whose loss or gradient is not finite"),
    "tensorboard": Key(False, None, "also write TensorBoard files"),
}
_OF_ROWS = {
    name: key
    for rows in reversed(TABLES.values())
    for keys in reversed(rows.values())
    for name, key in keys.items()
}
KEYS: dict[str, Key] = _GENERAL | _OF_ROWS

# What may change when a run resumes: where its files are, how fast it is, how often it reports, and
# the final test. None of these changes the parameters or which checkpoint is best.
_FREE = ("plan.", "hosts.", "data.dir", "eval.num_tasks", "eval.num_steps", "eval.each_alone")
_FREE += ("eval.analyze_every", "checkpoint_every_minutes", "log_every_seconds")
_FREE += ("tensorboard", "non_finite")


def default_config() -> ConfigDict:
    """The defaults of every setting, which a config file changes and returns.

    Returns:
      A locked, typed ConfigDict: a wrong name or type in a config file is an error.
    """
    nested: dict[str, Any] = {}
    for name, key in KEYS.items():
        *section, leaf = name.split(".")
        node = nested.setdefault(section[0], {}) if section else nested
        node[leaf] = key.default
    return ConfigDict(nested).lock()


def parse_ways_shots(text: str | None, default: tuple[int, int]) -> tuple[int, int]:
    """Reads what follows the colon in `--config=FILE.py:5way-1shot`.

    Args:
      text: The text, such as `20way-5shot`; None or "" gives `default`.
      default: The default `(ways, shots)`.

    Returns:
      `(ways, shots)`.

    Raises:
      ConfigError: The text has another form.
    """
    if not text:
        return default
    match = re.fullmatch(r"([1-9][0-9]{0,3})way-([1-9][0-9]{0,3})shot", text)
    if match is None:
        raise ConfigError(f"{text!r} after the colon of --config: write for instance 5way-1shot")
    return int(match[1]), int(match[2])


def flat(config: ConfigDict) -> dict[str, Any]:
    """The config with dotted names."""
    values = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            values |= {f"{name}.{inner}": leaf for inner, leaf in flat(value).items()}
        else:
            values[name] = value
    return values


def keys_read(values: dict[str, Any], without: Collection[str] = ()) -> dict[str, Key]:
    """The settings that the chosen rows read: name to `Key`, as the row has it.

    Args:
      values: A config with dotted names.
      without: Tables that do not apply, such as "data.name" where the data are the caller's.
    """
    read = {name: key for name, key in _GENERAL.items() if name not in without}
    for name in _OF_ROWS:
        tables = [table for table in TABLES if any(name in keys for keys in TABLES[table].values())]
        if set(tables) & set(without):
            continue
        rows = [TABLES[table].get(values[table], {}) for table in tables]
        if all(name in row for row in rows):
            read[name] = rows[0][name]
    return read


def may_change_on_resume(name: str) -> bool:
    """Whether a run may change a setting when it resumes."""
    return name.startswith(_FREE)


def unknown_key(name: str) -> str:
    """The error for a setting that does not exist: it names the nearest that do."""
    leaves = {key.rsplit(".", 1)[-1]: key for key in KEYS}
    near = difflib.get_close_matches(name, KEYS, 2)
    near = near or [leaves[leaf] for leaf in difflib.get_close_matches(name, leaves, 2)]
    inside = [key for key in KEYS if key.startswith(f"{name}.")]
    if inside:
        return f"--config.{name} is a group: set one of {', '.join(inside)}"
    hint = f"did you mean --config.{' or --config.'.join(near)}?" if near else "--help lists them"
    return f"there is no setting --config.{name}: {hint}"


def unread_key(name: str, values: dict[str, Any]) -> str:
    """The error for a setting that no chosen row reads: who reads it, and what is read instead.

    Args:
      name: Name of the setting.
      values: The config with dotted names.
    """
    for table, rows in TABLES.items():
        readers = [row for row, keys in rows.items() if row and name in keys]
        chosen = values[table]
        if not readers or chosen in readers:
            continue
        own = ", ".join(key for key in rows.get(chosen, {}) if key in keys_read(values))
        many = f" and {len(readers) - 6} more" if len(readers) > 6 else ""
        return (
            f"--config.{name} is a setting of {table}={' or '.join(readers[:6])}{many}; "
            f"{table}={chosen} reads {own or 'nothing of its own'}: leave it out, or choose "
            f"another --config.{table}"
        )
    return f"nothing reads --config.{name} here: leave it out"
