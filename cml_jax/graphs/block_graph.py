"""A graph made up on the spot: communities that share words."""

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
    """A stochastic block model whose nodes have the words of their class, made on the host.

    Every node is in a class, drawn uniformly. An edge leads from a random node to a node of the
    same class with probability `within`, else to any node. A node draws its words from those of its
    class with probability `on_topic`, else from all. The words of a class are a random subset of
    the topical ones; the others say nothing, and that is what can be learned from other classes. A
    feature is 1 where a node has a word.

    A million edges take some seconds, and memory for the dense averages `[nodes, words]`.

    Args:
      seed: the whole graph is a function of it and of the sizes.
      nodes, classes, words: their numbers.
      degree: edges that are drawn per node, times two; repetitions count once.
      within: probability that an edge stays in its class by design.
      topical_words: how many of the words classes choose from.
      words_per_class: how many each chooses.
      words_per_node: words that a node draws; repetitions count once.
      on_topic: probability that a word is drawn from the class's vocabulary.

    Raises:
      ValueError: a count is below 1, or more words are to be chosen than there are.

    Reference: Holland et al., 1983, doi 10.1016/0378-8733(83)90021-7.
    """
    if (
        min(nodes, classes, words_per_node) < 1
        or not 1 <= words_per_class <= topical_words <= words
    ):
        raise ValueError(
            f"{nodes=}, {classes=}, {words_per_node=}, {words_per_class=}, {topical_words=}, "
            f"{words=}: each must be at least 1, and the last three must not fall"
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
