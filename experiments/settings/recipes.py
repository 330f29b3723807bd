"""The papers' settings for few-shot image classification, which the configs of image sets share."""

import re
from collections.abc import Callable

from ml_collections import ConfigDict

from experiments.settings.config import ConfigError, default_config, parse_ways_shots


def image_config(data: str, text: str | None, ways_shots: tuple[int, int] = (5, 1)) -> ConfigDict:
    """The config of an image set after one of the papers.

    Args:
      data: The name of the data set.
      text: What follows the colon in `--config=FILE.py:5way-1shot,recipe=finn`: ways and shots,
        a recipe, or both.
      ways_shots: Ways and shots where the text does not say them.

    Raises:
      ConfigError: The text has another form, or names another recipe.
    """
    match = re.fullmatch(r"([^,=]*),?(?:recipe=(\w*))?", text or "")
    recipe = "cml" if match is None or match[2] is None else match[2]
    if match is None or recipe not in RECIPES:
        raise ConfigError(
            f"{text!r} after the colon of --config: write for instance 5way-1shot,recipe=finn; "
            f"recipes are {', '.join(RECIPES)}"
        )
    config = default_config()
    config.data.name = data
    config.data.ways, config.data.shots = parse_ways_shots(match[1], ways_shots)
    config.data.queries = 15
    config.eval.queries = 15
    config.tasks_per_step = 4
    config.outer_learning_rate = 1e-3
    RECIPES[recipe](config)
    return config


def _cml(config: ConfigDict) -> None:
    """MAML + CML, as the CML paper's code has it (arXiv 2406.04639, appendix A.1)."""
    config.co_learner = "conv"
    config.inner_learning_rate = 0.5
    config.eval.num_steps = (1,)
    config.eval.every = 100
    config.eval.validation_tasks = 100
    config.train_steps = 30_000


def _finn(config: ConfigDict) -> None:
    """MAML's miniImageNet (arXiv 1703.03400, appendix A.1).

    Its rate of 0.01 is for the sum over the classes of the mean over a class's shots, which is
    `ways` times the mean over all examples that stands here.
    """
    config.model.filters = 32
    config.inner_learning_rate = 0.01 * config.data.ways
    config.num_steps = 5
    config.eval.num_steps = (5, 10)
    config.eval.every = 500
    config.train_steps = 60_000


def _reptile(config: ConfigDict) -> None:
    """Reptile's miniImageNet (arXiv 1803.02999, appendix A)."""
    config.method = "reptile"
    config.model.filters = 32
    config.inner_optimizer = "adam"
    config.inner_learning_rate = 1e-3
    config.minibatch = 10
    config.num_steps = 8
    config.data.train_shots = 15
    config.data.queries = 1  # none is used in training
    config.tasks_per_step = 5
    config.outer_optimizer = "sgd"
    config.outer_learning_rate = 1.0
    config.outer_schedule = "linear"
    config.eval.num_steps = (50,)
    config.eval.every = 1000
    config.train_steps = 100_000


def _agreement(config: ConfigDict) -> None:
    """Reptile, with gradient agreement (arXiv 1810.08178, which does not state its settings)."""
    _reptile(config)
    config.weighting = "gradient_agreement"


RECIPES: dict[str, Callable[[ConfigDict], None]] = {
    "cml": _cml,
    "finn": _finn,
    "reptile": _reptile,
    "agreement": _agreement,
}
