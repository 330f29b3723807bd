"""The neighbourhood of each node, cut down to a size that is the same for all nodes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cml_jax.graphs.graph import Graph

_MAX_ENTRIES = 1 << 30  # of the table of all nodes


class Subgraphs(NamedTuple):
    """What G-Meta reads of the subgraphs of all nodes: arrays that enter a compiled program, once.

    Attributes:
      neighbours: The nodes whose features each row of a node's subgraph adds up, int32
        `[n, rows, k]`; n where there are fewer than k.
      scales: The factor of each of these sums, float32 `[n, rows]`.
      weights: The weight of each row in the mean over the second layer, float32 `[n, rows]`.
      features: The features of the graph, dense, and a row of zeros, `[n + 1, F]`; uint8 where no
        value is lost, else float32.
    """

    neighbours: jax.Array | np.ndarray
    scales: jax.Array | np.ndarray
    weights: jax.Array | np.ndarray
    features: jax.Array | np.ndarray


class Subgraph(NamedTuple):
    """The subgraphs of n nodes.

    Attributes:
      rows: The averaged features of each node of a subgraph, float32 `[n, rows, F]`.
      weights: The weight of each of these rows, float32 `[n, rows]`.
    """

    rows: jax.Array
    weights: jax.Array


def subgraphs(
    graph: Graph, *, nodes: int | None = 64, neighbours: int | None = 32, seed: int = 0
) -> Subgraphs:
    """Makes the two-hop subgraph of every node, on the host.

    S are the nodes at most two edges away, A_S = adjacency[S, S], which is not normalised again,
    and

        mean(A_S relu(A_S X_S W1 + b1) W2 + b2) = (c' relu(A_S X_S W1 + b1)) W2 + b2,
        c = A_S' 1 / |S|

    so that the rows of A_S X_S and their weights c are all that a network reads of a subgraph. Both
    are exact where S has at most `nodes` nodes and a row has at most `neighbours` entries. From a
    larger S, `nodes` rows are drawn with probabilities p proportional to c (but at most 1) and
    weighted by c / p: the weighted sum keeps its expectation, and the rows of the largest weights
    are always there. From a longer row, `neighbours` entries are drawn and their sum is scaled up:
    the row keeps its expectation, but its ReLU does not. The draws are made once: a node has the
    same subgraph in every task.

    TLP-FSNC takes all of S. G-Meta's own code keeps the edges among 1,000 nodes drawn uniformly, so
    that a drawn node loses most of its neighbours; since its rows are not normalised again, they
    shrink.

    Args:
      graph: An undirected graph, as `cml_jax.graphs.graph` makes it.
      nodes: The largest number of rows in a subgraph; None keeps all.
      neighbours: The largest number of entries in a row; None keeps all.
      seed: The seed of the draws.

    Returns:
      The subgraphs of all nodes, whose arrays are NumPy's.

    Raises:
      ValueError: When a cap is below 1, or too high for a graph of this size.

    Reference: Huang & Zitnik 2020, https://arxiv.org/abs/2006.07889; the mean over a subgraph:
    https://github.com/Zhen-Tan-dmml/TLP-FSNC.
    """
    n = len(graph.labels)
    nodes, neighbours = (n if cap is None else cap for cap in (nodes, neighbours))
    if min(nodes, neighbours) < 1:
        raise ValueError(f"{nodes=}, {neighbours=}: a subgraph needs at least 1 of each, or None")
    edges = _edges(graph)
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
    """The subgraphs of some nodes. No weight of a network is in them: make them once for each task.

    Args:
      table: The subgraphs of all nodes.
      nodes: The nodes, int32 `[n]`.

    Returns:
      The subgraphs of these nodes, in their order.
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
    """Refuses a table of more than 2^30 entries, 4 GB, before it is computed."""
    n = len(edges.degree)
    two_hops = (edges.adjacent @ edges.degree.astype(float)).max()
    rows, longest = min(nodes, n, int(two_hops)), min(neighbours, int(edges.degree.max()))
    if n * rows * longest > _MAX_ENTRIES:
        raise ValueError(
            f"{n} subgraphs of {rows} rows of {longest} neighbours are over {_MAX_ENTRIES} "
            "entries: lower nodes or neighbours, for example to 32 and 16"
        )


class _Edges(NamedTuple):
    """A graph by rows, on the host.

    Attributes:
      adjacent: A + I, a SciPy array of float32 in rows; its product with a vector reads each entry
        once.
      degree: The number of entries of each row.
      shares: The sum over each row's entries of 1 / degree, float32.
      inside: False for each node, and share: 0; a place to work in, which is left as it was.
    """

    adjacent: Any
    degree: np.ndarray
    shares: np.ndarray
    inside: np.ndarray
    share: np.ndarray


def _edges(graph):
    from scipy.sparse import csr_array  # takes a while, and most programs have no subgraphs

    n = len(graph.labels)
    starts, columns = (np.asarray(x) for x in (graph.adjacency.starts, graph.adjacency.columns))
    adjacent = csr_array((np.ones(len(columns), np.float32), columns, starts), shape=(n, n))
    degree = np.diff(starts)
    shares = adjacent @ (1 / degree).astype(np.float32)
    return _Edges(adjacent, degree, shares, np.zeros(n, bool), np.zeros(n, np.float32))


class _Rows(NamedTuple):
    """The rows of one subgraph, as `Subgraphs` has them. The neighbours of all rows follow one
    another; `lengths` says how many each row has."""

    scales: np.ndarray
    weights: np.ndarray
    lengths: np.ndarray
    neighbours: np.ndarray


def _cut(edges, v, nodes, neighbours, rng):
    """The `_Rows` of v: at most `nodes`, each of at most `neighbours`."""
    reached = _reached(edges, v)
    # Column u of A_S has 1 / degree(i) for the neighbours i of u in S: edges have no direction.
    edges.share[reached] = 1 / edges.degree[reached]
    rows, shares = reached, edges.adjacent[reached] @ edges.share
    weights = shares.astype(float) / len(reached)  # what is drawn is a running sum of them
    if len(reached) > nodes:
        drawn, p = _draw_rows(weights, shares / edges.shares[reached], nodes, rng)
        rows, weights = rows[drawn], weights[drawn] / p[drawn]
    columns, first = _entries(edges, rows)
    inside = edges.share[columns] > 0
    lengths = np.add.reduceat(inside, first, dtype=np.int32)
    columns = columns[inside]
    edges.share[reached] = 0
    kept = np.minimum(lengths, neighbours)
    chosen = columns[_draw_neighbours(lengths, kept, rng)]
    return _Rows(lengths / kept / edges.degree[rows], weights, kept, chosen)


def _reached(edges, v):
    """The nodes at most two edges from v, sorted."""
    near, _ = _entries(edges, np.array([v]))
    edges.inside[_entries(edges, near)[0]] = True
    # This reads a byte for each node of the graph; up to a million it costs less than sorting.
    reached = np.flatnonzero(edges.inside)
    edges.inside[reached] = False
    return reached


def _draw_rows(weights, left, count, rng):
    """The rows that are drawn, and the probabilities of all: proportional to weight, at most 1."""
    p = _inclusion(weights, count)
    # A systematic draw is even over similar rows: sort them by how much of a row is in S.
    order = np.argsort((65535 * left).astype(np.uint16), kind="stable")  # a radix sort
    return order[_systematic(p[order], rng)][:count], p


def _systematic(p, rng):
    """True where the running sum of probabilities, from a random start, passes a whole number."""
    ends = np.floor(np.cumsum(p) + rng.random())
    return np.diff(ends, prepend=0) > 0


def _draw_neighbours(lengths, kept, rng):
    """The places of `kept` entries of each row, at even distances from a random start; all of them,
    in order, where all are kept. The rows follow one another."""
    slot = np.arange(kept.sum()) - np.repeat(np.cumsum(kept) - kept, kept)
    place = (slot + np.repeat(rng.random(len(kept)), kept)) * np.repeat(lengths / kept, kept)
    place = np.minimum(place.astype(np.int32), np.repeat(lengths, kept) - 1)
    return np.repeat(np.cumsum(lengths) - lengths, kept) + place


def _entries(edges, nodes):
    """The columns of some rows, one row after the other, and where each row starts."""
    starts, lengths = edges.adjacent.indptr[nodes], edges.degree[nodes]
    ends = np.cumsum(lengths, dtype=np.int32)
    first = ends - lengths
    places = np.arange(ends[-1], dtype=np.int32) + np.repeat(starts - first, lengths)
    return edges.adjacent.indices[places], first


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
