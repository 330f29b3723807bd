"""One large graph whose nodes are classified."""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

from cml_jax.graphs.sparse import Sparse, sparse
from cml_jax.labels import check_labels


class Graph(NamedTuple):
    """A graph: arrays that enter a compiled program as an argument, once.

    Attributes:
      adjacency: The matrix D^-1 (A + I), `[n, n]`. Row r takes the mean over node r and its
        neighbours.
      features: The features of the nodes, `[n, F]`, as they are stored.
      smoothed: The product adjacency @ features, dense, float32 `[n, F]`. No weight of a network is
        in it, so it is computed once.
      labels: The class of each node, int32 `[n]`; -1 where it has none.
    """

    adjacency: Sparse
    features: Sparse
    smoothed: jax.Array | np.ndarray
    labels: jax.Array | np.ndarray


def graph(edges: np.ndarray, features: Sparse, labels: np.ndarray) -> Graph:
    """Makes a `Graph` of undirected edges, on the host.

        adjacency = D^-1 (A + I)

    Args:
      edges: The nodes at both ends of each edge, integers `[e, 2]`, in one direction or both. An
        edge that repeats counts once, an edge from a node to itself not at all.
      features: The features of the nodes, `[n, F]`. Where a row sums to much more than 1, as counts
        do, see `normalize_features`.
      labels: The class of each node, integers `[n]`; -1 where it has none.

    Returns:
      The graph, whose arrays are NumPy's.

    Raises:
      ValueError: When labels are not integers `[n]`, features have another number of rows, or an
        edge names a node that does not exist.

    Reference: Kipf and Welling 2017, https://arxiv.org/abs/1609.02907, with rows normalised, as in
    the code that CML's results on nodes rest on, instead of D^-1/2 (A + I) D^-1/2.

    >>> import numpy as np
    >>> from cml_jax.graphs import graph, sparse
    >>> features = sparse([0, 1, 2], [0, 0, 1], [2.0, 4.0, 6.0], (3, 2))
    >>> path = graph([[0, 1], [1, 2]], features, labels=[0, 0, 1])  # 0 - 1 - 2
    >>> print(path.smoothed)
    [[3. 0.]
     [2. 2.]
     [2. 3.]]
    """
    labels = check_labels(labels, of="node")
    n = len(labels)
    if features.shape[0] != n:
        raise ValueError(
            f"features have {features.shape[0]} rows but there are {n} labels: give both one row "
            "for each node"
        )
    edges = np.asarray(edges, np.int64).reshape(-1, 2)
    outside = edges[(edges < 0) | (edges >= n)]
    if len(outside):
        raise ValueError(
            f"edges name node {outside[0]} but the nodes are 0 to {n - 1}: correct the edge"
        )
    a, b = edges.T
    own = np.arange(n) * (n + 1)
    pairs = np.unique(np.concatenate([a * n + b, b * n + a, own]))
    rows, columns = pairs // n, pairs % n
    weights = 1 / np.bincount(rows, minlength=n)
    adjacency = sparse(rows, columns, weights[rows], (n, n))
    smoothed = _product(adjacency, features)
    return Graph(adjacency, features, smoothed, labels)


def normalize_features(graph: Graph) -> Graph:
    """The graph with features whose rows sum to one, made on the host.

        features_i <- (features_i - m) / max(1, sum_f (features_if - m)),   m = min of all features

    as PyTorch Geometric's `NormalizeFeatures` does. A row that sums to less than 1 is not scaled
    up, so a node without features keeps none. Features of 0 and more stay sparse: m is 0 unless no
    feature of any node is.

    Counts of words, or many words a node, make the gradients of an inner loop large: a rate that
    suits rows of sum one diverges on them.

    Args:
      graph: Any graph; `feature_scale` says what scale its features have.

    Returns:
      A graph with new `features` and the `smoothed` that belong to them.
    """
    features = graph.features
    if least := _least(features):
        dense = _dense(features) - np.float32(least)
        rows, columns = np.nonzero(dense)
        features = sparse(rows, columns, dense[rows, columns], features.shape)
    rows, values = np.asarray(features.rows), np.asarray(features.values)
    sums = np.bincount(rows, weights=values, minlength=features.shape[0])
    values = (values / np.maximum(sums, 1)[rows]).astype(np.float32)
    features = dataclasses.replace(features, values=values)
    return graph._replace(features=features, smoothed=_product(graph.adjacency, features))


def scale_features(graph: Graph, largest: float = 32.0) -> Graph:
    """The graph with all features divided by one number where they are large, made on the host.

        features <- features * min(1, largest / s),   s = mean over nodes of sum_f |features_if|

    Features relate to each other as before, and the rates that suit citation graphs suit the
    result: the nodes of CiteSeer have 31.6 words in the mean, those of Amazon-Computer 267.

    Args:
      graph: Any graph.
      largest: The mean row sum above which features are divided.

    Returns:
      The graph itself where s is not above `largest`; else one with new `features` and `smoothed`.
    """
    values = np.asarray(graph.features.values)
    mean = float(np.abs(values, dtype=np.float64).sum() / max(graph.features.shape[0], 1))
    if not mean > largest:
        return graph
    rows, columns = np.asarray(graph.features.rows), np.asarray(graph.features.columns)
    scaled = (values * (largest / mean)).astype(np.float32)
    features = sparse(rows, columns, scaled, graph.features.shape)
    return graph._replace(features=features, smoothed=_product(graph.adjacency, features))


def feature_scale(graph: Graph) -> dict[str, float]:
    """The scale of a graph's features, from which to choose an inner rate or a normalisation.

    Args:
      graph: Any graph.

    Returns:
      "min" and "max", over all features of all nodes, those that are 0 included; "mean_row_sum",
      the mean over nodes of the sum of a node's features; and "integer_fraction", the share of the
      features other than 0 that are whole numbers (1.0 for counts and for 0 and 1).

    >>> from cml_jax.graphs import graph, sparse
    >>> features = sparse([0, 0, 1], [0, 1, 1], [3.0, 1.0, 2.0], (2, 2))
    >>> feature_scale(graph([[0, 1]], features, labels=[0, 1]))
    {'min': 0.0, 'max': 3.0, 'mean_row_sum': 3.0, 'integer_fraction': 1.0}
    """
    values, (n, m) = np.asarray(graph.features.values, np.float64), graph.features.shape
    zeros: dict[str, Any] = {"initial": 0.0} if len(values) < n * m else {}
    stored = values[values != 0]
    return {
        "min": _least(graph.features),
        "max": float(values.max(**zeros)),
        "mean_row_sum": float(values.sum() / n),
        "integer_fraction": float(np.mean(stored == np.round(stored))) if len(stored) else 1.0,
    }


def _least(matrix: Sparse) -> float:
    """The least entry; those that are not stored are 0."""
    values = np.asarray(matrix.values)
    stored = len(values) == matrix.shape[0] * matrix.shape[1]
    return float(values.min() if stored else values.min(initial=0.0))


def _dense(matrix: Sparse) -> np.ndarray:
    rows, columns, values = map(np.asarray, (matrix.rows, matrix.columns, matrix.values))
    dense = np.zeros(matrix.shape, np.float32)
    dense[rows, columns] = values
    return dense


def _product(left: Sparse, right: Sparse) -> np.ndarray:
    """The dense `left @ right`, on the host; no row of `left` may be empty."""
    dense = _dense(right)
    left = jax.tree.map(np.asarray, left)
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
