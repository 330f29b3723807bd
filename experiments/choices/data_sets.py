"""Data sets by name. A new one is a loader in `cml_jax.data` and a row here."""

from typing import NamedTuple

from experiments.choices.key import Key, choice


class DataSet(NamedTuple):
    """What the program knows of a data set.

    Attributes:
      load: "module:function". Of images: `(data_dir, ...) -> cml_jax.data.Images`, where "..." are
        any of `keys`; of a graph: `(settings) -> Graph`; of a procedure, which needs no files, the
        sampler itself.
      tasks: Which function of `experiments.build.tasks` makes tasks of it: "images", "nodes" or
        "procedure".
      gives: What a network reads: "images", "points" or "nodes".
      targets: "classes" or "values": which losses and metrics fit.
      loss, metric: What `loss=auto` and `metric=auto` stand for.
      keys: The settings `data.NAME` that it reads, beside `shots`, `train_shots` and `queries`.
      class_counts: How many classes of a graph are for training, validation and test; None asks
        the user.
      curve: "module:function" that gives the truth behind a regression task, for pictures.
    """

    load: str
    tasks: str
    gives: str
    targets: str
    loss: str
    metric: str
    keys: dict[str, Key]
    class_counts: tuple[int, int, int] | None = None
    curve: str = ""


_WAYS = {"ways": Key(5, (2, 10_000), "classes in a task")}
_FILES = {"dir": Key("", None, "folder of the data set's files")}
# What may be done to the features of a graph's nodes: "module:function" from graph to graph.
FEATURES = {
    "scaled": "cml_jax.graphs:scale_features",
    "stored": "experiments.build.nodes:as_stored",
    "normalized": "cml_jax.graphs:normalize_features",
}
_SIZE = Key(0, (0, 512), "of images, in pixels; 0: the data set's own (folder: 84)")
_AUGMENTATION = {
    "normalize": Key(False, None, "by each channel's mean and deviation over the training images"),
    "flip": Key(False, None, "in training, mirror half of the images left to right"),
    "shift": Key(0, (0, 512), "in training, shift each image by up to so many pixels"),
    "recolor": Key(0.0, (0.0, 1.0), "in training, change brightness, contrast and saturation"),
}
_CLASSES = {
    "classes": Key(
        (0, 0, 0),
        (0, 10_000),
        "training, validation, test classes; 0s: the data's own",
        length=3,
    ),
    "split_file": Key("", None, "JSON (images: or CSV) of each split's classes"),
    "split_seed": Key(0, (0, 2**31 - 1), "draws which classes are where, and the block graph"),
    "features": choice(
        "scaled",
        FEATURES,
        "of nodes: stored; scaled, divided by one number so that rows sum to 32 at most in the "
        "mean; or normalized, each row divided by its sum",
    ),
}


def _images(load: str, **keys: Key) -> DataSet:
    own = _WAYS | _FILES | _AUGMENTATION | keys
    return DataSet(load, "images", "images", "classes", "cross_entropy", "accuracy", own)


def _graph(load: str, class_counts: tuple[int, int, int] | None, **keys: Key) -> DataSet:
    kind = ("nodes", "nodes", "classes", "cross_entropy", "accuracy")
    return DataSet(load, *kind, _WAYS | keys | _CLASSES, class_counts)


_KNOWN_GRAPH = "experiments.build.nodes:known_graph"

DATA_SETS = {
    "glyphs": DataSet(
        "cml_jax.tasks:glyphs", "procedure", "images", "classes", "cross_entropy", "accuracy", _WAYS
    ),
    "omniglot": _images(
        "cml_jax.data:load_omniglot",
        rotations=Key(True, None, "each 90-degree rotation is a training class of its own"),
    ),
    "mini_imagenet": _images("cml_jax.data:load_mini_imagenet", size=_SIZE),
    "cifar_fs": _images("cml_jax.data:load_cifar_fs"),
    "fc100": _images("cml_jax.data:load_fc100"),
    "vgg_flower": _images("cml_jax.data:load_vgg_flower", size=_SIZE),
    "folder": _images(
        "cml_jax.data:load_folder",
        size=_SIZE,
        channels=Key(3, (1, 3), "3: colour, 1: grey"),
        fit=Key("squash", ("squash", "crop"), "to a square: squashed, or the middle cut out"),
        split_file=_CLASSES["split_file"],
        classes=_CLASSES["classes"],
        split_seed=_CLASSES["split_seed"],
    ),
    "sinusoid": DataSet(
        "cml_jax.tasks:sinusoid",
        "procedure",
        "points",
        "values",
        "squared_error",
        "mse",
        {
            "amplitude": Key((0.1, 5.0), (0.0, 1e6), "lowest and highest", length=2),
            "phase": Key((0.0, 3.14159265), (-1e6, 1e6), "lowest and highest", length=2),
        },
        curve="cml_jax.tasks:sinusoid_curve",
    ),
    "block_graph": _graph("experiments.build.nodes:made_graph", (16, 7, 7)),
    "citeseer": _graph(_KNOWN_GRAPH, (2, 2, 2), **_FILES),
    "cora": _graph(_KNOWN_GRAPH, (3, 2, 2), **_FILES),
    "amazon_computer": _graph(_KNOWN_GRAPH, (4, 3, 3), **_FILES),
    "cora_full": _graph(_KNOWN_GRAPH, (40, 15, 15), **_FILES),
    "graph": _graph(
        "experiments.build.nodes:graph_of_file",
        None,
        file=Key("", None, "path of the graph's npz"),
    ),
}
