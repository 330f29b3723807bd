"""Flax networks, each a `Model`; the only place in the library that knows Flax."""

from cml_jax.models.adapters import from_linen, from_nnx
from cml_jax.models.conv import conv4, conv_co_learner
from cml_jax.models.gcn import gcn, node_co_learner, sgc
from cml_jax.models.gmeta import gmeta
from cml_jax.models.layers import BatchNorm, ConvBlock, Linear
from cml_jax.models.mlp import linear_co_learner, mlp, mlp_co_learner
from cml_jax.models.resnet12 import resnet12, resnet12_co_learner

__all__ = [
    "BatchNorm",
    "ConvBlock",
    "Linear",
    "conv4",
    "conv_co_learner",
    "from_linen",
    "from_nnx",
    "gcn",
    "gmeta",
    "linear_co_learner",
    "mlp",
    "mlp_co_learner",
    "node_co_learner",
    "resnet12",
    "resnet12_co_learner",
    "sgc",
]
