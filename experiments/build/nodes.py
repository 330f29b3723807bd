"""Nodes of a graph: the graph, its class split, and what networks need beside node ids."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cml_jax import tasks
from cml_jax.data import graphs
from cml_jax.data.arrays import cached_arrays
from cml_jax.graphs.block_graph import block_graph
from cml_jax.graphs.graph import Graph, feature_scale
from cml_jax.graphs.subgraphs import Subgraphs, subgraphs, subgraphs_of
from cml_jax.methods.amm_gnn import attribute_sets
from cml_jax.methods.prepared_inputs import with_prepared_inputs
from cml_jax.tasks.members import Members, members
from cml_jax.types import Method
from experiments.build.resolve import resolve
from experiments.choices.data_sets import FEATURES, DataSet
from experiments.choices.key import ConfigError

SPLITS = ("train", "validation", "test")


class OnGraph(NamedTuple):
    """The data of one split.

    Attributes:
      graph: The same in all splits.
      subgraphs: Of every node, where the network reads them, else None.
      members: The nodes of the split's classes.
    """

    graph: Graph
    subgraphs: Subgraphs | None
    members: Members


def known_graph(settings: Mapping[str, Any]) -> Graph:
    """A graph that the library knows by its name."""
    return graphs.load_graph(settings["data.name"], settings["data.dir"] or None)


def made_graph(settings: Mapping[str, Any]) -> Graph:
    """A stochastic block model: nothing to download."""
    return block_graph(settings["data.split_seed"])


def graph_of_file(settings: Mapping[str, Any]) -> Graph:
    """A graph of the user's own.

    Raises:
      ConfigError: There is no such file.
    """
    path = settings["data.file"]
    if not os.path.isfile(os.path.expanduser(path)):
        raise ConfigError(f"there is no file {path}: correct --config.data.file")
    return graphs.read_graph(path)


def node_tasks(row: DataSet, settings: Mapping[str, Any], needs: str, at_least: int):
    """The tasks of a graph.

    Args:
      row: Row of the data set.
      settings: Values by dotted names.
      needs: What the network needs beside node ids, as in `choices.networks.Network`.
      at_least: How many nodes a class must have to be used.

    Returns:
      The sampler, the data of each split, the hash of graph and class split, and `facts`.

    Raises:
      ConfigError, ValueError: The graph, its classes and the settings do not fit.
    """
    graph = resolve(row.load)(settings)
    graph = resolve(FEATURES[settings["data.features"]])(graph)
    split = _split(row, settings, graph.labels, at_least)
    about = facts(graph, split)
    stored = graph.adjacency.starts, graph.adjacency.columns, graph.features, graph.labels
    split_hash = digest([split, graph.features.shape], jax.tree.leaves(stored))
    labels = graph.labels  # NumPy's: what follows makes `graph` one of jax arrays
    table = None
    if needs == "subgraphs":
        caps = {name: settings[f"model.subgraph_{name}"] for name in ("nodes", "neighbours")}
        source = digest([caps, graph.features.shape], jax.tree.leaves(stored))
        made = cached_arrays("subgraphs-v2", source, lambda: subgraphs(graph, **caps)._asdict())
        table = Subgraphs(**made)
    graph, table = jax.tree.map(jnp.asarray, (graph, table))  # on the device once
    data = {
        part: OnGraph(graph, table, members(labels, getattr(split, part), at_least))
        for part in SPLITS
    }
    ways = settings["data.ways"]

    def draw(key, data, **shape):
        task = tasks.nodes(key, data.members, ways=ways, **shape)
        if needs == "attribute_sets":
            return attribute_sets(jax.random.fold_in(key, 1), task)
        return task

    return draw, data, split_hash, about


def on_subgraphs(data: OnGraph) -> Callable[[Method], Method]:
    """From a method on subgraphs to one on node ids."""
    prepare = partial(subgraphs_of, data.subgraphs)
    return lambda method: with_prepared_inputs(method, prepare)


def as_stored(graph: Graph) -> Graph:
    """Features as they are."""
    return graph


def _split(row, settings, labels, at_least):
    """The classes of each split, checked: the graph has them, and they suffice for a task."""
    file, ways = settings["data.split_file"], settings["data.ways"]
    if file:
        split = graphs.read_class_split(file)
    else:
        counts = settings["data.classes"]
        counts = counts if any(counts) else row.class_counts
        seed = settings["data.split_seed"]
        split = graphs.split_classes(labels, counts, seed, at_least=at_least)
    unknown = sorted({c for part in split for c in part} - set(labels.tolist()))
    if unknown:
        raise ConfigError(
            f"data.split_file={file} names class {unknown[0]}, which no node of the graph has: "
            "correct the file"
        )
    for part, classes in split._asdict().items():
        if len(classes) < ways:
            raise ConfigError(
                f"data.ways={ways} but the {part} split has {len(classes)} classes: lower "
                "--config.data.ways, or give it more by "
                f"--config.data.{'split_file' if file else 'classes'}"
            )
    return split


def digest(about: Any, arrays: Iterable[Any]) -> str:
    """The first 16 hex digits of a SHA-256 of arrays, with their shapes and dtypes.

    Args:
      about: A JSON value that belongs to them; None adds nothing.
      arrays: Arrays of any kind.
    """
    state = hashlib.sha256(b"" if about is None else json.dumps(about).encode())
    for array in map(np.asarray, arrays):
        state.update(f"{array.shape} {array.dtype.str} ".encode())
        state.update(np.ascontiguousarray(array))
    return state.hexdigest()[:16]


def facts(graph: Graph, split) -> dict[str, Any]:
    """What results.json says of a graph: its sizes, and the classes of each split."""
    n, starts = len(graph.labels), graph.adjacency.starts
    known = graph.labels[graph.labels >= 0]
    return {
        "nodes": n,
        "edges": (int(starts[-1]) - n) // 2,
        "features": graph.features.shape[1],
        "classes": len(np.unique(known)),
        "without_label": n - len(known),
        "without_edge": int((np.diff(starts) == 1).sum()),
        "feature_scale": feature_scale(graph),
        "split": {part: list(classes) for part, classes in split._asdict().items()},
    }


def in_words(facts: dict[str, Any]) -> str:
    """`facts` in a line: what a run says when it starts."""
    return (
        "graph: {nodes:,} nodes, {edges:,} edges, {classes} classes; {without_label:,} nodes "
        "without a label, {without_edge:,} without an edge; features {feature_scale[min]:g} to "
        "{feature_scale[max]:g}, {feature_scale[mean_row_sum]:.3g} in sum".format(**facts)
    )
