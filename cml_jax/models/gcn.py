"""Networks on one large graph, whose inputs are the ids of its nodes."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from cml_jax.graphs.blocks import sum_blocks
from cml_jax.graphs.graph import Graph
from cml_jax.graphs.sparse import count_entries, entries
from cml_jax.models.adapters import from_linen
from cml_jax.models.layers import uniform_fan_in
from cml_jax.models.mlp import OneHiddenHead
from cml_jax.types import Model, Noisy

_BLOCK = 64  # neighbours at a time: of CiteSeer's features more are wasted on most nodes


class GraphConvolutions(nn.Module):
    """Two graph convolutions with ReLU and dropout between them, `[n]` ids to `[n, width]`."""

    graph: Graph
    width: int
    dropout: float

    @nn.compact
    def __call__(self, inputs):
        nodes, keys = inputs if isinstance(inputs, Noisy) else (inputs, None)
        # +-1/sqrt(width of the output), as the code initialises its graph convolutions.
        init = uniform_fan_in(self.width)
        shape = (self.graph.smoothed.shape[1], self.width)
        first = {
            "kernel": self.param("kernel_1", init, shape),
            "bias": self.param("bias_1", init, shape[1:]),
        }
        key = keys[0] if self.dropout and keys is not None else None

        def hidden_units(first, constants, ids):
            smoothed, key = constants
            units = nn.relu(smoothed[ids] @ first["kernel"] + first["bias"][None])
            if key is None:
                return units
            keep = 1 - self.dropout
            # By node: whoever reads a node sees the same units, as in a pass over the whole graph.
            node_keys = jax.vmap(jax.random.fold_in, (None, 0))(key, ids)
            kept = jax.vmap(lambda key: jax.random.bernoulli(key, keep, shape[1:]))(node_keys)
            return jnp.where(kept, units / keep, 0)

        constants = (self.graph.smoothed, key)
        means = _neighbourhood_means(self.graph.adjacency, nodes, hidden_units, first, constants)
        second = nn.Dense(self.width, kernel_init=init, bias_init=init, name="second")
        return second(means)  # A (H W2) = (A H) W2


class SimpleConvolution(nn.Module):
    """A linear layer on features averaged `hops` times: `[n]` ids to `[n, width]`."""

    graph: Graph
    width: int
    hops: int

    @nn.compact
    def __call__(self, inputs):
        nodes = inputs.inputs if isinstance(inputs, Noisy) else inputs
        smoothed, adjacency = self.graph.smoothed, self.graph.adjacency
        if self.hops == 1:
            means = smoothed[nodes]
        else:
            means = _neighbourhood_means(
                adjacency, nodes, lambda _, smoothed, ids: smoothed[ids], (), smoothed
            )
        init = uniform_fan_in(self.width)
        return nn.Dense(self.width, kernel_init=init, bias_init=init)(means)


def gcn(graph: Graph, ways: int, *, hidden: int = 16, dropout: float = 0.5) -> Model:
    """A graph convolutional network of two layers and a linear head.

        features = A dropout(relu(A X W1 + b1)) W2 + b2,    A = D^-1 (A + I),   both `hidden` wide

    Inputs are node ids int32 `[n]`. Only what they read is computed: A X belongs to the graph and
    is made once, and the hidden layer is that of their neighbours, however many there are. An inner
    step costs what the neighbourhoods of its nodes do, not what the graph does.

    Dropout is on where the inputs are a `Noisy`, and draws from the key of the first example. A
    node has one mask, whichever of its neighbours read it. On plain ids there is no dropout.

    The graph may be traced. It counts as a constant of every derivative.

    Args:
      graph: The graph, which the model closes over. Make the model inside the function that is
        compiled, with the graph as its argument.
      ways: The number of classes in a task.
      hidden: The width of both convolutions.
      dropout: The share of the hidden units that is dropped.

    Returns:
      A `Model`.

    Reference: Kipf & Welling 2017, https://arxiv.org/abs/1609.02907, with D^-1 (A + I) and a linear
    head, as in https://github.com/Zhen-Tan-dmml/TLP-FSNC.
    """
    graph = jax.tree.map(jnp.asarray, graph)  # NumPy's arrays take no traced index
    return from_linen(GraphConvolutions(graph, hidden, dropout), node_head(ways), takes_noisy=True)


def sgc(graph: Graph, ways: int, *, hidden: int = 16, hops: int = 2) -> Model:
    """Simple graph convolution: averages over neighbourhoods, a linear layer and a linear head.

        features = A^hops X W + b,    A = D^-1 (A + I)

    Only the rows of the nodes asked for are computed. Without ReLU there is nothing to drop, and a
    `Noisy` counts as its inputs. The paper has one linear layer, straight to the classes; a body of
    `hidden` units and a head are what meta-learners cut.

    Args:
      graph: The graph, as in `gcn`.
      ways: The number of classes in a task.
      hidden: The width of the features.
      hops: The number of times to average, 1 or 2.

    Returns:
      A `Model`.

    Raises:
      ValueError: When hops is neither.

    Reference: Wu et al. 2019, https://arxiv.org/abs/1902.07153.
    """
    if hops not in (1, 2):
        raise ValueError(f"hops={hops} but SGC averages over 1 or 2 hops here: choose one of them")
    graph = jax.tree.map(jnp.asarray, graph)
    return from_linen(SimpleConvolution(graph, hidden, hops), node_head(ways), takes_noisy=True)


def node_head(ways: int) -> nn.Module:
    """A linear head that starts uniform in +-1/sqrt(ways), as all layers of TLP-FSNC do."""
    init = uniform_fan_in(ways)
    return nn.Dense(ways, kernel_init=init, bias_init=init)


def node_co_learner(ways: int, *, width: int = 16) -> Model:
    """CML's co-learner on the features of a node: one hidden layer with ReLU, and an output.

    Args:
      ways: The number of classes in a task.
      width: The width of the hidden layer.

    Returns:
      A `Model` whose inputs are features `[n, c]`.

    Reference: Shin et al. 2024, https://arxiv.org/abs/2406.04639, section 4.3.
    """
    return from_linen(OneHiddenHead(ways, width, nn.relu))


def _neighbourhood_means(adjacency, nodes, function, params, constants):
    """`adjacency[nodes] @ function(params, constants, ids)` with the ids of all nodes, of which the
    function is asked only for those that are read, `_BLOCK` at a time."""

    def block(params, constants, i):
        adjacency, nodes, constants = constants
        place, column, value = entries(adjacency, nodes, i * _BLOCK, _BLOCK)
        at = jnp.arange(len(nodes), dtype=jnp.int32)[:, None] == place[None]
        weights = jnp.where(at, value[None], 0)
        return weights @ function(params, constants, column)

    count = -(-count_entries(adjacency, nodes) // _BLOCK)
    return sum_blocks(block, count, params, (adjacency, nodes, constants))
