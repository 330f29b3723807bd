"""Task samplers from settings, one function for each kind of data."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cml_jax import tasks
from cml_jax.tasks.members import check_counts
from cml_jax.types import Task
from experiments.build.nodes import SPLITS, node_tasks
from experiments.build.resolve import call, resolve
from experiments.choices.data_sets import DataSet

Settings = Mapping[str, Any]


class Source(NamedTuple):
    """Where tasks come from.

    Attributes:
      train_sample, test_sample: `(key, data[split]) -> Task`; the second is validation's too.
      data: A split ("train", "validation", "test") to arrays, or to None.
      split_hash: Of the class lists, and of a graph; "" where tasks are procedural.
      facts: What is to be said of a graph, or None.
      curve: `(key, x [n, 1]) -> y [n, 1]`, the truth behind a regression task, or None.
    """

    train_sample: Callable[[jax.Array, Any], Task]
    test_sample: Callable[[jax.Array, Any], Task]
    data: dict[str, Any]
    split_hash: str = ""
    facts: dict[str, Any] | None = None
    curve: Callable[[jax.Array, jax.Array], jax.Array] | None = None


def procedure(row: DataSet, settings: Settings, needs: str = "") -> Source:
    """Tasks that are made up from a key: nothing is read."""
    del needs
    own = {name: settings[f"data.{name}"] for name in row.keys}
    sample = partial(resolve(row.load), **own)
    curve = partial(resolve(row.curve), **own) if row.curve else None
    train, test = _shapes(settings)
    return Source(
        lambda key, _: sample(key, **train),
        lambda key, _: sample(key, **test),
        dict.fromkeys(SPLITS),
        curve=curve,
    )


def images(row: DataSet, settings: Settings, needs: str = "") -> Source:
    """Episodes of classes of images."""
    del needs
    own = {name: settings[f"data.{name}"] for name in row.keys}
    splits = call(resolve(row.load), own | {"data_dir": settings["data.dir"] or None})
    rotations = settings["data.rotations"] if "rotations" in row.keys else False
    sample = partial(tasks.episodes, ways=settings["data.ways"], rotations=rotations)
    if row.mean:
        sample = partial(_normalized, sample, row.mean, row.deviation)
    train, test = _shapes(settings)
    for split, shape in zip(SPLITS, (train, test, test), strict=True):
        names = getattr(splits.classes, split)
        check_counts(splits.split(split).members.counts, names, sum(shape.values()))
    return Source(
        partial(sample, **train),
        partial(sample, **test),
        {split: getattr(splits, split) for split in SPLITS},
        splits.split_hash,
    )


def nodes(row: DataSet, settings: Settings, needs: str = "") -> Source:
    """Episodes of classes of a graph's nodes."""
    train, test = _shapes(settings)
    at_least = max(sum(train.values()), sum(test.values()))
    sample, data, split_hash, facts = node_tasks(row, settings, needs, at_least)
    return Source(
        partial(sample, **train, noise=True), partial(sample, **test), data, split_hash, facts
    )


def _normalized(sample, mean, deviation, key, data, **shape):
    """A task whose images have each channel's mean taken away and are divided by its deviation."""

    def normalize(images):
        shift, scale = (jnp.array(x, images.dtype)[None, None, None] for x in (mean, deviation))
        return (images - shift) / scale

    task = sample(key, data, **shape)
    return Task(*(part._replace(inputs=normalize(part.inputs)) for part in task))


def _shapes(settings):
    """Examples of a class in a training task and in a test task."""
    shots = settings["data.shots"]
    return (
        {"shots": settings["data.train_shots"] or shots, "queries": settings["data.queries"]},
        {"shots": shots, "queries": settings["eval.queries"]},
    )
