"""ResNet-12, the residual network of few-shot learning, and its co-learner."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from cml_jax.models.adapters import from_linen
from cml_jax.models.layers import BatchNorm, ConvBlock, Linear, check_images
from cml_jax.ops import max_pool
from cml_jax.types import Model, Noisy

# As MetaOptNet's code starts them: normal, variance 2 / (kernel's size * output channels).
_KERNEL_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class ResidualBlock(nn.Module):
    """Three 3x3 convolutions beside one of 1x1, added, pooled: `[n, h, w, c]` to
    `[n, h // 2, w // 2, features]`.

    Pooling comes before the last LeakyReLU: they commute, and this saves three quarters of its
    work.
    """

    features: int

    @nn.compact
    def __call__(self, inputs):
        def kernel(name, inputs, *size):
            shape = (*size, inputs.shape[-1], self.features)
            return self.param(name, _KERNEL_INIT, shape, jnp.float32)

        outputs = inputs
        for i in range(3):
            outputs = _leaky_relu(outputs) if i else outputs
            outputs = BatchNorm()(outputs, kernel(f"kernel_{i}", outputs, 3, 3))
        # A convolution of 1x1 is a product, and so are all its derivatives.
        shortcut = BatchNorm()(jnp.tensordot(inputs, kernel("shortcut", inputs), 1))
        return _leaky_relu(max_pool(outputs + shortcut))


class ResNet12Body(nn.Module):
    """Four residual blocks, `[n, h, w, c]` to `[n, h // 16, w // 16, widths[-1]]`."""

    widths: Sequence[int]
    drop_rate: float
    dropblock_size: int

    @nn.compact
    def __call__(self, inputs):
        inputs, keys = inputs if isinstance(inputs, Noisy) else (inputs, None)
        check_images(inputs, "resnet12", 16)
        for block, width in enumerate(self.widths):
            inputs = ResidualBlock(width)(inputs)
            if keys is not None and self.drop_rate:
                block_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, block)
                size = self.dropblock_size if block >= 2 else 1
                inputs *= drop_block(block_keys, inputs.shape, self.drop_rate, size, inputs.dtype)
        return inputs


class MeanHead(nn.Module):
    """`depth` convolution blocks, the mean over the map (or all of it), linear if `ways`."""

    ways: int
    depth: int = 0
    average_pool: bool = True

    @nn.compact
    def __call__(self, features):
        for _ in range(self.depth):
            features = ConvBlock(features.shape[-1])(features)
        if self.average_pool:
            features = features.mean((1, 2))
        features = features.reshape(features.shape[0], -1)
        return Linear(self.ways)(features) if self.ways else features


def drop_block(
    keys: jax.Array, shape: Sequence[int], rate: float, size: int, dtype: jnp.dtype
) -> jax.Array:
    """DropBlock's factors: zero in squares of `size` x `size`, in each channel for itself.

        start ~ Bernoulli(rate / size^2 * h w / ((h - size + 1) (w - size + 1)))
        kept = 0 in the squares that start there, else 1;   factors = kept * count / sum(kept)

    Args:
      keys: A PRNG key of each image, `[n]`.
      shape: Of the feature maps, `(n, h, w, c)`.
      rate: About the share that is dropped.
      size: Of the squares; one that is larger than the map is the map.
      dtype: Of the result.

    Returns:
      An array of `shape`.

    Reference: Ghiasi et al. 2018, https://arxiv.org/abs/1810.12890, algorithm 1, with the squares
    inside of the map, as in MetaOptNet's code.
    """
    _, height, width, channels = shape
    rows, columns = min(size, height), min(size, width)
    places = (height - rows + 1, width - columns + 1, channels)
    gamma = rate / (rows * columns) * (height * width) / (places[0] * places[1])
    starts = jax.vmap(lambda key: jax.random.bernoulli(key, min(gamma, 1.0), places))(keys)
    padding = ((0, 0), (rows - 1, rows - 1), (columns - 1, columns - 1), (0, 0))
    window = (1, rows, columns, 1)
    dropped = lax.reduce_window(
        starts.astype(dtype), jnp.zeros((), dtype), lax.max, window, (1,) * 4, padding
    )
    kept = 1 - dropped
    return kept * (kept.size / jnp.maximum(kept.sum(), 1))


def resnet12(
    ways: int,
    *,
    widths: Sequence[int] = (64, 128, 256, 512),
    average_pool: bool = True,
    drop_rate: float = 0.0,
    dropblock_size: int = 5,
) -> Model:
    """ResNet-12: four residual blocks, average pool, linear.

        block(x) = max_pool(leaky_relu(f(x) + batch_norm(conv1x1(x))))
        f = three times conv3x3 and batch norm, with leaky_relu between them

    LeakyReLU has slope 0.1, the pool is 2 x 2, the convolutions have no bias. With c channels in
    and w out, a block has 9 c w + 18 w^2 + c w + 8 w parameters. Together with the head of
    w (ways) + ways they are 7,999,365 at 5 ways and colour images, 7,996,800 of them in the body;
    MetaOptNet's own body with widths 64, 160, 320, 640 has 12,424,320.

    The features are the map of block 4 *before* its average pool, `[n, 5, 5, 512]` at 84 px and
    `[n, 2, 2, 512]` at 32 px: the average pool belongs to the head.

    It always uses the statistics of the batch, in both loops and at test, as `conv4` does;
    MetaOptNet's code keeps running ones for the test.

    Dropout is on where the inputs are a `Noisy`, each image from its own key: after blocks 3 and 4
    DropBlock, after blocks 1 and 2 of single units. MetaOptNet has drop_rate 0.1, to which it
    rises over 40,000 batches; here it is constant.

    Args:
      ways: The number of outputs; 0 leaves the linear layer out, the outputs are what it reads.
      widths: The channels of the four blocks: those of the CML paper's appendix D; MetaOptNet's are
        (64, 160, 320, 640).
      average_pool: Whether the head takes the mean of the map, as in the appendix; False: all of
        it, as MetaOptNet does (avg_pool=False).
      drop_rate: The share that is dropped, from 0 to below 1. 0 leaves dropout out.
      dropblock_size: Height and width of what DropBlock drops at once, in a map that is smaller the
        whole channel.

    Returns:
      A `Model` on floating-point images with the channels last, 16 x 16 or more.

    Raises:
      TypeError: In `init` and `apply`, when images are not floating-point.
      ValueError: At once, when there are not four widths; in `init` and `apply`, when images are
        too small, or their shape is not that of images with the channels last.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from cml_jax.models import resnet12
      >>> model = resnet12(5, widths=(4, 8, 8, 16))
      >>> images = jnp.zeros((2, 32, 32, 3))
      >>> params = model.init(jax.random.key(0), images)
      >>> outputs, features = model.apply(params, images)
      >>> outputs.shape, features.shape
      ((2, 5), (2, 2, 2, 16))

    Reference: Lee et al. 2019 (MetaOptNet), https://arxiv.org/abs/1904.03758, section 4.1 and
    https://github.com/kjunelee/MetaOptNet; Shin et al. 2024, appendix D. CML's released code has
    no ResNet-12.
    """
    if len(widths) != 4:
        raise ValueError(f"{widths=} but ResNet-12 has four blocks: give four widths")
    body = ResNet12Body(tuple(widths), drop_rate, dropblock_size)
    return from_linen(body, MeanHead(ways, average_pool=average_pool), takes_noisy=True)


def resnet12_co_learner(ways: int, *, depth: int = 2) -> Model:
    """CML's co-learner for `resnet12`: `depth` convolution blocks, average pool, linear.

    The paper does not say how it looks on ResNet-12. Its blocks here are those of
    `conv_co_learner` (3x3 convolution with bias, batch norm, ReLU), as wide as the features: at 512
    channels and 5 ways 4,724,229 parameters. Depth 0 is the linear co-learner (2,565).

    Args:
      ways: The number of outputs.
      depth: The number of blocks.

    Returns:
      A `Model` whose inputs are features `[n, h, w, c]`.

    Reference: Shin et al. 2024, https://arxiv.org/abs/2406.04639, figure 2, tables 7 and 8.
    """
    return from_linen(MeanHead(ways, depth))


def _leaky_relu(x):
    # PyTorch's derivative at 0: the slope.
    return jnp.where(x > 0, x, 0.1 * x)
