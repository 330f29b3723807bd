"""Task distributions: pure functions of a key, to be vmapped over keys."""

from cml_jax.tasks.episodes import Gathered, ImagePool, drawn_episode, episodes
from cml_jax.tasks.glyphs import glyphs
from cml_jax.tasks.keys import task_keys
from cml_jax.tasks.members import Drawn, Members, draw_ids
from cml_jax.tasks.minibatch import minibatch
from cml_jax.tasks.nodes import nodes
from cml_jax.tasks.sinusoid import sinusoid, sinusoid_curve

__all__ = [
    "Drawn",
    "Gathered",
    "ImagePool",
    "Members",
    "draw_ids",
    "drawn_episode",
    "episodes",
    "glyphs",
    "minibatch",
    "nodes",
    "sinusoid",
    "sinusoid_curve",
    "task_keys",
]
