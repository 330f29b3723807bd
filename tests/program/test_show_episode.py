"""The picture of a task: which image is where, and the command."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import cml_jax
from cml_jax.data import Images, Split
from cml_jax.tasks.members import consecutive_members
from experiments.build import tasks
from experiments.choices.data_sets import DATA_SETS
from experiments.report.episode import draw_episode, mosaic
from experiments.settings.config import default_config, flat


def test_a_column_for_each_class_in_the_order_of_the_examples():
    values = np.array([1, 2, 3, 4, 5]) / 8
    images = np.broadcast_to(values[:, None, None, None], (5, 3, 4, 1))
    picture = mosaic(images, np.array([1, 0, 1, 0, 1]), ways=2)
    assert picture.shape == (3 * 5, 2 * 6, 1)
    centres = picture[1::5, 1::6, 0]
    np.testing.assert_array_equal(centres * 8, [[2, 1], [4, 3], [8, 5]])  # 8: white, no example


def test_names_are_those_of_the_classes_drawn(monkeypatch):
    """Every image says which class it is of."""
    counts = [4, 6, 5, 4, 7, 5, 4, 6]
    pixels = np.repeat(np.arange(8), counts).astype(np.uint8)[:, None, None, None]
    pixels = np.broadcast_to(pixels, (sum(counts), 4, 4, 3)).copy()
    names = Split(("0", "1", "2", "3"), ("4", "5"), ("6", "7"))
    images = Images(pixels, consecutive_members(counts), names, "made", "hash")
    monkeypatch.setattr(cml_jax.data, "load_made", lambda data_dir: images, raising=False)
    row = DATA_SETS["cifar_fs"]._replace(load="cml_jax.data:load_made")
    config = default_config()
    config.data.name, config.data.ways, config.data.queries, config.eval.queries = (
        "cifar_fs",
        2,
        2,
        2,
    )
    source = tasks.images(row, flat(config))
    for seed, split in enumerate(("train", "validation", "test") * 3):
        key = cml_jax.tasks.task_keys(jax.random.key(seed), split, 0, 1)[0]
        sample = source.train_sample if split == "train" else source.test_sample
        task = sample(key, source.data[split])
        drawn = np.asarray(task.support.inputs[:, 0, 0, 0] * 255).round().astype(int)
        assert source.class_names(key, split) == [str(c) for c in drawn]


def test_what_is_not_an_image_is_refused(tmp_path):
    task = cml_jax.tasks.sinusoid(jax.random.key(0), shots=5, queries=5)
    with pytest.raises(ValueError, match=r"an example is \[1\], not an image"):
        draw_episode(task, tmp_path / "a.png", "")


def test_the_command(tmp_path):
    command = [sys.executable, "-m", "experiments.show_episode", "--config=configs/glyphs.py"]
    command += [f"--picture={tmp_path / 'episode.png'}", "--split=test"]
    environment = os.environ | {"CML_JAX_CACHE": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"picture: {tmp_path / 'episode.png'}\n"
    with Image.open(tmp_path / "episode.png") as picture:
        assert picture.width > 300
    command[-2] = f"--picture={tmp_path / 'missing' / 'episode.png'}"
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
