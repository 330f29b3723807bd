"""Two-dimensional convolution whose derivatives, of any order, are matrix products."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from cml_jax.ops import patches, winograd

# On CPU one block of images is convolved at a time, whose patches have to stay in the cache.
_BLOCK_BYTES = 8 * 2**20


def conv(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Two-dimensional convolution of images with a kernel, zero padding `k // 2` on all sides.

        y[n, i, j, f] = sum_{a, b, c} x[n, i * stride + a - kh // 2, j * stride + b - kw // 2, c]
                        * kernel[a, b, c, f]

    A convolution is linear in each argument, and the derivatives of it and of its weight gradient
    are these two again. Each has its derivative written with the pair, so that under `vmap` with a
    kernel per task, at any order, XLA on CPU sees batched matrix products; the convolutions that it
    would build from `lax.conv_general_dilated` are many times slower.

    It has reverse-mode derivatives of any order, but no forward mode (`jax.jvp`), which
    `jax.custom_vjp` excludes.

    Args:
      x: The images `[n, h, w, c]`, of any floating dtype.
      kernel: The kernel `[kh, kw, c, f]`, with odd kh and kw and the dtype of `x`.
      stride: The stride of both axes, a static integer from 1.

    Returns:
      An array `[n, ceil(h / stride), ceil(w / stride), f]`.

    Raises:
      ValueError: When the shapes do not fit, the kernel has an even size, the images are integers
        or the stride is below 1.

    >>> import jax.numpy as jnp
    >>> x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    >>> sums = conv(x, jnp.ones((3, 3, 1, 1)))  # of each pixel and its neighbours
    >>> print(sums[0, :, :, 0])
    [[ 8. 15. 12.]
     [21. 36. 27.]
     [20. 33. 24.]]
    >>> print(conv(x, jnp.ones((3, 3, 1, 4)), stride=2).shape)
    (1, 2, 2, 4)
    """
    if x.ndim != 4 or kernel.ndim != 4:
        raise ValueError(
            f"x of shape {x.shape} and a kernel of shape {kernel.shape}: give [n, h, w, c] and "
            "[kh, kw, c, f]; a single image has n = 1, a grey one c = 1"
        )
    if kernel.shape[0] % 2 == 0 or kernel.shape[1] % 2 == 0:
        raise ValueError(f"a kernel of size {kernel.shape[:2]}: use odd sizes, such as (3, 3)")
    if stride < 1:
        raise ValueError(f"{stride=} but a convolution moves by at least 1: raise it")
    if x.shape[-1] != kernel.shape[2]:
        first = ", or move them last by jnp.moveaxis(x, 1, -1)" * (x.shape[1] == kernel.shape[2])
        raise ValueError(
            f"x of shape {x.shape} has {x.shape[-1]} channels in its last axis but the kernel "
            f"takes {kernel.shape[2]}: give images with as many as the kernel was made for{first}"
        )
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"x is {x.dtype} but a convolution takes floating images: convert them first, as by "
            "x.astype(jnp.float32) / 255"
        )
    return _conv(x, kernel, stride)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x, kernel, stride):
    return lax.platform_dependent(
        x, kernel, cpu=partial(_conv_cpu, stride=stride), default=partial(_conv_xla, stride=stride)
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _weight_gradient(x, g, size, stride):
    return lax.platform_dependent(
        x,
        g,
        cpu=partial(_weight_gradient_cpu, size=size, stride=stride),
        default=partial(_weight_gradient_xla, size=size, stride=stride),
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _input_gradient(g, kernel, shape, stride):
    """The cotangent of an input whose height and width are `shape`."""
    return lax.platform_dependent(
        g,
        kernel,
        cpu=partial(_input_gradient_cpu, shape=shape, stride=stride),
        default=partial(_input_gradient_xla, shape=shape, stride=stride),
    )


def _conv_forward(x, kernel, stride):
    return _conv(x, kernel, stride), (x, kernel)


def _conv_backward(stride, saved, g):
    x, kernel = saved
    return (
        _input_gradient(g, kernel, x.shape[1:3], stride),
        _weight_gradient(x, g, kernel.shape[:2], stride),
    )


def _weight_gradient_forward(x, g, size, stride):
    return _weight_gradient(x, g, size, stride), (x, g)


def _weight_gradient_backward(size, stride, saved, kernel):
    x, g = saved
    return _input_gradient(g, kernel, x.shape[1:3], stride), _conv(x, kernel, stride)


def _input_gradient_forward(g, kernel, shape, stride):
    return _input_gradient(g, kernel, shape, stride), (g, kernel)


def _input_gradient_backward(shape, stride, saved, x):
    g, kernel = saved
    return _conv(x, kernel, stride), _weight_gradient(x, g, kernel.shape[:2], stride)


_conv.defvjp(_conv_forward, _conv_backward)
_weight_gradient.defvjp(_weight_gradient_forward, _weight_gradient_backward)
_input_gradient.defvjp(_input_gradient_forward, _input_gradient_backward)


def _conv_cpu(x, kernel, stride):
    if _winograd_pays(kernel.shape, stride, x.dtype):
        block = partial(winograd.conv, kernel=kernel)
    else:
        block = partial(patches.conv, kernel=kernel, stride=stride)
    return _in_blocks(block, x, kernel.shape[:2])


def _input_gradient_cpu(g, kernel, shape, stride):
    if stride > 1:
        return patches.conv_input_gradient(g, kernel, shape, stride)
    if _winograd_pays(kernel.shape, stride, g.dtype):
        block = partial(winograd.conv_input_gradient, kernel=kernel)
    else:
        block = partial(patches.conv, kernel=_turned(kernel), stride=1)
    return _in_blocks(block, g, kernel.shape[:2])


def _in_blocks(function, x, size):
    """`function(x)`, a block of images at a time."""
    blocks = _blocks(x, size)
    if blocks == 1:
        return function(x)
    y = lax.map(function, x.reshape(blocks, -1, *x.shape[1:]))
    return y.reshape(-1, *y.shape[2:])


def _weight_gradient_cpu(x, g, size, stride):
    shape = (*size, x.shape[-1], g.shape[-1])
    if _winograd_pays(shape, stride, x.dtype):
        block = winograd.conv_weight_gradient
    else:
        block = partial(patches.conv_weight_gradient, size=size, stride=stride)
    blocks = _blocks(x, size)
    if blocks == 1:
        return block(x, g)
    x, g = (a.reshape(blocks, -1, *a.shape[1:]) for a in (x, g))
    zeros = jnp.zeros(shape, x.dtype)
    return lax.scan(lambda total, xg: (total + block(*xg), None), zeros, (x, g))[0]


def _winograd_pays(shape, stride, dtype):
    # Few channels make the products too thin, and sums of four lose bits that bfloat16 lacks.
    return stride == 1 and shape[:2] == (3, 3) and min(shape[2:]) >= 16 and dtype.itemsize >= 4


def _blocks(x, size):
    """The least number of equal blocks of images such that the patches of a block fit into
    `_BLOCK_BYTES`, or one block for each image."""
    n, height, width, channels = x.shape
    patches_bytes = n * size[0] * size[1] * height * width * channels * x.dtype.itemsize
    least = min(n, -(-patches_bytes // _BLOCK_BYTES))
    return next(blocks for blocks in range(least, n + 1) if n % blocks == 0)


def _conv_xla(x, kernel, stride):
    pads = [(size // 2, size // 2) for size in kernel.shape[:2]]
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _input_gradient_xla(g, kernel, shape, stride):
    pads = [
        (k // 2, size + k - 1 - k // 2 - ((out - 1) * stride + 1))
        for k, size, out in zip(kernel.shape, shape, g.shape[1:3], strict=False)
    ]
    return lax.conv_general_dilated(
        g,
        _turned(kernel),
        (1, 1),
        pads,
        lhs_dilation=(stride, stride),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _turned(kernel):
    """The kernel that carries cotangents back: turned by half, its channels exchanged."""
    return jnp.flip(kernel, (0, 1)).swapaxes(2, 3)


def _weight_gradient_xla(x, g, size, stride):
    # One product for each position of the kernel: as a convolution `g` would be a kernel as large
    # as the image, and under vmap one such kernel for each task.
    (kh, kw), (height, width) = size, x.shape[1:3]
    pads = [(0, 0, 0), (kh // 2, kh // 2, 0), (kw // 2, kw // 2, 0), (0, 0, 0)]
    x = lax.pad(x, jnp.zeros((), x.dtype), pads)
    rows = []
    for i in range(kh):
        row = [x[:, i : i + height : stride, j : j + width : stride] for j in range(kw)]
        rows.append(jnp.stack([jnp.tensordot(a, g, ((0, 1, 2), (0, 1, 2))) for a in row]))
    return jnp.stack(rows)
