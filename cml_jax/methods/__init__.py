"""Meta-learning methods, one small file for each family."""

from cml_jax.methods.amm_gnn import Matched, amm_gnn, attribute_sets
from cml_jax.methods.cml import cml, cml_dagger, cml_dagger_released
from cml_jax.methods.collaborative import collaborative
from cml_jax.methods.linear_probing import linear_probing, logistic_regression
from cml_jax.methods.maml import anil, boil, fomaml, maml
from cml_jax.methods.maml_plus_plus import maml_plus_plus, multi_step_weights
from cml_jax.methods.meta_sgd import meta_sgd
from cml_jax.methods.prepared_inputs import with_prepared_inputs
from cml_jax.methods.proto_net import proto_net
from cml_jax.methods.reptile import reptile, reptile_released
from cml_jax.methods.sharp_maml import sharp_maml
from cml_jax.methods.unicorn_maml import unicorn_maml

__all__ = [
    "Matched",
    "amm_gnn",
    "anil",
    "attribute_sets",
    "boil",
    "cml",
    "cml_dagger",
    "cml_dagger_released",
    "collaborative",
    "fomaml",
    "linear_probing",
    "logistic_regression",
    "maml",
    "maml_plus_plus",
    "meta_sgd",
    "multi_step_weights",
    "proto_net",
    "reptile",
    "reptile_released",
    "sharp_maml",
    "unicorn_maml",
    "with_prepared_inputs",
]
