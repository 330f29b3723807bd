"""Files to arrays, on the host, once: the only part of the library that reads or writes files."""

from cml_jax.data.cifar import load_cifar_fs, load_fc100
from cml_jax.data.folder import load_folder
from cml_jax.data.graphs import load_graph, read_class_split, read_graph, split_classes
from cml_jax.data.mini_imagenet import load_mini_imagenet
from cml_jax.data.omniglot import load_omniglot
from cml_jax.data.types import DataError, Images, Split
from cml_jax.data.vgg_flower import load_vgg_flower

__all__ = [
    "DataError",
    "Images",
    "Split",
    "load_cifar_fs",
    "load_fc100",
    "load_folder",
    "load_graph",
    "load_mini_imagenet",
    "load_omniglot",
    "load_vgg_flower",
    "read_class_split",
    "read_graph",
    "split_classes",
]
