"""Random graphs, and their two-hop subgraphs by breadth-first search and dense matrices."""

import numpy as np

from cml_jax.graphs.graph import graph
from cml_jax.graphs.sparse import sparse


def random_graph(n=40, edges=45, num_features=6, seed=0, whole=False):
    """(graph, dense adjacency, dense features); node 3 has no edge, node 0 has many."""
    rng = np.random.default_rng(seed)
    pairs = rng.integers(0, n, (edges, 2))
    pairs = np.concatenate([pairs, np.stack([np.zeros(12, int), np.arange(8, 20)], 1)])
    pairs = pairs[(pairs != 3).all(1) & (pairs[:, 0] != pairs[:, 1])]
    features = rng.integers(0, 3, (n, num_features)) * (1.0 if whole else 0.3)
    rows, columns = np.nonzero(features)
    stored = sparse(rows, columns, features[rows, columns], features.shape)
    near = np.eye(n)
    near[pairs[:, 0], pairs[:, 1]] = near[pairs[:, 1], pairs[:, 0]] = 1
    made = graph(pairs, stored, np.arange(n) % 2)
    return made, near / near.sum(1, keepdims=True), features.astype(np.float32)


def two_hops(adjacency, v):
    """The nodes at most two edges from v, by breadth-first search."""
    distance, queue = {v: 0}, [v]
    for u in queue:
        for w in np.flatnonzero(adjacency[u]):
            if distance[u] < 2 and w not in distance:
                distance[w] = distance[u] + 1
                queue.append(w)
    return np.array(sorted(distance))


def by_hand(adjacency, features, v):
    """(A_S X_S, c) of the whole subgraph of v."""
    reached = two_hops(adjacency, v)
    own = adjacency[np.ix_(reached, reached)]
    return own @ features[reached], own.mean(0)
