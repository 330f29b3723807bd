"""Draws one task: `python -m experiments.show_episode --config=configs/omniglot.py`.

Look at it before you train: are the labels right, the colours, the polarity, the turns?
"""

from pathlib import Path

import jax
from absl import app, flags

from cml_jax.tasks import task_keys
from experiments import build
from experiments.choices.key import ConfigError
from experiments.report.episode import draw_episode
from experiments.settings.command_line import CONFIG, fail, parse_flags
from experiments.settings.config import flat

_SPLIT = flags.DEFINE_enum("split", "train", ["train", "validation", "test"], "whose task")
_TASK = flags.DEFINE_integer("task", 0, "which task of the run, from 0", lower_bound=0)
_PICTURE = flags.DEFINE_string("picture", "episode.png", "where it is written")


def main(_: list[str]) -> None:
    """Draws the task that the flags name."""
    settings = flat(CONFIG.value)
    split, path = _SPLIT.value, Path(_PICTURE.value).expanduser()
    try:
        problem = build.problem(settings)
        [key] = task_keys(jax.random.key(settings["seed"]), split, _TASK.value, 1)
        draw = problem.train_sample if split == "train" else problem.draw_test
        task = draw(key, problem.data[split])
        names = problem.class_names(key, split) if problem.class_names else []
        title = f"{problem.name}, {split}, task {_TASK.value}"
        drawn = draw_episode(task, path, title, names)
    except (ConfigError, ValueError, OSError) as error:
        fail(error, 2)
    for label, name in enumerate(names):
        print(f"{label}: {name}")
    if drawn:
        print(f"picture: {path}")


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
