"""The program: trains, tests and reports, from a config or from the caller's own problem.

    import experiments

    results = experiments.run(config, "runs/mine")

Importing this package loads neither jax nor data.
"""

from typing import Any

from experiments.choices.key import ConfigError
from experiments.run import Stopped, run
from experiments.settings.config import default_config, parse_ways_shots
from experiments.settings.recipes import image_config

__all__ = [
    "ConfigError",
    "Problem",
    "Stopped",
    "default_config",
    "image_config",
    "parse_ways_shots",
    "run",
]


def __getattr__(name: str) -> Any:
    if name == "Problem":  # it needs jax
        from experiments.build import Problem

        return Problem
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
