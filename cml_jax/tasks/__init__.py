"""Task distributions: pure functions of a key, to be vmapped over keys."""

from cml_jax.tasks.episodes import episodes
from cml_jax.tasks.glyphs import glyphs
from cml_jax.tasks.keys import task_keys
from cml_jax.tasks.nodes import nodes
from cml_jax.tasks.sinusoid import sinusoid, sinusoid_curve

__all__ = ["episodes", "glyphs", "nodes", "sinusoid", "sinusoid_curve", "task_keys"]
