"""The neighbourhood of every node, cut down to a size that every node's fits in."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cml_jax.graphs.graph import Graph

_MAX_ENTRIES = 1 << 30  # of the table of all nodes


class Subgraphs(NamedTuple):
    """What G-Meta reads of the nodes' subgraphs: arrays that enter a compiled program, once.

    Attributes:
      neighbours: int32 `[n, rows, k]`, for each row of a node's subgraph the nodes whose features
        it adds up; n where there are fewer.
      scales: float32 `[n, rows]`, what that sum is multiplied with.
      weights: float32 `[n, rows]`, how much a row counts in the mean over the second layer.
      features: `[n + 1, F]`, the graph's, dense, and a row of zeros; uint8 where no value is lost.
    """

    neighbours: jax.Array | np.ndarray
    scales: jax.Array | np.ndarray
    weights: jax.Array | np.ndarray
    features: jax.Array | np.ndarray


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
    Of a longer row `neighbours` entries are drawn and their sum is scaled up: the row keeps its
    expectation, but what the ReLU makes of it does not. A draw is fixed: the same node has the same
    subgraph in every task.

    TLP-FSNC takes all of S, and G-Meta's own code keeps the edges among 1,000 nodes drawn
    uniformly. A drawn node then loses most of its neighbours, which is no small change: the rows
    are not normalised again, so they shrink.

    Args:
      graph: undirected, as `cml_jax.graphs.graph.graph` makes it.
      nodes: rows of a subgraph at most; None keeps all.
      neighbours: entries of a row at most; None keeps all.
      seed: of the draws.

    Raises:
      ValueError: a cap is below 1, or too high for so large a graph.

    Reference: Huang & Zitnik 2020, https://arxiv.org/abs/2006.07889; the mean over a subgraph:
    https://github.com/Zhen-Tan-dmml/TLP-FSNC.
    """
    n = len(graph.labels)
    nodes, neighbours = (n if cap is None else cap for cap in (nodes, neighbours))
    if min(nodes, neighbours) < 1:
        raise ValueError(f"{nodes=}, {neighbours=}: a subgraph needs at least 1 of each, or None")
    starts, columns = (np.asarray(x) for x in (graph.adjacency.starts, graph.adjacency.columns))
    degree = np.diff(starts)
    edges = _Edges(starts, columns, degree, np.zeros(n, bool), np.zeros(n))
    _check_size(edges, nodes, neighbours)
    rng = np.random.default_rng(seed)
    cut = [_cut(edges, v, nodes, neighbours, rng) for v in range(n)]

    size = max(len(rows.weights) for rows in cut), max(rows.lengths.max() for rows in cut)
    table = Subgraphs(
        np.full((n, *size), n, np.int32),
        np.zeros((n, size[0]), np.float32),
        np.zeros((n, size[0]), np.float32),
        _dense(graph),
    )
    for v, rows in enumerate(cut):
        m = len(rows.weights)
        table.scales[v, :m], table.weights[v, :m] = rows.scales, rows.weights
        filled = np.arange(size[1]) < rows.lengths[:, None]
        table.neighbours[v, :m][filled] = rows.neighbours
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


def _check_size(edges, nodes, neighbours):
    """Before the work: the table may not have more than 2^30 entries, 4 GB."""
    n = len(edges.degree)
    two_hops = np.add.reduceat(edges.degree[edges.columns], edges.starts[:-1], dtype=np.int64)
    rows, longest = min(nodes, n, two_hops.max()), min(neighbours, edges.degree.max())
    if n * int(rows) * int(longest) > _MAX_ENTRIES:
        raise ValueError(
            f"{n} subgraphs of {rows} rows of {longest} neighbours are over {_MAX_ENTRIES} "
            "entries: lower nodes or neighbours, as to 32 and 16"
        )


class _Edges(NamedTuple):
    """A graph by rows, and room for a node's subgraph: both arrays are 0 between two nodes."""

    starts: np.ndarray
    columns: np.ndarray
    degree: np.ndarray
    inside: np.ndarray
    share: np.ndarray


class _Rows(NamedTuple):
    """The rows of one subgraph, as `Subgraphs` has them; the neighbours of all stand one after
    the other, `lengths` of them each."""

    scales: np.ndarray
    weights: np.ndarray
    lengths: np.ndarray
    neighbours: np.ndarray


def _cut(edges, v, nodes, neighbours, rng):
    """The `_Rows` of v: at most `nodes`, each of at most `neighbours`."""
    rows = reached = _reached(edges, v)
    edges.share[reached] = 1 / edges.degree[reached]
    weights, lengths = _weights(edges, reached)
    if len(reached) > nodes:
        left = lengths / edges.degree[reached]
        drawn, p = _draw_rows(weights, left, nodes, rng)
        rows, lengths, weights = rows[drawn], lengths[drawn], weights[drawn] / p[drawn]
    entries, _ = _entries(edges, rows)
    entries = entries[edges.share[entries] > 0]
    edges.share[reached] = 0
    kept = np.minimum(lengths, neighbours)
    chosen = entries[_draw_neighbours(lengths, kept, rng)]
    return _Rows(lengths / kept / edges.degree[rows], weights, kept, chosen)


def _reached(edges, v):
    """The nodes at most two edges from v, sorted."""
    near, _ = _entries(edges, np.array([v]))
    edges.inside[_entries(edges, near)[0]] = True
    # A look at every node, a byte each: for up to a million it costs less than sorting.
    reached = np.flatnonzero(edges.inside)
    edges.inside[reached] = False
    return reached


def _weights(edges, reached):
    """c of each row of A_S, and how many entries the row has."""
    # Column u of A_S has 1 / degree(i) for the neighbours i of u in S: edges have no direction.
    entries, first = _entries(edges, reached)
    shares = edges.share[entries]
    lengths = np.add.reduceat(shares > 0, first, dtype=np.int32)
    return np.add.reduceat(shares, first) / len(reached), lengths


def _draw_rows(weights, left, count, rng):
    """Which rows, and the probability of each: proportional to weight, at most 1."""
    p = _inclusion(weights, count)
    # In an order in which neighbouring rows are alike: by how much of a row is left in S.
    order = np.argsort(left, kind="stable")
    return order[_systematic(p[order], rng)][:count], p


def _systematic(p, rng):
    """One where the running sum of probabilities, from a random start, passes a whole number."""
    ends = np.floor(np.cumsum(p) + rng.random())
    return np.diff(ends, prepend=0) > 0


def _draw_neighbours(lengths, kept, rng):
    """Places of `kept` entries of each row, at even distances from a random start; all of them, in
    order, where all are kept. Rows stand one after the other."""
    slot = np.arange(kept.sum()) - np.repeat(np.cumsum(kept) - kept, kept)
    place = (slot + np.repeat(rng.random(len(kept)), kept)) * np.repeat(lengths / kept, kept)
    place = np.minimum(place.astype(np.int32), np.repeat(lengths, kept) - 1)
    return np.repeat(np.cumsum(lengths) - lengths, kept) + place


def _entries(edges, nodes):
    """The columns of some rows, one row after the other, and where each row starts."""
    starts = edges.starts[nodes]
    lengths = edges.degree[nodes]
    ends = np.cumsum(lengths, dtype=np.int32)
    first = ends - lengths
    places = np.arange(ends[-1], dtype=np.int32) + np.repeat(starts - first, lengths)
    return edges.columns[places], first


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
