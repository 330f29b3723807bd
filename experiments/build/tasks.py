"""Task samplers from settings, one function for each kind of data."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax

from cml_jax import tasks
from cml_jax.data.types import Images
from cml_jax.tasks import augment
from cml_jax.tasks.episodes import drawn_episode
from cml_jax.tasks.members import Drawn, Members, check_counts
from cml_jax.types import Task
from experiments.build.nodes import SPLITS, in_words, node_tasks
from experiments.build.resolve import call, resolve
from experiments.choices.data_sets import DataSet
from experiments.choices.key import ConfigError
from experiments.choices.methods import METHODS

Settings = Mapping[str, Any]


class Source(NamedTuple):
    """Where tasks come from.

    Attributes:
      train_sample, test_sample: `(key, data[split]) -> Task`; the second is validation's too.
      data: A split ("train", "validation", "test") to arrays, or to None.
      split_hash: Of the class lists, and of a graph; "" where tasks are procedural.
      facts: What results.json says of the data, under "graph" or "images"; {} is nothing.
      description: What is said of the data when a run starts.
      class_names: `(key, split) -> names`, of the classes of the task that the key draws, or None.
      draw: `(key, members, split) -> Drawn`, which images the key's task has; None where tasks are
        not of images.
      curve: `(key, x [n, 1]) -> y [n, 1]`, the truth behind a regression task, or None.
      train_classes: How many classes training tasks have, where it is not their ways.
    """

    train_sample: Callable[[jax.Array, Any], Task]
    test_sample: Callable[[jax.Array, Any], Task]
    data: dict[str, Any]
    split_hash: str = ""
    facts: Mapping[str, Any] = {}
    description: str = ""
    class_names: Callable[[jax.Array, str], list[str]] | None = None
    draw: Callable[[jax.Array, Members, str], Drawn] | None = None
    curve: Callable[[jax.Array, jax.Array], jax.Array] | None = None
    train_classes: int = 0


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
    train, test = _shapes(settings)
    shapes = dict(zip(SPLITS, (train, test, test), strict=True))
    own = {name: settings[f"data.{name}"] for name in row.keys}
    own |= {
        "data_dir": settings["data.dir"] or None,
        "at_least": max(sum(shape.values()) for shape in shapes.values()),
    }
    splits = call(resolve(row.load), own)
    rotations = own.get("rotations", False)
    sample = partial(tasks.episodes, ways=settings["data.ways"], rotations=rotations)
    all_classes = METHODS[settings["method"]].all_classes
    train_sample = partial(_minibatch, settings["data.ways"], rotations) if all_classes else sample
    train_sample, test_sample = partial(_changed, train_sample, _changes(settings)), sample
    if settings["data.normalize"]:
        scale = augment.channel_statistics(splits.train.pixels)
        train_sample = partial(_normalized, train_sample, scale)
        test_sample = partial(_normalized, test_sample, scale)
    ways = settings["data.ways"]
    for split, shape in shapes.items():
        names = getattr(splits.classes, split)
        if len(names) * (4 if rotations else 1) < ways:
            more = ", or give it more by --config.data.classes" if "classes" in own else ""
            raise ConfigError(
                f"data.ways={ways} but the {split} split has {len(names)} classes: lower "
                f"--config.data.ways{more}"
            )
        check_counts(splits.split(split).members.counts, names, sum(shape.values()))

    def draw(key, members, split):
        return drawn_episode(key, members, ways=ways, rotations=rotations, **shapes[split])

    return Source(
        partial(train_sample, **train),
        partial(test_sample, **test),
        {split: getattr(splits, split) for split in SPLITS},
        splits.split_hash,
        {"images": image_facts(splits)},
        _images_in_words(splits),
        partial(_class_names, splits, jax.jit(draw, static_argnames="split")),
        None if all_classes else draw,
        train_classes=len(splits.classes.train) * (4 if rotations else 1) if all_classes else 0,
    )


def nodes(row: DataSet, settings: Settings, needs: str = "") -> Source:
    """Episodes of classes of a graph's nodes."""
    train, test = _shapes(settings)
    at_least = max(sum(train.values()), sum(test.values()))
    sample, data, split_hash, facts = node_tasks(row, settings, needs, at_least)
    train, test = partial(sample, **train, noise=True), partial(sample, **test)
    return Source(train, test, data, split_hash, {"graph": facts}, in_words(facts))


def _minibatch(ways, rotations, key, data, *, shots, queries):
    """As many images as a task's queries are, of all classes, as a task without a support set."""
    del shots
    batch = tasks.minibatch(key, data, size=ways * queries, rotations=rotations)
    return Task(batch, batch)  # the first is not read


def _class_names(splits, draw, key, split):
    """Names of the classes that a task has, with the turn where turns are classes."""
    names, drawn = (
        getattr(splits.classes, split),
        draw(key, splits.split(split).members, split=split),
    )
    turned = ["" if not turn else f", turned {90 * turn}°" for turn in drawn.copies.tolist()]
    return [names[i] + turn for i, turn in zip(drawn.classes.tolist(), turned, strict=True)]


def image_facts(images: Images) -> dict[str, Any]:
    """What results.json says of a set of images."""
    _, *shape = images.pixels.shape
    counts = images.members.counts
    return {
        "number": int(counts.sum()),
        "shape": shape,
        "classes": [len(part) for part in images.classes],
        "smallest_class": int(counts.min()),
        "largest_class": int(counts.max()),
        **images.notes,
    }


def _images_in_words(images: Images) -> str:
    facts = image_facts(images)
    line = (
        "images: {number:,} of {height} x {width}, {classes} classes of {smallest_class} to "
        "{largest_class}"
    ).format(
        height=facts["shape"][0],
        width=facts["shape"][1],
        **facts | {"classes": " / ".join(map(str, facts["classes"]))},
    )
    twice = {
        where: count
        for where in ("two classes", "two splits")
        if (count := facts.get(f"identical_in_{where.replace(' ', '_')}"))
    }
    if twice:
        line += "; identical images in " + ", ".join(f"{w}: {n}" for w, n in twice.items())
    return line


def _changes(settings):
    """What is done to the images of training tasks, `(key, images) -> images` each."""
    changes = [augment.flip] if settings["data.flip"] else []
    if pixels := settings["data.shift"]:
        changes.append(partial(augment.shift, pixels=pixels))
    if strength := settings["data.recolor"]:
        changes.append(partial(augment.recolor, strength=strength))
    return changes


def _changed(sample, changes, key, data, **shape):
    """A task with changed images; classes and images are those that the key draws without it."""
    task = sample(key, data, **shape)
    for i, change in enumerate(changes):
        task = augment.with_images(change, jax.random.fold_in(key, i), task)
    return task


def _normalized(sample, scale, key, data, **shape):
    task = sample(key, data, **shape)
    return augment.with_images(lambda _, images: augment.normalize(images, *scale), key, task)


def _shapes(settings):
    """Examples of a class in a training task and in a test task."""
    shots = settings["data.shots"]
    return (
        {"shots": settings["data.train_shots"] or shots, "queries": settings["data.queries"]},
        {"shots": shots, "queries": settings["eval.queries"]},
    )
