"""The four-block convolutional network of few-shot learning, and its co-learners."""

import flax.linen as nn

from cml_jax.models.adapters import from_linen
from cml_jax.models.layers import ConvBlock, Linear, check_images
from cml_jax.ops import max_pool
from cml_jax.types import Model


class Conv4Body(nn.Module):
    """Four convolution blocks and `extra_blocks` more, `[n, h, w, c]` to `[n, h', w', filters]`.
    Block 4 and those after it are not pooled.
    """

    filters: int
    pool: bool
    extra_blocks: int = 0

    @nn.compact
    def __call__(self, inputs):
        name = "conv4 with pool=True" if self.pool else "conv4"
        check_images(inputs, name, 16 * self.pool, otherwise=", or pool=False")
        for block in range(4):
            inputs = ConvBlock(
                self.filters, stride=1 if self.pool else 2, pool=self.pool and block < 3
            )(inputs)
        for _ in range(self.extra_blocks):
            inputs = ConvBlock(self.filters)(inputs)
        return inputs


class ConvHead(nn.Module):
    """`depth` convolution blocks, 2x2 max-pool, flatten, linear: `[n, h, w, c]` to `[n, ways]`;
    without the linear layer where `ways` is 0.
    """

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
        features = features.reshape(features.shape[0], -1)
        return Linear(self.ways)(features) if self.ways else features


def conv4(ways: int, *, filters: int = 64, pool: bool = True, extra_blocks: int = 0) -> Model:
    """The 4-conv network: 3x3 convolution, batch norm, ReLU, 2x2 max-pool, four times, then linear.

    It has 121,093 parameters at 84 x 84 x 3, 5 ways, 64 filters. The features are block 4 after
    ReLU and *before* its max-pool, `[n, 10, 10, 64]` at 84 px and `[n, 3, 3, 64]` at 28 px: the
    co-learner reads them there, and the pool belongs to the head.

    It always uses the statistics of the batch, in both loops and at test: see
    `evaluate(transductive=...)`.

    Inputs are floating-point images with the channels last, `[n, height, width, channels]`. What
    looks like channels first (a second axis of 1, 3 or 4 before two equal axes of 8 or more, or of
    3 before two axes over 16 with the ratio of a photograph) is refused.

    Args:
      ways: The number of outputs; 0 leaves the linear layer out, the outputs are what it reads.
      filters: The number of channels of every block (64, or 32 as MAML on miniImageNet).
      pool: False is the form of the MAML paper's Omniglot network, with stride 2 instead of
        max-pool and a quarter of the arithmetic. (cbfinn/maml averages its last 2 x 2 map; here it
        is flattened.) True needs images of 16 x 16 or more.
      extra_blocks: The number of additional blocks on the map of block 4, in the body; the features
        are the last one's. 3 is More-MAML, 232,261 parameters: more of them than under CML, and no
        co-learner.

    Returns:
      A `Model`.

    Raises:
      TypeError: In `init` and `apply`, when images are not floating-point.
      ValueError: In `init` and `apply`, when images are too small, or their shape is not that of
        images with the channels last.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from cml_jax.models import conv4
      >>> model = conv4(5, filters=8)
      >>> images = jnp.zeros((2, 28, 28, 1))
      >>> params = model.init(jax.random.key(0), images)
      >>> outputs, features = model.apply(params, images)
      >>> outputs.shape, features.shape
      ((2, 5), (2, 3, 3, 8))

    Reference: Finn et al. 2017, section 5.2; Shin et al. 2024, released code.
    """
    return from_linen(
        Conv4Body(filters, pool, extra_blocks), ConvHead(ways, filters, depth=0, pool=pool)
    )


def conv_co_learner(ways: int, *, filters: int = 64, depth: int = 2, pool: bool = True) -> Model:
    """CML's co-learner for `conv4`: `depth` convolution blocks, max-pool, linear.

    With depth 2, MAML and co-learner have 203,210 parameters at 84 px, 5 ways. Depth 0 is the
    linear co-learner (8,005 parameters), which gives CML the same gain, though not CML-dagger.

    Args:
      ways: The number of outputs.
      filters: The number of channels of every block.
      depth: The number of blocks, 0 to 4 in the paper's tables 7 and 8.
      pool: Whether the map is pooled, as given to `conv4`.

    Returns:
      A `Model` whose inputs are features `[n, h, w, c]`.

    Raises:
      ValueError: In `init` and `apply`, when there is less than 2 x 2 to pool.

    Reference: Shin et al. 2024, https://arxiv.org/abs/2406.04639, figure 2, tables 7 and 8.
    """
    return from_linen(ConvHead(ways, filters, depth, pool))
