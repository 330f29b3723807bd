"""Sinusoid regression: each task is a sine wave."""

import math

import jax
import jax.numpy as jnp

from cml_jax.types import Batch, Task

Range = tuple[float, float]


def sinusoid(
    key: jax.Array,
    *,
    shots: int,
    queries: int,
    amplitude: Range = (0.1, 5.0),
    phase: Range = (0.0, math.pi),
    inputs: Range = (-5.0, 5.0),
) -> Task:
    """Draws a sine wave and points on it, as one regression task.

        y = A sin(x - phase),    A ~ U[amplitude], phase ~ U[phase], x ~ U[inputs]

    The defaults are MAML's and CML's. Gradient agreement and Reptile write y = a sin(x + b) with
    b ~ U[0, 2 pi]: over a whole period the sign of a phase does not matter, so theirs is
    `phase=(0.0, 2 * math.pi)`.

    >>> task = sinusoid(jax.random.key(0), shots=5, queries=10)
    >>> task.support.inputs.shape, task.query.targets.shape
    ((5, 1), (10, 1))

    Args:
      key: A typed key; the whole task is a function of it. The support is the same for any number
        of queries.
      shots: Points in the support, at least 1.
      queries: Points in the query, at least 1.
      amplitude, phase, inputs: The bounds (low, high) of A, of the phase and of x.

    Returns:
      A task whose inputs and targets are float32 `[shots, 1]` and `[queries, 1]`.

    Raises:
      ValueError: A count is below 1.

    Reference: Finn et al., 2017, section 5.1, https://arxiv.org/abs/1703.03400.
    """
    if shots < 1 or queries < 1:
        raise ValueError(f"{shots=}, {queries=}: a sinusoid task needs at least 1 of each")

    def points(key: jax.Array, count: int) -> Batch:
        x = jax.random.uniform(key, (count, 1), jnp.float32, *inputs)
        return Batch(x, _wave(wave_key, x, amplitude, phase))

    wave_key, support_key, query_key = jax.random.split(key, 3)
    return Task(points(support_key, shots), points(query_key, queries))


def sinusoid_curve(
    key: jax.Array,
    x: jax.Array,
    *,
    amplitude: Range = (0.1, 5.0),
    phase: Range = (0.0, math.pi),
) -> jax.Array:
    """Evaluates the true curve of the task `sinusoid(key, ...)`, for figures.

    >>> key = jax.random.key(0)
    >>> support = sinusoid(key, shots=5, queries=10).support
    >>> bool((sinusoid_curve(key, support.inputs) == support.targets).all())
    True

    Args:
      key: The key of the task.
      x: float32 of any shape.
      amplitude, phase: What `sinusoid` was given.

    Returns:
      A sin(x - phase), float32 of the shape of x.
    """
    return _wave(jax.random.split(key, 3)[0], x, amplitude, phase)


def _wave(key: jax.Array, x: jax.Array, amplitude: Range, phase: Range) -> jax.Array:
    amplitude_key, phase_key = jax.random.split(key)
    a = jax.random.uniform(amplitude_key, (), jnp.float32, *amplitude)
    return a * jnp.sin(x - jax.random.uniform(phase_key, (), jnp.float32, *phase))
