"""Two-dimensional convolution whose derivatives, of any order, are matrix products."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from cml_jax.ops.forms import TABLE, chosen, compute


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
    return _computed("conv", x, kernel, kernel.shape, stride)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _weight_gradient(x, g, size, stride):
    return _computed("weight_gradient", x, g, (*size, x.shape[-1], g.shape[-1]), size, stride)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _input_gradient(g, kernel, shape, stride):
    """The cotangent of an input whose height and width are `shape`."""
    return _computed("input_gradient", g, kernel, kernel.shape, shape, stride)


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


def _computed(operation, left, right, shape, *static):
    """An operation in the form that `forms.json` has for the device that it is compiled for."""
    forms = {
        platform: partial(
            compute,
            chosen(platform, operation, shape, static[-1], left.dtype),
            operation,
            shape=shape,
            static=static,
            blocked=platform == "cpu",
        )
        for platform in TABLE
    }
    return lax.platform_dependent(left, right, **forms)
