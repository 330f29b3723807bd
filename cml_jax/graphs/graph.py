"""One large graph whose nodes are classified."""

from typing import NamedTuple

import jax
import numpy as np

from cml_jax.graphs.sparse import Sparse, sparse


class Graph(NamedTuple):
    """A graph: arrays that enter a compiled program as an argument, once.

    Attributes:
      adjacency: `[n, n]`, D^-1 (A + I): row r holds the mean over r and its neighbours.
      features: `[n, F]`, as stored.
      smoothed: float32 `[n, F]`, adjacency @ features, dense: no weight is in it, so it is made
        once.
      labels: int32 `[n]`.
    """

    adjacency: Sparse
    features: Sparse
    smoothed: jax.Array | np.ndarray
    labels: jax.Array | np.ndarray


def graph(edges: np.ndarray, features: Sparse, labels: np.ndarray) -> Graph:
    """The `Graph` of undirected edges, made on the host.

        adjacency = D^-1 (A + I)

    Args:
      edges: integers `[e, 2]`, in one direction or both; those that repeat or lead from a node to
        itself count once or not at all.
      features: `[n, F]`.
      labels: integers `[n]`.

    Raises:
      ValueError: an edge leads to no node.

    Reference: Kipf and Welling, 2017, https://arxiv.org/abs/1609.02907, with rows normalised, as
    in the code that CML's results on nodes rest on, instead of D^-1/2 (A + I) D^-1/2.
    """
    n = len(labels)
    edges = np.asarray(edges, np.int64).reshape(-1, 2)
    outside = edges[(edges < 0) | (edges >= n)]
    if len(outside):
        raise ValueError(f"edges: {outside[0]} is no node of 0, ..., {n - 1}: correct the edge")
    a, b = edges.T
    own = np.arange(n) * (n + 1)
    pairs = np.unique(np.concatenate([a * n + b, b * n + a, own]))
    rows, columns = pairs // n, pairs % n
    weights = 1 / np.bincount(rows, minlength=n)
    adjacency = sparse(rows, columns, weights[rows], (n, n))
    smoothed = _product(adjacency, features)
    return Graph(adjacency, features, smoothed, np.asarray(labels, np.int32))


def _product(left: Sparse, right: Sparse) -> np.ndarray:
    """`left @ right`, dense, on the host; no row of `left` is empty."""
    dense = np.zeros(right.shape, np.float32)
    dense[right.rows, right.columns] = right.values
    product = np.empty((left.shape[0], right.shape[1]), np.float32)
    at_a_time = 1 << 22  # numbers: the blocks stay in the cache
    row = 0
    while row < len(product):
        begin = left.starts[row]
        end = np.searchsorted(left.starts, begin + at_a_time // right.shape[1], side="right") - 1
        end = max(int(end), row + 1)
        block = slice(begin, left.starts[end])
        terms = left.values[block, None] * dense[left.columns[block]]
        np.add.reduceat(terms, left.starts[row:end] - begin, axis=0, out=product[row:end])
        row = end
    return product
