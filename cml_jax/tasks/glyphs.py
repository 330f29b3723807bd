"""An endless set of handwritten-like characters, drawn inside the compiled program."""

import math
from functools import partial

import jax
import jax.numpy as jnp

from cml_jax.types import Batch, Task

# Lengths are in sides of the sheet; chosen by eye and by nearest neighbours beside Omniglot.
_MAX_STROKES = 4
_STROKE_LENGTH = (0.6, 1.2)
_MAX_TURN = 1.8  # radians between the thirds of a curved stroke: an arc of most of a circle
_LIFT = 0.3  # how far from a joint the pen comes down again
_SHAKE = 0.04  # of every control point
_SLIP = 0.04  # of a whole stroke
_HAND = 0.12  # how far slant, stretch and turn of a drawing are from none
_THICKNESS = (0.03, 0.05)
_SCALE = (0.5, 0.85)
_DRAWING_NOISE = 5 * _MAX_STROKES + 2  # control points, strokes, a linear map
_MIN_EXTENT = 0.6  # of a character, in the units of its strokes
_PATH_POINTS = 32  # a stroke; above, XLA on CPU stops fusing _ink: 5 ms become 20 for 320 drawings


def glyphs(key: jax.Array, *, ways: int, shots: int, queries: int, size: int = 28) -> Task:
    """Draws one N-way K-shot task of characters that are made up from the key.

    A class is 2 to 4 pen strokes, which are cubic Bezier curves. Each drawing of it shakes the
    strokes and has its own slant, size, place and pen. There are endlessly many classes, so there
    is no split to keep: other keys (`task_keys` of another split) give other classes. Examples come
    class by class.

    >>> task = glyphs(jax.random.key(0), ways=5, shots=1, queries=3)
    >>> task.support.inputs.shape, task.query.inputs.shape
    ((5, 28, 28, 1), (15, 28, 28, 1))

    Args:
      key: A typed key; the whole task is a function of it.
      ways: Classes in the task, at least 1.
      shots: Support drawings of a class, at least 1.
      queries: Query drawings of a class, at least 1.
      size: The side of a drawing in pixels.

    Returns:
      A task: inputs float32 `[ways * shots, size, size, 1]`, ink 1 and paper 0, targets int32
      `[ways * shots]` in 0, ..., ways - 1; likewise `[ways * queries, ...]`.

    Raises:
      ValueError: A count or the size is below 1.

    Reference: characters as pen strokes, after Lake et al., 2015, doi 10.1126/science.aab3050.
    """
    if min(ways, shots, queries, size) < 1:
        raise ValueError(f"{ways=}, {shots=}, {queries=}, {size=}: each must be at least 1")

    # All noise in two draws: on CPU each further one adds about a second to the compilation.
    uniform_key, normal_key = jax.random.split(key)
    n = shots + queries
    u = jax.random.uniform(uniform_key, (ways, 8 + n, _MAX_STROKES))
    noise = jax.random.normal(normal_key, (ways, _MAX_STROKES + n * _DRAWING_NOISE, 2))
    strokes, drawn = jax.vmap(_character)(u[:, :8], noise[:, :_MAX_STROKES])
    draw = jax.vmap(jax.vmap(partial(_drawing, size=size), (None, None, 0, 0)))
    noise = noise[:, _MAX_STROKES:].reshape(ways, n, _DRAWING_NOISE, 2)
    images = draw(strokes, drawn, u[:, 8:], noise)[..., None]

    def batch(examples: jax.Array) -> Batch:
        per_class = examples.shape[1]
        labels = jnp.repeat(jnp.arange(ways, dtype=jnp.int32), per_class)
        return Batch(examples.reshape(ways * per_class, size, size, 1), labels)

    return Task(batch(images[:, :shots]), batch(images[:, shots:]))


def _character(u: jax.Array, lift: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Makes up a class: control points `[strokes, 4, 2]` as (x, y), and which strokes it has, bool.

    Args:
      u: Uniform noise `[8, strokes]`.
      lift: Normal noise `[strokes, 2]`.
    """
    length = _between(_STROKE_LENGTH, u[0])
    # A hand prefers the level, the upright and the diagonal, and no stroke retraces the last.
    eighths = jnp.cumsum(1 + jnp.floor(3 * u[1])) + jnp.floor(8 * u[2, 0])
    turn = jnp.where(u[3] < 0.75, _between((-_MAX_TURN, _MAX_TURN), u[4]), 0.0)
    heading = eighths[:, None] * (math.pi / 4) + turn[:, None] * jnp.arange(-1.0, 2.0)[None]
    steps = length[:, None, None] / 3 * jnp.stack([jnp.cos(heading), jnp.sin(heading)], -1)
    strokes = jnp.pad(jnp.cumsum(steps, 1), ((0, 0), (1, 0), (0, 0)))
    # The next stroke starts on this one (its start, middle or end), or near it where the pen lifts.
    t = jnp.floor(3 * u[5]) / 2
    lift = jnp.where(u[6, :, None] < 0.5, _LIFT * lift, 0.0)
    joints = jax.vmap(_bezier)(strokes, t[:, None])[:, 0] + lift
    starts = jnp.pad(jnp.cumsum(joints, 0)[:-1], ((1, 0), (0, 0)))
    drawn = jnp.arange(_MAX_STROKES) < 2 + jnp.floor(3 * u[7, 0]).astype(jnp.int32)
    return strokes + starts[:, None], drawn


def _drawing(
    strokes: jax.Array, drawn: jax.Array, u: jax.Array, noise: jax.Array, *, size: int
) -> jax.Array:
    """Makes one drawing `[size, size]` of a class.

    Args:
      strokes, drawn: The class, as `_character` returns it.
      u: Uniform noise `[4]`.
      noise: Normal noise `[_DRAWING_NOISE, 2]`.
    """
    shake, slip, hand = jnp.split(noise, (4 * _MAX_STROKES, 5 * _MAX_STROKES))
    strokes = strokes + _SHAKE * shake.reshape(strokes.shape) + _SLIP * slip[:, None]
    path = _bezier(strokes @ (jnp.eye(2) + _HAND * hand), jnp.linspace(0.0, 1.0, _PATH_POINTS))
    visible = drawn[:, None, None]
    low = jnp.min(path, (0, 1), keepdims=True, where=visible, initial=jnp.inf)
    high = jnp.max(path, (0, 1), keepdims=True, where=visible, initial=-jnp.inf)
    # A tight curl stays small: blown up, its path would fall apart into points.
    scale = _between(_SCALE, u[0]) / jnp.maximum(jnp.max(high - low), _MIN_EXTENT)
    room = (0.92 - scale * (high - low)) / 2
    centre = 0.5 + room * (u[1:3].reshape(room.shape) - 0.5)
    path = centre + scale * (path - (low + high) / 2)
    return _ink(path, drawn, _between(_THICKNESS, u[3]), size)


def _between(bounds: tuple[float, float], u: jax.Array) -> jax.Array:
    return bounds[0] + (bounds[1] - bounds[0]) * u


def _bezier(control: jax.Array, t: jax.Array) -> jax.Array:
    """Points `[..., n, 2]` of cubic curves `[..., 4, 2]` at `t [n]`."""
    s = 1 - t
    return jnp.stack([s**3, 3 * s**2 * t, 3 * s * t**2, t**3], -1) @ control


def _ink(path: jax.Array, drawn: jax.Array, thickness: jax.Array, size: int) -> jax.Array:
    """The sheet `[size, size]` after a round pen followed `path [strokes, points, 2]`.

    The line integral of a Gaussian along a path at distance d is exp(-d^2 / 2 sigma^2), the same
    for a slow and a fast pen; and a Gaussian is a product of one in x and one in y. So the distance
    of every pixel to the path is one small matrix product instead of a pixel-by-point search.
    """
    weights = jnp.linalg.norm(jnp.diff(path, axis=1), axis=-1) * drawn[:, None].astype(jnp.float32)
    middles = ((path[:, 1:] + path[:, :-1]) / 2).reshape(-1, 2)
    sigma = thickness / 2 + 0.2 / size
    pixels = (jnp.arange(size, dtype=jnp.float32)[:, None] + 0.5) / size

    def blur(points: jax.Array) -> jax.Array:
        return jnp.exp(-(((pixels - points[None]) / sigma) ** 2) / 2)

    integral = (blur(middles[:, 1]) * weights.reshape(1, -1)) @ blur(middles[:, 0]).T
    integral = jnp.clip(integral / (math.sqrt(2 * math.pi) * sigma), 1e-6, 1.0)
    distance = sigma * jnp.sqrt(-2 * jnp.log(integral))
    return jnp.clip((thickness / 2 - distance) * size + 0.5, 0.0, 1.0)
