"""Lists of runs, by the name of their study: `python -m experiments.study NAME` makes them."""

from experiments.studies.agreement import AGREEMENT
from experiments.studies.co_learner import CO_LEARNER
from experiments.studies.images import (
    CIFAR_FS,
    CIFAR_FS_FULL,
    CIFAR_FS_SEEDS,
    FC100,
    FC100_FULL,
    MINI_IMAGENET,
    MINI_IMAGENET_FULL,
)
from experiments.studies.methods import METHODS
from experiments.studies.nodes import NODES, SPLITS
from experiments.studies.omniglot import OMNIGLOT, OMNIGLOT_20WAY, OMNIGLOT_METHODS
from experiments.studies.sinusoid import SINUSOID, SINUSOID_AGREEMENT
from experiments.studies.study import Study

STUDIES: dict[str, Study] = {
    "omniglot": OMNIGLOT,
    "omniglot_20way": OMNIGLOT_20WAY,
    "omniglot_methods": OMNIGLOT_METHODS,
    "sinusoid": SINUSOID,
    "sinusoid_agreement": SINUSOID_AGREEMENT,
    "agreement": AGREEMENT,
    "co_learner": CO_LEARNER,
    "methods": METHODS,
    "nodes": NODES,
    "node_splits": SPLITS,
    "cifar_fs": CIFAR_FS,
    "cifar_fs_seeds": CIFAR_FS_SEEDS,
    "fc100": FC100,
    "mini_imagenet": MINI_IMAGENET,
    "cifar_fs_full": CIFAR_FS_FULL,
    "fc100_full": FC100_FULL,
    "mini_imagenet_full": MINI_IMAGENET_FULL,
}
