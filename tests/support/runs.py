"""Short runs: their configs, and the program as its users start it."""

import json
import subprocess
import sys
from pathlib import Path

import jax

from experiments.choices.methods import METHODS
from experiments.run import assemble, evaluate, train
from experiments.settings.checks import check
from experiments.settings.config import default_config
from experiments.train import compile_steps, initial_state

# What each needs beside its name.
SETTINGS = {name: {} for name, row in METHODS.items() if not row.targets}

SETTINGS["maml_plus_plus"] = {"second_order_after": 0.5}

SETTINGS["sharp_maml"] = {"radius": 0.05}

SETTINGS["reptile"] = {"inner_optimizer": "adam", "minibatch": 3, "outer_optimizer": "sgd"}

SETTINGS["collaborative"] = {"co_learner": "linear"}


def sinusoids(method="maml", **changes):
    """A small config on sinusoids, with `changes` that may be "section.key"."""
    config = default_config()
    config.data.name, config.model.name, config.model.hidden = "sinusoid", "mlp", (8, 8)
    config.data.shots = config.data.queries = 5
    config.inner_learning_rate, config.num_steps, config.tasks_per_step = 0.02, 2, 4
    config.train_steps = config.eval.every = 3
    config.eval.validation_tasks = config.eval.num_tasks = 4
    config.eval.num_steps, config.eval.queries = (3,), 5
    for name, value in (SETTINGS[method] | {"method": method} | changes).items():
        section, _, key = name.rpartition(".")
        (config[section] if section else config)[key] = value
    check(config)
    return config


def trained(config, workdir, problem=None):
    """Whether training came to its end."""
    return train(config, assemble(config, problem), workdir)


def tested(config, workdir, problem=None):
    """The results of the best checkpoint in `workdir`."""
    return evaluate(assemble(config, problem), workdir)


def start(config):
    """The parts of a run and its state at step 0."""
    parts = assemble(config)
    state = initial_state(parts.learner, parts.problem.data["train"])
    return parts, jax.device_put(state, parts.plan.replicated)


def after_steps(config, steps=3):
    """The state and what the steps reported, of a procedure's tasks."""
    parts, state = start(config)
    with jax.numpy_dtype_promotion("standard"):  # optax's schedules divide an int32 count
        advance = compile_steps(*parts[:4], state, None)
        return advance(state, None, steps)


ROOT = Path(__file__).parents[2]

SINUSOID = (
    "--config=configs/sinusoid.py",
    "--config.train_steps=400",
    "--config.eval.every=100",
    "--config.eval.num_tasks=600",
    "--config.plan.steps_per_dispatch=20",
    "--config.outer_schedule=cosine",
    "--config.plan.compilation_cache=False",
    "--config.log_every_seconds=0",
)

GLYPHS = (
    "--config=configs/glyphs.py:3way-2shot",
    "--config.train_steps=4",
    "--config.eval.every=2",
    "--config.eval.num_tasks=10",
    "--config.eval.validation_tasks=4",
    "--config.eval.num_steps=2,",
    "--config.tasks_per_step=4",
    "--config.model.filters=16",
    "--config.plan.compilation_cache=False",
)


def command(workdir, *arguments):
    return [sys.executable, "-m", "experiments.main", f"--workdir={workdir}", *arguments]


def run(workdir, *arguments):
    return subprocess.run(
        command(workdir, *arguments), cwd=ROOT, capture_output=True, text=True, timeout=300
    )


def rows(workdir):
    """The reports without what a clock has measured."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    clocks = ("seconds", "tasks_per_second")
    return [{k: v for k, v in json.loads(line).items() if k not in clocks} for line in lines]
