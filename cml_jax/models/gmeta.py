"""G-Meta: a node is the mean over its local subgraph."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from cml_jax.models.adapters import from_linen
from cml_jax.models.gcn import node_head
from cml_jax.models.layers import uniform_fan_in
from cml_jax.types import Model, Noisy


class SubgraphMean(nn.Module):
    """Two graph convolutions on each subgraph, and the mean over its nodes: `[n, width]`."""

    width: int
    dropout: float

    @nn.compact
    def __call__(self, inputs):
        subgraphs, keys = inputs if isinstance(inputs, Noisy) else (inputs, None)
        # +-1/sqrt(width of the output), as the code initialises its graph convolutions.
        init = uniform_fan_in(self.width)
        first, second = (nn.Dense(self.width, kernel_init=init, bias_init=init) for _ in range(2))
        hidden = nn.relu(first(subgraphs.rows))
        if keys is not None and self.dropout:
            keep = 1 - self.dropout
            kept = jax.vmap(lambda key: jax.random.bernoulli(key, keep, hidden.shape[1:]))(keys)
            hidden = jnp.where(kept, hidden / keep, 0)
        return second(jnp.einsum("nr,nrh->nh", subgraphs.weights, hidden))


def gmeta(ways: int, *, hidden: int = 16, dropout: float = 0.5) -> Model:
    """G-Meta's network: a GCN on the subgraph of each node, the mean over it, and a linear head.

        features = mean(A_S relu(A_S X_S W1 + b1) W2 + b2) = c' relu(A_S X_S W1 + b1) W2 + b2

    The mean over the nodes makes the second convolution a weighted sum, so a subgraph enters as the
    rows of A_S X_S and their weights c. Its inputs are a `Subgraph`. Wrap the *method*,

        with_prepared_inputs(fomaml(gmeta(2), ...), partial(subgraphs_of, table))

    so that its inputs are node ids, whose rows are computed once a task and not in each inner step.

    This is the network as TLP-FSNC has it. The paper scores query nodes by their distance to class
    prototypes and adds a contrastive loss; here the head is linear and the loss is what the method
    is given.

    Args:
      ways: The number of classes in a task.
      hidden: The width of both convolutions.
      dropout: The share of the hidden units that is dropped where the inputs are a `Noisy`, drawn
        anew for every subgraph that a node is in.

    Returns:
      A `Model`.

    Reference: Huang & Zitnik 2020, https://arxiv.org/abs/2006.07889;
    https://github.com/Zhen-Tan-dmml/TLP-FSNC.
    """
    return from_linen(SubgraphMean(hidden, dropout), node_head(ways), takes_noisy=True)
