"""Files to arrays, on the host, once: the only part of the library that reads or writes files."""

from cml_jax.data.graphs import load_graph, read_class_split, read_graph, split_classes
from cml_jax.data.omniglot import load_omniglot
from cml_jax.data.types import DataError, Images, Split

__all__ = [
    "DataError",
    "Images",
    "Split",
    "load_graph",
    "load_omniglot",
    "read_class_split",
    "read_graph",
    "split_classes",
]
