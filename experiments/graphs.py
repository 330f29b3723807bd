"""Node classification from a config: the graph, its tasks, networks and methods."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cml_jax import models, tasks
from cml_jax.methods.amm_gnn import amm_gnn, attribute_sets
from cml_jax.methods.prepared import prepared
from cml_jax.ops.graph import Graph
from cml_jax.ops.subgraphs import Subgraphs, subgraphs, subgraphs_of
from cml_jax.tasks.block_graph import block_graph
from cml_jax.tasks.nodes import Members, members
from experiments.config import SPLITS


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
    """The sampler, the data of each split, and the hash of the class split.

    Args:
      config: the run's.
      at_least: nodes that a class must have to be used.
    """
    graph, split = _load(config.data, at_least)
    labels = graph.labels
    table = None
    if config.model.name == "gmeta":
        table = subgraphs(graph, nodes=config.model.subgraph_nodes)
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

    return draw, data, split.hash()


def _load(config, at_least):
    from cml_jax.data import graphs

    if config.name == "block_graph":
        graph = block_graph(config.split_seed)
    else:
        graph = graphs.load_graph(config.file or config.name, config.dir or None)
    if config.split_file:
        return graph, graphs.read_class_split(config.split_file)
    counts = config.classes if any(config.classes) else graphs.CLASS_COUNTS[config.name]
    split = graphs.split_classes(graph.labels, counts, config.split_seed, at_least=at_least)
    return graph, split


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
    return amm_gnn(problem.model, problem.stands_on.graph, problem.loss, **inner)


def on_subgraphs(config, problem, method):
    """The method on inputs that are node ids, where its network reads their subgraphs."""
    if config.model.name != "gmeta":
        return method
    return prepared(method, partial(subgraphs_of, problem.stands_on.subgraphs))
