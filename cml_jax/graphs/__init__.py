"""Graphs whose nodes are classified: structures made on the host and read in compiled programs."""

from cml_jax.graphs.block_graph import block_graph
from cml_jax.graphs.blocks import sum_blocks
from cml_jax.graphs.graph import Graph, feature_scale, graph, normalize_features, scale_features
from cml_jax.graphs.sparse import Sparse, count_entries, dense_rows, entries, matmul, sparse
from cml_jax.graphs.subgraphs import Subgraph, Subgraphs, subgraphs, subgraphs_of

__all__ = [
    "Graph",
    "Sparse",
    "Subgraph",
    "Subgraphs",
    "block_graph",
    "count_entries",
    "dense_rows",
    "entries",
    "feature_scale",
    "graph",
    "matmul",
    "normalize_features",
    "scale_features",
    "sparse",
    "subgraphs",
    "subgraphs_of",
    "sum_blocks",
]
