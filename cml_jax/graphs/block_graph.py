"""A made-up graph: communities whose nodes share words."""

import numpy as np

from cml_jax.graphs.graph import Graph, graph
from cml_jax.graphs.sparse import sparse


def block_graph(
    seed: int,
    *,
    nodes: int = 3000,
    classes: int = 30,
    degree: float = 6.0,
    within: float = 0.6,
    words: int = 400,
    topical_words: int = 60,
    words_per_class: int = 15,
    words_per_node: int = 10,
    on_topic: float = 0.25,
) -> Graph:
    """Makes a stochastic block model whose nodes have the words of their class, on the host.

    Each node is in a class, drawn uniformly. An edge leads from a random node to a node of the same
    class with probability `within`, and otherwise to any node. A node draws each word from those of
    its class with probability `on_topic`, and otherwise from all words. The words of a class are a
    random subset of the topical words. The other words say nothing about the class; which words are
    topical can be learned from other classes. A feature is 1 where a node has the word.

    A million edges take some seconds, and the dense averages `[nodes, words]` take memory.

    Args:
      seed: The seed; the whole graph is a function of it and of the other arguments.
      nodes: The number of nodes.
      classes: The number of classes.
      degree: Twice the number of edges that are drawn for each node. Repeated edges count once.
      within: The probability that an edge is drawn to a node of the same class.
      words: The number of words, which is the number of features.
      topical_words: The number of words that classes choose theirs from.
      words_per_class: The number of words that each class chooses.
      words_per_node: The number of words that each node draws. Repeated words count once.
      on_topic: The probability that a node draws a word from those of its class.

    Returns:
      The graph, whose arrays are NumPy's.

    Raises:
      ValueError: When a count is below 1, or more words are to be chosen than there are.

    Reference: Holland et al. 1983, doi 10.1016/0378-8733(83)90021-7.
    """
    if (
        min(nodes, classes, words_per_node) < 1
        or not 1 <= words_per_class <= topical_words <= words
    ):
        raise ValueError(
            f"{nodes=}, {classes=}, {words_per_node=}, {words_per_class=}, {topical_words=}, "
            f"{words=}: give at least 1 of each, and words_per_class <= topical_words <= words"
        )
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=nodes)
    order = np.argsort(labels, kind="stable")  # the nodes, class by class
    sizes = np.bincount(labels, minlength=classes)
    first = np.cumsum(sizes) - sizes

    sources = rng.integers(nodes, size=round(nodes * degree / 2))
    own = labels[sources]
    same = order[first[own] + (rng.random(len(sources)) * sizes[own]).astype(np.int64)]
    targets = np.where(rng.random(len(sources)) < within, same, rng.integers(nodes, size=len(same)))
    edges = np.stack([sources, targets], 1)

    topical = rng.permutation(words)[:topical_words]
    vocabulary = np.stack([rng.permutation(topical)[:words_per_class] for _ in range(classes)])
    shape = (nodes, words_per_node)
    own = vocabulary[labels[:, None], rng.integers(words_per_class, size=shape)]
    drawn = np.where(rng.random(shape) < on_topic, own, rng.integers(words, size=shape))
    places = np.unique(np.arange(nodes)[:, None] * words + drawn)
    features = sparse(places // words, places % words, np.ones(len(places)), (nodes, words))
    return graph(edges, features, labels)
