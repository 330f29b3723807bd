"""The features of one task in a plane, and how far apart its classes are."""

import jax
import jax.numpy as jnp


def principal_components(
    features: jax.Array, num_components: int = 2
) -> tuple[jax.Array, jax.Array]:
    """The coordinates of examples along the directions in which they differ most.

        X - mean(X) = U S V^T;   coordinates U_k S_k,   share of the variance S_k^2 / sum_j S_j^2

    The sign of a component is free; here the coordinate that is largest in size is positive.

    Args:
      features: `[n, ...]`, flattened for each example.
      num_components: The number of directions, at most n and at most the number of features.

    Returns:
      `(coordinates [n, num_components], shares [num_components])`. Shares are NaN where all
      examples are the same.

    Raises:
      ValueError: When there are fewer examples or features than components.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([[5.0, 1.0], [1.0, 1.0], [3.0, 2.0], [3.0, 0.0]])
    >>> coordinates, shares = principal_components(x)
    >>> print(jnp.round(jnp.abs(coordinates[:, 0]), 3), jnp.round(shares, 3))
    [2. 2. 0. 0.] [0.8 0.2]
    """
    x = features.reshape(len(features), -1)
    if num_components > min(x.shape):
        raise ValueError(
            f"num_components={num_components} but there are {x.shape[0]} examples of {x.shape[1]} "
            f"features: ask for at most {min(x.shape)}"
        )
    u, s, _ = jnp.linalg.svd(x - x.mean(0, keepdims=True), full_matrices=False)
    largest = jnp.take_along_axis(u, jnp.argmax(jnp.abs(u), 0)[None], 0)
    coordinates = jnp.where(largest < 0, -u, u) * s[None]
    return coordinates[:, :num_components], (jnp.square(s) / jnp.square(s).sum())[:num_components]


def between_class_share(features: jax.Array, targets: jax.Array, ways: int) -> jax.Array:
    """The share of the features' variance that is between classes.

        sum_c n_c |m_c - m|^2 / sum_i |x_i - m|^2

    where m is the mean of all examples and m_c that of class c. It is 1 where each class is a
    point, and 0 where all classes have the same mean. (With one example a class it is 1.)

    Args:
      features: `[n, ...]`, flattened for each example.
      targets: The class of each example, integers in [0, ways), `[n]`.
      ways: The number of classes.

    Returns:
      A scalar in [0, 1]; NaN where all examples are the same.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([[0.0], [2.0], [4.0], [6.0]])
    >>> print(between_class_share(x, jnp.array([0, 0, 1, 1]), 2))
    0.8
    """
    x = features.reshape(len(features), -1)
    x = x - x.mean(0, keepdims=True)
    is_of = jax.nn.one_hot(targets, ways, dtype=x.dtype)  # [n, ways]
    counts = is_of.sum(0)
    sums = jnp.matmul(is_of.T, x, precision=jax.lax.Precision.HIGHEST)
    between = jnp.sum(jnp.square(sums) / jnp.maximum(counts, 1)[:, None])
    return between / jnp.sum(jnp.square(x))
