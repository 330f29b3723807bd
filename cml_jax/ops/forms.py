"""The forms in which a convolution and its two gradients can be computed, and which one is taken.

Which is fastest depends on the device and on the shape. `forms.json` has, for each kind of device,
the form of each operation and class of shapes, and where that comes from;
`python -m benchmarks.convolutions` measures all of them and writes it.
"""

import json
from collections.abc import Callable, Sequence
from functools import reduce
from math import prod
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cml_jax.ops import patches, winograd

OPERATIONS = ("conv", "input_gradient", "weight_gradient")
CLASSES = ("wide", "small", "thin", "strided")
_FEW = 16  # channels; of fewer the products for each place of a tile are too thin
# Tiles of 4 x 4: of fewer the products are too thin for a kernel that is transformed, and the more
# so for one that no cache holds, of 512 x 512 channels for example.
_TILES, _ENTRIES_OF_A_TILE = 32, 2048
# On CPU one block of images is convolved at a time: what is made of it has to stay in the cache.
_BLOCK_BYTES = 8 * 2**20

PATH = Path(__file__).with_name("forms.json")
TABLE: dict[str, dict[str, Any]] = json.loads(PATH.read_text())


def chosen(
    platform: str,
    operation: str,
    images: Sequence[int],
    shape: Sequence[int],
    stride: int,
    dtype: Any,
) -> str:
    """The form that a device takes.

    Args:
      platform: As in `jax.Device.platform`, or "default" for those that have no row of their own.
      operation: One of `OPERATIONS`.
      images: Shape of the images or of the cotangent, `[n, h, w, channels]`.
      shape: Shape of the kernel, `[kh, kw, c, f]`.
      stride: Stride of both axes.
      dtype: Of the images.

    Returns:
      A name of `FORMS`. Where Winograd's form is in the table but does not fit, it is the form of
      few channels.
    """
    forms = TABLE.get(platform, TABLE["default"])["forms"][operation]
    form = forms[class_of(images, shape, stride)]
    return form if fits(form, shape, stride, dtype) else forms["thin"]


def class_of(images: Sequence[int], shape: Sequence[int], stride: int) -> str:
    """The class of shapes, one of `CLASSES`, that a convolution is in.

    Args:
      images: Shape of the images or of the cotangent, `[n, h, w, channels]`.
      shape: Shape of the kernel, `[kh, kw, c, f]`.
      stride: Stride of both axes.

    >>> class_of((5, 28, 28, 1), (3, 3, 1, 64), 1), class_of((5, 28, 28, 64), (3, 3, 64, 64), 2)
    ('thin', 'strided')
    >>> class_of((5, 28, 28, 64), (3, 3, 64, 64), 1), class_of((5, 3, 3, 64), (3, 3, 64, 64), 1)
    ('wide', 'small')
    >>> class_of((75, 4, 4, 512), (3, 3, 512, 512), 1)
    'small'
    """
    if stride > 1:
        return "strided"
    if min(shape[2:]) < _FEW:
        return "thin"
    fewest = max(_TILES, shape[2] * shape[3] // _ENTRIES_OF_A_TILE)
    return "small" if images[0] * prod(winograd.tiles(images, 4)) < fewest else "wide"


def fits(form: str, shape: Sequence[int], stride: int, dtype: Any) -> bool:
    """Whether a form can compute a convolution of this kernel, and accurately."""
    # Winograd's sums lose bits that bfloat16 lacks.
    small = jnp.dtype(dtype).itemsize < 4
    return form not in TILES or (stride == 1 and tuple(shape[:2]) == (3, 3) and not small)


def compute(
    form: str,
    operation: str,
    left: jax.Array,
    right: jax.Array,
    shape: tuple[int, ...],
    static: tuple[Any, ...],
    blocked: bool,
) -> jax.Array:
    """An operation in a form: `FORMS[form][operation](left, right, *static)`.

    Args:
      form: A name of `FORMS`.
      operation: One of `OPERATIONS`.
      left, right: Images and kernel, cotangent and kernel, or images and cotangent.
      shape: Shape of the kernel, `[kh, kw, c, f]`.
      static: The stride, after the input's height and width or the kernel's size.
      blocked: Whether one block of images is computed at a time, for a CPU's cache.
    """
    function = FORMS[form][operation]
    blocked = blocked and (operation != "input_gradient" or static[-1] == 1)
    blocks = _blocks(form, left, shape) if blocked else 1
    if blocks == 1:
        return function(left, right, *static)
    left = left.reshape(blocks, -1, *left.shape[1:])
    if operation == "weight_gradient":
        right = right.reshape(blocks, -1, *right.shape[1:])
        zeros = jnp.zeros(shape, left.dtype)
        return lax.scan(
            lambda total, xg: (total + function(*xg, *static), None), zeros, (left, right)
        )[0]
    y = lax.map(lambda images: function(images, right, *static), left)
    return y.reshape(-1, *y.shape[2:])


def _blocks(form, x, shape):
    """How many blocks of images there are, such that the patches of one, or its transformed tiles,
    fit into `_BLOCK_BYTES`."""
    n, height, width, channels = x.shape
    entries = shape[0] * shape[1] * height * width
    if form in TILES:
        entries = (TILES[form] + 2) ** 2 * prod(winograd.tiles(x.shape, TILES[form]))
    return equal_blocks(n, entries * channels * x.dtype.itemsize, _BLOCK_BYTES)


def equal_blocks(count: int, each: int, most: int) -> int:
    """The least number of equal blocks such that one has at most `most` bytes, or holds one thing.

    Args:
      count: How many things there are.
      each: Bytes of one of them.
      most: Bytes of a block.

    >>> equal_blocks(75, each=100, most=1000), equal_blocks(7, each=100, most=500)
    (15, 7)
    """
    least = min(count, -(-count * each // most))
    return next(blocks for blocks in range(least, count + 1) if count % blocks == 0)


def _xla_conv(x, kernel, stride):
    pads = [(size // 2, size // 2) for size in kernel.shape[:2]]
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _xla_input_gradient(g, kernel, shape, stride):
    x = jax.ShapeDtypeStruct((g.shape[0], *shape, kernel.shape[2]), g.dtype)
    return jax.linear_transpose(lambda x: _xla_conv(x, kernel, stride), x)(g)[0]


def _xla_weight_gradient(x, g, size, stride):
    kernel = jax.ShapeDtypeStruct((*size, x.shape[-1], g.shape[-1]), x.dtype)
    return jax.linear_transpose(lambda kernel: _xla_conv(x, kernel, stride), kernel)(g)[0]


def _taps(x, size, stride):
    """What each place of the kernel reads, `[n, ho, wo, c]` each, row by row."""
    (kh, kw), (height, width) = size, x.shape[1:3]
    pads = [(0, 0, 0), (kh // 2, kh // 2, 0), (kw // 2, kw // 2, 0), (0, 0, 0)]
    x = lax.pad(x, jnp.zeros((), x.dtype), pads)
    return [
        x[:, i : i + height : stride, j : j + width : stride] for i in range(kh) for j in range(kw)
    ]


def _taps_conv(x, kernel, stride):
    places = kernel.reshape(-1, *kernel.shape[2:])
    taps = _taps(x, kernel.shape[:2], stride)
    return reduce(jnp.add, (jnp.tensordot(tap, places[i], 1) for i, tap in enumerate(taps)))


def _taps_weight_gradient(x, g, size, stride):
    # XLA's own would have `g` as a kernel as large as the image, and under vmap one for each task.
    rows = [jnp.tensordot(tap, g, ((0, 1, 2), (0, 1, 2))) for tap in _taps(x, size, stride)]
    return jnp.stack(rows).reshape(*size, x.shape[-1], g.shape[-1])


def _taps_input_gradient(g, kernel, shape, stride):
    if stride > 1:
        return patches.conv_input_gradient(g, kernel, shape, stride)
    return _taps_conv(g, _turned(kernel), 1)


def _patches_input_gradient(g, kernel, shape, stride):
    if stride > 1:
        return patches.conv_input_gradient(g, kernel, shape, stride)
    return patches.conv(g, _turned(kernel), 1)


def _turned(kernel):
    """The kernel that carries cotangents back: turned by half, its channels exchanged."""
    return jnp.flip(kernel, (0, 1)).swapaxes(2, 3)


def _winograd_of(m):
    return {
        "conv": lambda x, kernel, stride: winograd.conv(x, kernel, m),
        "input_gradient": lambda g, kernel, _, stride: winograd.conv_input_gradient(g, kernel, m),
        "weight_gradient": lambda x, g, size, stride: winograd.conv_weight_gradient(x, g, m),
    }


TILES = {"winograd2": 2, "winograd4": 4}  # the height and width of a tile
# Form to operation to a function of the arrays and what is static, as in `conv.py`.
FORMS: dict[str, dict[str, Callable[..., jax.Array]]] = {
    "xla": {
        "conv": _xla_conv,
        "input_gradient": _xla_input_gradient,
        "weight_gradient": _xla_weight_gradient,
    },
    "taps": {
        "conv": _taps_conv,
        "input_gradient": _taps_input_gradient,
        "weight_gradient": _taps_weight_gradient,
    },
    "patches": {
        "conv": patches.conv,
        "input_gradient": _patches_input_gradient,
        "weight_gradient": patches.conv_weight_gradient,
    },
    **{form: _winograd_of(m) for form, m in TILES.items()},
}
