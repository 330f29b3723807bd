"""Configs: their keys, defaults and ranges, and what a key takes in words."""

import difflib
import re
from typing import Any, NamedTuple

from ml_collections import ConfigDict


class ConfigError(Exception):
    """A mistake in what the user asked for: one line, shown without a traceback, exit code 2."""


class Key(NamedTuple):
    """One setting.

    Attributes:
      default: its value; the type of it is the type of the setting.
      allowed: the choices (strings), or the closed interval `(low, high)` of a number or of each
        number in a tuple, or None for anything of the type.
      meaning: one line for `--help`.
    """

    default: Any
    allowed: tuple | None
    meaning: str


_COUNT = (1, 2**31 - 1)
_RATE = (1e-10, 100.0)
_INNER_STEPS = (1, 10_000)

METHODS = ("maml", "fomaml", "anil", "boil", "reptile", "meta_sgd", "maml_plus_plus", "sharp_maml")
METHODS += ("collaborative",)
# What may differ between runs that are trained side by side: it is traced, not compiled in.
SWEPT = ("inner_learning_rate", "body_rate", "co_learner_scale", "co_learner_rate", "radius")
SWEPT += ("outer_learning_rate",)
# Whose inner loop takes any optimiser; the others have rates or gradients of their own.
OPTIMIZABLE = ("maml", "fomaml", "anil", "boil", "collaborative", "reptile")
GRAPHS = ("block_graph", "citeseer", "cora", "amazon_computer", "cora_full", "graph")
ON_GRAPHS = ("gcn", "sgc", "gmeta", "amm_gnn")
SPLITS = ("train", "validation", "test")
DECAYING = ("adamw", "lamb", "lion")
OPTIMIZERS = ("adam", "nadam", "radam", "rmsprop", "sgd", *DECAYING)

KEYS = {
    "method": Key("maml", METHODS, "how a task is learned"),
    "co_learner": Key(
        "none", ("none", "", "linear", "conv", "mlp"), "CML's second head, in training"
    ),
    "co_learner_scale": Key(1.0, (0.0, 1e3), "gamma, the weight of the co-learner's loss"),
    "co_learner_depth": Key(2, (0, 4), "convolutions of co_learner=conv"),
    "co_learner_frozen": Key(False, None, "it keeps its random start: MAML + random noise"),
    "weighting": Key("uniform", ("uniform", "gradient_agreement"), "of the tasks, outer loop"),
    "weigh_on": Key("displacements", ("displacements", "gradients"), "what agreement compares"),
    "inner_learning_rate": Key(0.4, (0.0, 100.0), "step size of the inner loop"),
    "body_rate": Key(1.0, (0.0, 1e3), "the body's inner rate, in units of inner_learning_rate"),
    "num_steps": Key(1, _INNER_STEPS, "inner steps in training"),
    "first_order": Key(False, None, "drop the second derivatives"),
    "multi_step_until": Key(
        0.15, (0.0, 1.0), "share of training with a loss after every inner step (maml_plus_plus)"
    ),
    "second_order_after": Key(0.0, (0.0, 1.0), "share of training in first order (maml_plus_plus)"),
    "radius": Key(5e-4, (0.0, 10.0), "rho, the reach of the perturbation (sharp_maml)"),
    "sharp": Key("both", ("lower", "upper", "both"), "the loop that is perturbed (sharp_maml)"),
    "inner_optimizer": Key(
        "sgd",
        ("sgd", "momentum", "rmsprop", "adam"),
        "of the inner loop; Reptile's remembers from task to task, and its adam has beta1 = 0",
    ),
    "minibatch": Key(0, (0, 1_000_000), "examples of Reptile's inner steps; 0: all"),
    "precision": Key(
        "default",
        ("default", "float32", "tensorfloat32", "bfloat16"),
        "of matrix products; default: the device's own (CPU float32, GPU TF32, TPU bfloat16)",
    ),
    "outer_optimizer": Key("adam", OPTIMIZERS, "optax optimiser of the outer loop"),
    "weight_decay": Key(
        0.0, (0.0, 1.0), "of the outer loop (adamw, lamb, lion: apart; others: in the gradient)"
    ),
    "co_learner_rate": Key(1.0, (0.0, 1e3), "its outer rate, in units of outer_learning_rate"),
    "outer_learning_rate": Key(1e-3, _RATE, "step size of the outer loop"),
    "outer_schedule": Key("constant", ("constant", "linear", "cosine"), "decays to 0 at the end"),
    "max_gradient_norm": Key(0.0, (0.0, 1e6), "clips the outer gradient; 0: off"),
    "tasks_per_step": Key(32, (1, 1_000_000), "tasks in a meta-batch"),
    "train_steps": Key(2000, _COUNT, "meta-steps"),
    "seed": Key(0, (0, 2**31 - 1), "of the initial parameters and of every task"),
    "num_seeds": Key(1, (1, 10_000), "runs side by side in one program: seed, seed + 1, ..."),
    "sweep": Key("none", ("none", *SWEPT), "a setting that takes each of sweep_values"),
    "sweep_values": Key((1.0,), (0.0, 100.0), "its values, side by side, each with all seeds"),
    "data.name": Key("glyphs", ("glyphs", "omniglot", "sinusoid", *GRAPHS), "task distribution"),
    "data.dir": Key("", None, "folder of the data set's files"),
    "data.file": Key("", None, "path of the graph's npz (data.name=graph)"),
    "data.classes": Key(
        (0, 0, 0), (0, 10_000), "training, validation, test classes (graphs); 0s: the graph's own"
    ),
    "data.split_file": Key("", None, "JSON lists of the classes instead of counts (graphs)"),
    "data.split_seed": Key(
        0, (0, 2**31 - 1), "which classes are where (graphs), and the block graph"
    ),
    "data.ways": Key(5, (2, 10_000), "classes in a task"),
    "data.shots": Key(1, (1, 100_000), "support examples per class (sinusoid: points)"),
    "data.train_shots": Key(
        0, (0, 100_000), "support examples per class in training; 0: shots (Reptile takes more)"
    ),
    "data.queries": Key(1, (1, 100_000), "query examples per class in training"),
    "data.rotations": Key(True, None, "each 90-degree rotation is a training class of its own"),
    "data.amplitude": Key((0.1, 5.0), (0.0, 1e6), "lowest and highest (sinusoid)"),
    "data.phase": Key((0.0, 3.14159265), (-1e6, 1e6), "lowest and highest (sinusoid)"),
    "model.name": Key("conv4", ("conv4", "mlp", *ON_GRAPHS), "network"),
    "model.filters": Key(64, (1, 65_536), "channels of each convolution (conv4)"),
    "model.extra_blocks": Key(0, (0, 100), "convolutions behind the four; 3: More-MAML (conv4)"),
    "model.pool": Key(True, None, "max-pool; False: convolutions of stride 2 (conv4)"),
    "model.hidden": Key((40, 40), (1, 1_000_000), "widths of the hidden layers (mlp; graphs: one)"),
    "model.subgraph_nodes": Key(64, (1, 1_000_000), "rows of a node's subgraph at most (gmeta)"),
    "model.subgraph_neighbours": Key(
        32, (1, 1_000_000), "neighbours that a row adds up at most (gmeta)"
    ),
    "model.dropout": Key(0.5, (0.0, 0.99), "share dropped in the inner loop of training (graphs)"),
    "model.activation": Key("relu", ("relu", "tanh"), "nonlinearity (mlp)"),
    "eval.num_tasks": Key(1000, (2, 10_000_000), "test tasks"),
    "eval.queries": Key(15, (1, 100_000), "query examples per class at validation and test"),
    "eval.num_steps": Key((1, 3), (0, 10_000), "inner steps at test, each scored; 0: as trained"),
    "eval.best_of": Key(
        "meta_learner",
        ("meta_learner", "both"),
        "whose validation chooses the checkpoint; both: the mean with the co-learner's",
    ),
    "eval.patience": Key(
        0, (0, 2**31 - 1), "validations without a better one until training ends; 0: train_steps"
    ),
    "eval.every": Key(250, _COUNT, "meta-steps between validations"),
    "eval.validation_tasks": Key(200, (2, 10_000_000), "tasks of a validation"),
    "plan.chunk": Key(0, (0, 1_000_000), "tasks computed side by side; 0: chosen by the device"),
    "plan.devices": Key(0, (0, 65_536), "devices that share the tasks; 0: chosen"),
    "plan.steps_per_dispatch": Key(0, (0, 1_000_000), "meta-steps per call; 0: chosen"),
    "plan.remat": Key("auto", ("auto", "on", "off"), "inner steps computed again: less memory"),
    "plan.malloc": Key(True, None, "huge pages, freed memory kept (glibc); restarts the program"),
    "plan.compilation_cache": Key(True, None, "keep compiled programs in the user's cache folder"),
    "hosts.coordinator": Key("", None, "HOST:PORT of process 0, where the others find it"),
    "hosts.count": Key(0, (0, 65_536), "processes; 0: as Cloud TPU or SLURM tell, else 1"),
    "hosts.index": Key(0, (0, 65_535), "which of them this is"),
    "hosts.timeout_seconds": Key(60, (1, 86_400), "of silence, until a process counts as gone"),
    "checkpoint_every_minutes": Key(5.0, (0.0, 1e6), "minutes between checkpoints"),
    "log_every_seconds": Key(5.0, (0.0, 1e6), "seconds between reports"),
    "non_finite": Key("stop", ("stop", "skip"), "where a step's loss or gradient is not finite"),
    "tensorboard": Key(False, None, "also write TensorBoard files"),
}

# What a run may change when it goes on: where files lie, how fast, how often it speaks, and the
# final test, none of which changes the parameters or which checkpoint is best.
_FREE = ("plan.", "hosts.", "data.dir", "eval.num_tasks", "eval.num_steps")
_FREE += ("checkpoint_every_minutes", "log_every_seconds", "tensorboard", "non_finite")
_TYPE_NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}


def default_config() -> ConfigDict:
    """The defaults of every key in `KEYS`, which a config file changes and returns.

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
    """Reads the part of `--config=FILE.py:5way-1shot` behind the colon.

    Args:
      text: such as `20way-5shot`; None or empty stands for `default`.
      default: `(ways, shots)`.

    Returns:
      `(ways, shots)`.

    Raises:
      ConfigError: `text` has another form.
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


def may_change_on_resume(name: str) -> bool:
    """Whether a run may change it when it goes on."""
    return name.startswith(_FREE)


def valid(value: Any, key: Key) -> bool:
    """Type and range; a tuple has elements of the type of its default's."""
    if isinstance(key.default, tuple):
        element = Key(key.default[0], key.allowed, "")
        return isinstance(value, tuple) and all(valid(v, element) for v in value)
    integer_as_number = type(value) is int and isinstance(key.default, float)
    if type(value) is not type(key.default) and not integer_as_number:
        return False
    if key.allowed is None:
        return True
    if isinstance(value, str):
        return value in key.allowed
    return key.allowed[0] <= value <= key.allowed[1]  # False for nan


def describe_key(key: Key) -> str:
    """What a key takes, in words: `an integer from 1 to 10000`."""
    if isinstance(key.default, tuple):
        inner = describe_key(Key(key.default[0], key.allowed, ""))
        return f"a tuple such as '{','.join(map(str, key.default))}', each {inner}"
    if isinstance(key.default, str) and key.allowed:
        return "one of " + ", ".join(choice for choice in key.allowed if choice)
    words = _TYPE_NAMES[type(key.default)]
    return f"{words} from {key.allowed[0]} to {key.allowed[1]}" if key.allowed else words


def unknown_key(name: str) -> str:
    """The line for a key that does not exist, with the nearest that does."""
    leaves = {key.rsplit(".", 1)[-1]: key for key in KEYS}
    near = difflib.get_close_matches(name, KEYS, 2)
    near = near or [leaves[leaf] for leaf in difflib.get_close_matches(name, leaves, 2)]
    inside = [key for key in KEYS if key.startswith(f"{name}.")]
    if inside:
        return f"--config.{name} is a group: set one of {', '.join(inside)}"
    hint = f"did you mean --config.{' or --config.'.join(near)}?" if near else "--help lists them"
    return f"there is no setting --config.{name}: {hint}"
