"""The neighbourhood of every node, cut down to a size that every node's fits in."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cml_jax.ops.graph import Graph


class Subgraphs(NamedTuple):
    """What G-Meta reads of the nodes' subgraphs: arrays that enter a compiled program, once.

    Attributes:
      neighbours: int32 `[n, rows, k]`, for each row of a node's subgraph the nodes whose features
        it adds up; n where there are fewer.
      scales: float32 `[n, rows]`, what that sum is multiplied with.
      weights: float32 `[n, rows]`, how much a row counts in the mean over the second layer.
      features: `[n + 1, F]`, the graph's, dense, and a row of zeros; uint8 where no value is lost.
    """

    neighbours: jax.Array
    scales: jax.Array
    weights: jax.Array
    features: jax.Array


class Subgraph(NamedTuple):
    """The subgraphs of n nodes: `rows` float32 `[n, rows, F]` and `weights` float32 `[n, rows]`."""

    rows: jax.Array
    weights: jax.Array


def subgraphs(
    graph: Graph, *, nodes: int | None = 64, neighbours: int | None = 32, seed: int = 0
) -> Subgraphs:
    """The two-hop subgraph of every node, made on the host.

    S are the nodes at most two edges away, A_S = adjacency[S, S], not normalised again, and

        mean(A_S relu(A_S X_S W1 + b1) W2 + b2) = (c' relu(A_S X_S W1 + b1)) W2 + b2,
        c = A_S' 1 / |S|

    so that all there is to know of a subgraph are the rows of A_S X_S and their weights c. Both
    are exact where S has at most `nodes` nodes and a row at most `neighbours` entries. Of a larger
    S, `nodes` rows are drawn with probabilities p proportional to c (but at most 1) and weighted
    by c / p: the weighted sum keeps its expectation, and the rows that weigh most are always there.
    Of a longer row `neighbours` entries are drawn and their sum is scaled up. A draw is fixed: the
    same node has the same subgraph in every task.

    TLP-FSNC takes all of S, and G-Meta's own code keeps the edges among 1,000 nodes drawn
    uniformly. A drawn node then loses most of its neighbours, which is no small change: the rows
    are not normalised again, so they shrink.

    Args:
      graph: undirected, as `cml_jax.ops.graph.graph` makes it.
      nodes: rows of a subgraph at most; None keeps all.
      neighbours: entries of a row at most; None keeps all.
      seed: of the draws.

    Raises:
      ValueError: a cap is below 1.

    Reference: Huang & Zitnik 2020, https://arxiv.org/abs/2006.07889; the mean over a subgraph:
    https://github.com/Zhen-Tan-dmml/TLP-FSNC.
    """
    n = len(graph.labels)
    nodes, neighbours = (n if cap is None else cap for cap in (nodes, neighbours))
    if min(nodes, neighbours) < 1:
        raise ValueError(f"{nodes=}, {neighbours=}: a subgraph needs at least 1 of each, or None")
    starts, columns = (np.asarray(x) for x in (graph.adjacency.starts, graph.adjacency.columns))
    rng = np.random.default_rng(seed)
    cut = [_cut(starts, columns, v, nodes, neighbours, rng) for v in range(n)]

    size = max(len(weights) for _, weights, _, _ in cut), max(kept.max() for *_, kept, _ in cut)
    table = Subgraphs(
        np.full((n, *size), n, np.int32),
        np.zeros((n, size[0]), np.float32),
        np.zeros((n, size[0]), np.float32),
        _dense(graph),
    )
    for v, (scales, weights, kept, chosen) in enumerate(cut):
        m = len(weights)
        table.scales[v, :m], table.weights[v, :m] = scales, weights
        table.neighbours[v, :m][np.arange(size[1]) < kept[:, None]] = chosen
    return table


def subgraphs_of(table: Subgraphs, nodes: jax.Array) -> Subgraph:
    """The subgraphs of a few nodes. No weight of a network is in them: make them once a task.

    Args:
      table: of all nodes.
      nodes: int32 `[n]`.
    """
    table = jax.tree.map(jnp.asarray, table)
    neighbours, scales = table.neighbours[nodes], table.scales[nodes]

    def add(k, rows):
        return rows + table.features[neighbours[..., k]].astype(scales.dtype)

    # One neighbour of all rows at a time: XLA on CPU is four times slower with all of them at once.
    rows = jnp.zeros((*scales.shape, table.features.shape[1]), scales.dtype)
    rows = jax.lax.fori_loop(0, neighbours.shape[-1], add, rows)
    return Subgraph(scales[..., None] * rows, table.weights[nodes])


def _cut(starts, columns, v, nodes, neighbours, rng):
    """(scales, weights, kept, chosen) of at most `nodes` rows: row i adds up the features of
    `kept[i]` nodes, all of them one after the other in `chosen`."""
    inside = np.zeros(len(starts) - 1, bool)
    near, _ = _rows(starts, columns, np.array([v]))
    inside[_rows(starts, columns, near)[0]] = True
    reached = np.flatnonzero(inside)
    degree = np.diff(starts)
    # Column u of A_S has 1 / degree(i) for the neighbours i of u in S: edges have no direction.
    entries, first = _rows(starts, columns, reached)
    entries = np.where(inside, 1 / degree, 0)[entries]
    weight = np.add.reduceat(entries, first) / len(reached)
    length = np.add.reduceat(entries > 0, first, dtype=np.int32)

    if len(reached) > nodes:
        p = _inclusion(weight, nodes)
        # Drawn at even distances, in an order in which neighbouring rows are alike: by how much of
        # a row is left in S.
        order = np.argsort(length / degree[reached], kind="stable")
        ends = np.floor(np.cumsum(p[order]) + rng.random())
        drawn = order[np.diff(ends, prepend=0) > 0][:nodes]
        reached, length, weight = reached[drawn], length[drawn], weight[drawn] / p[drawn]

    entries, _ = _rows(starts, columns, reached)
    entries = entries[inside[entries]]
    kept = np.minimum(length, neighbours)
    step = length / kept
    # At even distances from a random start; all of them, in order, where the step is 1.
    slot = np.arange(kept.sum()) - np.repeat(np.cumsum(kept) - kept, kept)
    place = (slot + np.repeat(rng.random(len(kept)), kept)) * np.repeat(step, kept)
    place = np.minimum(place.astype(np.int32), np.repeat(length, kept) - 1)
    chosen = entries[np.repeat(np.cumsum(length) - length, kept) + place]
    return step / degree[reached], weight, kept, chosen


def _rows(starts, columns, nodes):
    """The columns of some rows, one row after the other, and where each row starts."""
    lengths = starts[nodes + 1] - starts[nodes]
    ends = np.cumsum(lengths, dtype=np.int32)
    first = ends - lengths
    places = np.arange(ends[-1], dtype=np.int32) + np.repeat(starts[nodes] - first, lengths)
    return columns[places], first


def _inclusion(weight, count):
    """Probabilities proportional to `weight` but at most 1, whose sum is `count`."""
    certain = np.zeros(len(weight), bool)
    while True:
        left = count - certain.sum()
        p = np.where(certain, 1, left * weight / weight[~certain].sum())
        if not (p > 1).any():
            return p
        certain |= p >= 1


def _dense(graph):
    n, num_features = graph.features.shape
    dense = np.zeros((n + 1, num_features), np.float32)
    dense[np.asarray(graph.features.rows), np.asarray(graph.features.columns)] = np.asarray(
        graph.features.values
    )
    small = dense.astype(np.uint8, casting="unsafe")
    return small if (small == dense).all() else dense
