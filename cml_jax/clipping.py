"""Optax's transformations that divide by a norm, with a finite derivative where the norm is zero.

The values are those of optax, bit for bit. Optax takes the square root of a sum of squares, whose
derivative at zero is infinite, so a meta-gradient through its forms is NaN as soon as one task has
a support gradient of zero, even when nothing is clipped. Here the root is only taken where the
result depends on it.
"""

import jax
import jax.numpy as jnp
import optax


def clip_by_global_norm(max_norm: jax.typing.ArrayLike) -> optax.GradientTransformation:
    """Scales the whole gradient down to a norm of at most `max_norm`.

        u = g                      where |g| < max_norm
        u = max_norm * g / |g|     elsewhere

    Args:
      max_norm: The largest norm, over all leaves together, that is left as it is.

    Returns:
      A transformation for `optax.chain`; `optax.clip_by_global_norm` with a finite derivative at
      zero.

    Reference: Pascanu et al. 2013, https://arxiv.org/abs/1211.5063, algorithm 1.

    >>> import jax, jax.numpy as jnp, optax
    >>> optimizer = optax.chain(clip_by_global_norm(1.0), optax.sgd(0.5))
    >>> def update(gradient):
    ...     return optimizer.update(gradient, optimizer.init(gradient))[0]
    >>> print(update(jnp.array([4.0, 0.0])))
    [-0.5 -0. ]

    A gradient of zero is not clipped, and the derivative there is that of plain gradient descent:

    >>> print(jax.jacobian(update)(jnp.zeros(2)))
    [[-0.5  0. ]
     [ 0.  -0.5]]
    """

    def update(gradients, _):
        square = optax.tree.norm(gradients, squared=True)
        size = jnp.sqrt(jax.lax.stop_gradient(square))
        clips = ~(size < max_norm) & (size != 0)
        norm = jnp.sqrt(jnp.where(clips, square, 1))
        return jax.tree.map(
            lambda g: jnp.where(clips, g / norm.astype(g.dtype) * max_norm, g), gradients
        )

    return optax.stateless(update)


def clip_by_block_rms(threshold: jax.typing.ArrayLike) -> optax.GradientTransformation:
    """Scales the gradient of each leaf down to a root mean square of at most `threshold`.

        u = g / max(1, rms(g) / threshold),   rms(g) = sqrt(mean(g^2)),   leaf by leaf

    Args:
      threshold: The largest root mean square of a leaf that is left as it is.

    Returns:
      A transformation for `optax.chain`; `optax.clip_by_block_rms` with a finite derivative at
      zero.

    Reference: Shazeer and Stern 2018, https://arxiv.org/abs/1804.04235, section 6.
    """

    def clip(g):
        square = jnp.mean(jnp.square(g))
        clips = ~(jnp.sqrt(jax.lax.stop_gradient(square)) / threshold <= 1)
        return g / jnp.where(clips, jnp.sqrt(jnp.where(clips, square, 1)) / threshold, 1)

    return optax.stateless(lambda gradients, _: jax.tree.map(clip, gradients))


def adaptive_grad_clip(
    clipping: jax.typing.ArrayLike,
    eps: jax.typing.ArrayLike = 1e-3,
    axis: int | tuple[int, ...] | None = None,
) -> optax.GradientTransformation:
    """Scales the gradient of each unit down to `clipping` times the norm of its parameters.

        u_i = g_i                        where |g_i| < m_i,   m_i = clipping * max(|p_i|, eps)
        u_i = g_i * m_i / |g_i|          elsewhere

    A unit i is what leads to one output: a column of a matrix, a filter of a convolution, the whole
    of a vector.

    Args:
      clipping: The largest ratio of the two norms that is left as it is, such as 0.01.
      eps: The least norm that parameters are taken to have, so that those at zero can move.
      axis: The axes over which a norm is taken; None chooses them by the rank of the leaf.

    Returns:
      A transformation for `optax.chain`; `optax.adaptive_grad_clip` with a finite derivative where
      gradients or parameters (the bias of a batch norm, at the start) are zero.

    Reference: Brock et al. 2021, https://arxiv.org/abs/2102.06171, section 4.1.
    """

    def square_norm(x):
        axes = axis
        if axes is None:
            vector = jnp.squeeze(x).ndim <= 1
            axes = None if vector else (0,) if x.ndim in (2, 3) else tuple(range(x.ndim - 1))
        return jnp.sum(jnp.square(x), axis=axes, keepdims=True)

    def clip(g, p):
        square = square_norm(p)
        large = jnp.sqrt(jax.lax.stop_gradient(square)) > eps
        max_norm = clipping * jnp.where(large, jnp.sqrt(jnp.where(large, square, 1)), eps)
        square = square_norm(g)
        size = jnp.sqrt(jax.lax.stop_gradient(square))
        clips = ~(size < max_norm) & (size != 0)
        norm = jnp.maximum(jnp.sqrt(jnp.where(clips, square, 1)), 1e-6)
        return jnp.where(clips, g * (max_norm / norm), g)

    return optax.stateless(lambda gradients, params: jax.tree.map(clip, gradients, params))


def normalize_by_update_norm(
    scale_factor: jax.typing.ArrayLike = 1.0, eps: jax.typing.ArrayLike = 1e-6
) -> optax.GradientTransformation:
    """Divides the whole gradient by its norm.

        u = scale_factor * g / (|g| + eps)

    The derivative at zero is `scale_factor / eps`: finite, but large.

    Args:
      scale_factor: The norm of the result.
      eps: The number added to the norm, so that zero is not divided by zero.

    Returns:
      A transformation for `optax.chain`; `optax.normalize_by_update_norm` with a finite derivative
      at zero.
    """

    def update(gradients, _):
        square = optax.tree.norm(gradients, squared=True)
        moves = square > 0
        norm = jnp.where(moves, jnp.sqrt(jnp.where(moves, square, 1)), square)
        divisor = (norm + eps) / scale_factor
        return jax.tree.map(lambda g: g / divisor, gradients)

    return optax.stateless(update)
