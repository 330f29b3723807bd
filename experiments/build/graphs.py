"""Node classification from a config: the graph, its tasks, networks and methods."""

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cml_jax import models, tasks
from cml_jax.graphs.block_graph import block_graph
from cml_jax.graphs.graph import Graph
from cml_jax.graphs.subgraphs import Subgraphs, subgraphs, subgraphs_of
from cml_jax.methods.amm_gnn import amm_gnn, attribute_sets
from cml_jax.methods.prepared_inputs import with_prepared_inputs
from cml_jax.tasks.nodes import Members, members
from experiments.settings.config import SPLITS, ConfigError


class OnGraph(NamedTuple):
    """The data of one split.

    Attributes:
      graph: the same in all splits.
      subgraphs: of every node, for model.name=gmeta; None for others.
      members: the nodes of the split's classes.
    """

    graph: Graph
    subgraphs: Subgraphs | None
    members: Members


def node_tasks(config, at_least: int):
    """The sampler, the data of each split, the hash of graph and class split, and `facts`.

    Args:
      config: the run's.
      at_least: nodes that a class must have to be used.

    Raises:
      ConfigError, ValueError: the graph, its classes and the config do not fit.
    """
    graph, split = _load(config.data, at_least)
    _check_classes(config.data, graph.labels, split)
    about, digest = facts(graph, split), _digest(graph, split)
    labels = graph.labels  # NumPy's: what follows makes `graph` one of jax arrays
    table = None
    if config.model.name == "gmeta":
        caps = config.model.subgraph_nodes, config.model.subgraph_neighbours
        table = subgraphs(graph, nodes=caps[0], neighbours=caps[1])
    graph, table = jax.tree.map(jnp.asarray, (graph, table))  # on the device once
    data = {
        part: OnGraph(graph, table, members(labels, getattr(split, part), at_least))
        for part in SPLITS
    }

    def draw(key, data, **shape):
        task = tasks.nodes(key, data.members, ways=config.data.ways, **shape)
        if config.model.name == "amm_gnn":
            return attribute_sets(jax.random.fold_in(key, 1), task)
        return task

    return draw, data, digest, about


def _load(config, at_least):
    from cml_jax.data import graphs

    if config.name == "block_graph":
        graph = block_graph(config.split_seed)
    elif config.name == "graph":
        if not Path(config.file).expanduser().is_file():
            raise ConfigError(f"there is no file {config.file}: correct --config.data.file")
        graph = graphs.read_graph(config.file)
    else:
        graph = graphs.load_graph(config.name, config.dir or None)
    if config.split_file:
        return graph, graphs.read_class_split(config.split_file)
    counts = config.classes if any(config.classes) else graphs.CLASS_COUNTS[config.name]
    split = graphs.split_classes(graph.labels, counts, config.split_seed, at_least=at_least)
    return graph, split


def _check_classes(config, labels, split):
    """The split's classes are the graph's, and enough for a task."""
    where = "split_file" if config.split_file else "classes"
    unknown = sorted({c for part in split for c in part} - set(labels.tolist()))
    if unknown:
        raise ConfigError(
            f"data.split_file={config.split_file} names class {unknown[0]}, which no node of the "
            "graph has: correct the file"
        )
    for part, classes in split._asdict().items():
        if len(classes) < config.ways:
            raise ConfigError(
                f"data.ways={config.ways} but the {part} split has {len(classes)} classes: lower "
                f"--config.data.ways, or give it more by --config.data.{where}"
            )


def _digest(graph, split):
    """The first 16 hex digits of a SHA-256: which graph, and which class is where."""
    digest = hashlib.sha256(json.dumps([split, graph.features.shape]).encode())
    stored = graph.adjacency.starts, graph.adjacency.columns, graph.features, graph.labels
    for array in jax.tree.leaves(stored):
        digest.update(f"{array.shape} {array.dtype.str} ".encode())
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()[:16]


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
        "split": {part: list(classes) for part, classes in split._asdict().items()},
    }


def in_words(facts: dict[str, Any]) -> str:
    """`facts` in a line: what a run says when it starts."""
    return (
        "graph: {nodes:,} nodes, {edges:,} edges, {classes} classes; {without_label:,} nodes "
        "without a label, {without_edge:,} without an edge".format(**facts)
    )


def networks(config):
    """From the data to the model; and the co-learners by name."""
    ways, [hidden] = config.data.ways, config.model.hidden
    shape = {"ways": ways, "hidden": hidden}
    dropout = {"dropout": config.model.dropout}
    network = {
        "sgc": lambda data: models.sgc(data.graph, **shape),
        "gcn": lambda data: models.gcn(data.graph, **shape, **dropout),
        "amm_gnn": lambda data: models.gcn(data.graph, **shape, **dropout),
        "gmeta": lambda _: models.gmeta(**shape, **dropout),
    }[config.model.name]
    return network, {
        "linear": partial(models.linear_co_learner, ways),
        "mlp": partial(models.node_co_learner, ways, width=hidden),
    }


def matched(config, problem, **inner):
    """AMM-GNN, of either order."""
    if config.method == "fomaml":
        inner["first_order"] = True
    return amm_gnn(problem.model, problem.model_data.graph, problem.loss, **inner)


def on_subgraphs(config, problem, method):
    """The method on inputs that are node ids, where its network reads their subgraphs."""
    if config.model.name != "gmeta":
        return method
    return with_prepared_inputs(method, partial(subgraphs_of, problem.model_data.subgraphs))
