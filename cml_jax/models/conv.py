"""The four-block convolutional network of few-shot learning, and its co-learners."""

import flax.linen as nn

from cml_jax.models.adapters import from_linen
from cml_jax.models.layers import ConvBlock, Linear, check_images
from cml_jax.ops import max_pool
from cml_jax.types import Model


class Conv4Body(nn.Module):
    """Four convolution blocks and `extra_blocks`, `[n, h, w, c]` to `[n, h', w', filters]`; block
    4 and those after it are not pooled."""

    filters: int
    pool: bool
    extra_blocks: int = 0

    @nn.compact
    def __call__(self, inputs):
        check_images(inputs, "conv4 with pool=True" if self.pool else "conv4", 16 * self.pool)
        for block in range(4):
            inputs = ConvBlock(
                self.filters, stride=1 if self.pool else 2, pool=self.pool and block < 3
            )(inputs)
        for _ in range(self.extra_blocks):
            inputs = ConvBlock(self.filters)(inputs)
        return inputs


class ConvHead(nn.Module):
    """`depth` convolution blocks, 2x2 max-pool, flatten, linear: `[n, h, w, c]` to `[n, ways]`."""

    ways: int
    filters: int
    depth: int
    pool: bool

    @nn.compact
    def __call__(self, features):
        for _ in range(self.depth):
            features = ConvBlock(self.filters)(features)
        if self.pool:
            if min(features.shape[1:3]) < 2:
                raise ValueError(
                    f"features are {features.shape[1:]} but their 2 x 2 max-pool needs a map of "
                    "2 x 2 or more: give larger images, or pool=False"
                )
            features = max_pool(features)
        return Linear(self.ways)(features.reshape(features.shape[0], -1))


def conv4(ways: int, *, filters: int = 64, pool: bool = True, extra_blocks: int = 0) -> Model:
    """The 4-conv network: 3x3 convolution, batch norm, ReLU, 2x2 max-pool, four times, then linear.

    121,093 parameters at 84 x 84 x 3, 5 ways, 64 filters. `features` are block 4 after ReLU and
    *before* its max-pool, `[n, 10, 10, 64]` at 84 px and `[n, 3, 3, 64]` at 28 px: the co-learner
    reads them there, and the pool belongs to the head.

    Batch statistics always, in both loops and at test: see `evaluate(transductive=...)`.

    Args:
      ways: the number of outputs.
      filters: channels of every block (64, or 32 as MAML on miniImageNet).
      pool: False is the MAML paper's Omniglot form: stride 2 instead of max-pool, a quarter of the
        arithmetic. (cbfinn/maml averages its last 2 x 2 map; here it is flattened.)
      extra_blocks: more blocks on block 4's map, in the body; features are the last one's. 3 is
        More-MAML, 232,261 parameters: more of them than under CML, and no co-learner.

    Reference: Finn et al. 2017, section 5.2; Shin et al. 2024, released code.
    """
    return from_linen(
        Conv4Body(filters, pool, extra_blocks), ConvHead(ways, filters, depth=0, pool=pool)
    )


def conv_co_learner(ways: int, *, filters: int = 64, depth: int = 2, pool: bool = True) -> Model:
    """CML's co-learner for `conv4`: `depth` convolution blocks, max-pool, linear.

    With depth 2, MAML and co-learner are 203,210 parameters at 84 px, 5 ways; depth 0 is the
    linear co-learner (8,005), which gives CML the same gain, though not CML-dagger.

    Args:
      ways: the number of outputs.
      filters: channels of every block.
      depth: 0 to 4 in the paper's tables 7 and 8.
      pool: as given to `conv4`.

    Reference: Shin et al. 2024, https://arxiv.org/abs/2406.04639, figure 2, tables 7 and 8.
    """
    return from_linen(ConvHead(ways, filters, depth, pool))
