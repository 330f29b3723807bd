"""Meta-learning methods, one small file a family."""

from cml_jax.methods.cml import cml, cml_dagger, cml_dagger_released
from cml_jax.methods.maml import anil, boil, fomaml, maml
from cml_jax.methods.reptile import reptile

__all__ = [
    "anil",
    "boil",
    "cml",
    "cml_dagger",
    "cml_dagger_released",
    "fomaml",
    "maml",
    "reptile",
]
