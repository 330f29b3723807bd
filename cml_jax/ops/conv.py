"""Two-dimensional convolution whose derivatives, of any order, are matrix products."""

import jax
import jax.numpy as jnp

from cml_jax.ops.forms import chosen, compute
from cml_jax.ops.primitive import linear_primitive


def conv(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Two-dimensional convolution of images with a kernel, zero padding `k // 2` on all sides.

        y[n, i, j, f] = sum_{a, b, c} x[n, i * stride + a - kh // 2, j * stride + b - kw // 2, c]
                        * kernel[a, b, c, f]

    A convolution is linear in each argument, and so are its input gradient and its weight
    gradient, whose derivatives are these three again. Each is an operation of its own
    (`linear_primitive`), so that under `vmap` with a kernel per task, at any order and in both
    modes, XLA on CPU sees batched matrix products; the convolutions that it would build from
    `lax.conv_general_dilated` are many times slower.

    Args:
      x: The images `[n, h, w, c]`, of any floating dtype.
      kernel: The kernel `[kh, kw, c, f]`, with odd kh and kw and the dtype of `x`.
      stride: The stride of both axes, a static integer from 1.

    Returns:
      An array `[n, ceil(h / stride), ceil(w / stride), f]`.

    Raises:
      ValueError: When shapes or dtypes do not fit, the kernel has an even size, the images are
        integers or the stride is below 1.

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
    if x.dtype != kernel.dtype:
        raise ValueError(f"x is {x.dtype} and the kernel {kernel.dtype}: convert one of them")
    return _conv(x, kernel, stride)


def _form(operation, kernel_shape, platform, left, right, *static):
    """An operation in the form that `forms.json` has for the platform."""
    form = chosen(platform, operation, left.shape, kernel_shape, static[-1], left.dtype)
    return compute(form, operation, left, right, kernel_shape, static, blocked=platform == "cpu")


_conv = linear_primitive(
    "conv",
    lambda platform, x, kernel, stride: _form("conv", kernel.shape, platform, x, kernel, stride),
    shape=lambda x, kernel, stride: (
        x.shape[0],
        *(-(-size // stride) for size in x.shape[1:3]),
        kernel.shape[3],
    ),
    left_transpose=lambda y, kernel, x, stride: _input_gradient(y, kernel, x[1:3], stride),
    right_transpose=lambda x, y, kernel, stride: _weight_gradient(x, y, kernel[:2], stride),
)
# The cotangent of the images, whose height and width are `size`.
_input_gradient = linear_primitive(
    "conv_input_gradient",
    lambda platform, g, kernel, size, stride: _form(
        "input_gradient", kernel.shape, platform, g, kernel, size, stride
    ),
    shape=lambda g, kernel, size, stride: (g.shape[0], *size, kernel.shape[2]),
    left_transpose=lambda x, kernel, g, size, stride: _conv(x, kernel, stride),
    right_transpose=lambda g, x, kernel, size, stride: _weight_gradient(x, g, kernel[:2], stride),
)
# The cotangent of the kernel, whose height and width are `size`.
_weight_gradient = linear_primitive(
    "conv_weight_gradient",
    lambda platform, x, g, size, stride: _form(
        "weight_gradient", (*size, x.shape[3], g.shape[3]), platform, x, g, size, stride
    ),
    shape=lambda x, g, size, stride: (*size, x.shape[3], g.shape[3]),
    left_transpose=lambda kernel, g, x, size, stride: _input_gradient(g, kernel, x[1:3], stride),
    right_transpose=lambda x, kernel, g, size, stride: _conv(x, kernel, stride),
)
