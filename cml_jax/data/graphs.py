"""Graphs whose nodes are to be classified, from the files that users have."""

import contextlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cml_jax.data.files import Limits, one_line, search_folders
from cml_jax.data.formats import read_npz
from cml_jax.data.matrices import Entries, csr, dense, stored_labels, summed
from cml_jax.data.planetoid import planetoid_files, read_planetoid
from cml_jax.data.types import DataError, Split
from cml_jax.graphs.graph import Graph, graph
from cml_jax.graphs.sparse import sparse
from cml_jax.labels import check_labels

_MAX_BYTES = 1 << 29  # of a file and of its content; CoraFull has 30 million
_MAX_SMOOTHED = 1 << 30  # numbers of the dense A X; CoraFull has 172 million
# adj_data in gnn-benchmark's first files and in PyG's, adj_matrix.data in its later ones.
_MEMBERS = (
    r"((?:adj|attr)(?:_matrix[.]|_)(?:data|indices|indptr|shape)"
    r"|attr_matrix|labels|zero_label_mask)[.]npy"
)
_CSR = {
    matrix: {f"{matrix}_{part}" for part in ("data", "indices", "indptr", "shape")}
    for matrix in ("adj", "attr")
}

_log = logging.getLogger(__name__)


class _Known(NamedTuple):
    files: tuple[str, ...]
    nodes: int
    features: int
    classes: tuple[int, int, int]
    source: str


_PLANETOID = "the ind.* files of github.com/kimiyoung/planetoid (folder data)"
_BENCHMARK = "of github.com/shchur/gnn-benchmark (folder data/npz)"
_KNOWN = {
    "citeseer": _Known(
        ("citeseer_planetoid.npz", "citeseer.npz"), 3327, 3703, (2, 2, 2), _PLANETOID
    ),
    "cora": _Known(("cora_planetoid.npz", "cora.npz"), 2708, 1433, (3, 2, 2), _PLANETOID),
    "amazon_computer": _Known(
        ("amazon_cs.npz", "amazon_computers.npz", "amazon_electronics_computers.npz"),
        13752,
        767,
        (4, 3, 3),
        f"amazon_electronics_computers.npz {_BENCHMARK}",
    ),
    "cora_full": _Known(
        ("cora_full.npz",), 19793, 8710, (40, 15, 15), f"cora_full.npz {_BENCHMARK}"
    ),
}
CLASS_COUNTS = {name: known.classes for name, known in _KNOWN.items()}
CLASS_COUNTS["block_graph"] = (16, 7, 7)  # `cml_jax.graphs.block_graph`, which no file holds


def load_graph(name: str, data_dir: str | os.PathLike[str] | None = None) -> Graph:
    """Loads the graph citeseer, cora, amazon_computer or cora_full.

    Looks in `data_dir`, in `$CML_JAX_DATA` and in the user's cache, in each also in the sub-folder
    `graphs`, for an npz, see `read_graph`, or for Planetoid's eight files. Nothing is downloaded,
    and pickles are read without running code. Nodes of Planetoid without a label get the label -1.

    Args:
      name: The name of the graph.
      data_dir: A folder to look in first.

    Raises:
      DataError: The graph is nowhere, or what is there is not this graph.
    """
    if name not in _KNOWN:
        raise DataError(
            f"{name!r} is not a known graph: choose one of {', '.join(_KNOWN)}, or read a file "
            "with read_graph"
        )
    known = _KNOWN[name]
    looked_in = search_folders(data_dir, "graphs")
    for place in looked_in:
        for file in known.files:
            if (path := place / file).is_file():
                return _graph(name, *_of_shape(path, _read_npz(path), known))
        if paths := planetoid_files(place, name):
            return _graph(name, *_of_shape(paths[0].parent, read_planetoid(paths), known))
    raise DataError(
        f"{name} is not in {', '.join(map(str, looked_in))}: put {known.source} into one of them, "
        "or set CML_JAX_DATA to the folder that has them"
    )


def read_graph(path: str | os.PathLike[str]) -> Graph:
    """Reads any graph from an npz in the layout of gnn-benchmark.

    The file holds the CSR arrays `adj_data`, `adj_indices`, `adj_indptr` and `adj_shape`, the same
    of `attr` or a dense `attr_matrix`, and `labels`, where -1 stands for no class.

    Edges count in both directions, once, and not from a node to itself. Weights of edges are
    ignored, except that an edge of weight 0 is left out. Features are as stored.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(
    ...         f"{folder}/path.npz",  # three nodes in a row
    ...         adj_data=np.ones(2),
    ...         adj_indices=np.array([1, 2]),
    ...         adj_indptr=np.array([0, 1, 2, 2]),
    ...         adj_shape=np.array([3, 3]),
    ...         attr_matrix=np.eye(3),
    ...         labels=np.array([0, 1, 0]),
    ...     )
    ...     made = read_graph(f"{folder}/path.npz")
    >>> made.adjacency.shape, made.labels
    ((3, 3), array([0, 1, 0], dtype=int32))

    Args:
      path: The path of the file.

    Raises:
      DataError: There is no such file, or it does not hold such a graph.
    """
    with contextlib.suppress(RuntimeError):  # "~stranger"
        path = Path(path).expanduser()
    path = Path(path)
    if not path.is_file():
        raise DataError(f"there is no file {path}: correct its path")
    return _graph(str(path), *_read_npz(path))


def split_classes(
    labels: np.ndarray, counts: Sequence[int], seed: int, *, at_least: int = 1
) -> Split:
    """Draws which classes are for training, validation and test.

    >>> split_classes(np.array([0, 1, 2, 3, 3, -1]), (2, 1, 1), seed=0)
    Split(train=(0, 2), validation=(1,), test=(3,))

    Args:
      labels: The class of each node, integers `[n]`; -1 for a node without a class.
      counts: How many classes each of the three gets.
      seed: The seed of the draw.
      at_least: The number of nodes that a class must have; classes with fewer are left out, and
        the log says so.

    Raises:
      ValueError: Labels are not integers `[n]`.
      DataError: There are not that many classes.
    """
    labels = check_labels(labels, of="node")
    classes, sizes = np.unique(labels[labels >= 0], return_counts=True)
    small = classes[sizes < at_least]
    if len(small):
        _log.warning("classes %s have fewer than %d nodes: left out", small.tolist(), at_least)
    classes = classes[sizes >= at_least]
    if min(counts) < 1 or len(counts) != 3 or sum(counts) > len(classes):
        raise DataError(
            f"class counts {tuple(counts)} but {len(classes)} classes have {at_least} nodes: give "
            "three positive counts that add up to no more"
        )
    drawn = np.random.default_rng(seed).permutation(classes)
    ends = np.cumsum(counts)
    parts = np.split(drawn[: ends[-1]], ends[:-1])
    return Split(*(tuple(sorted(part.tolist())) for part in parts))


def read_class_split(path: str | os.PathLike[str]) -> Split:
    """Reads a class split of a graph from JSON.

        {"train": [0, 1], "validation": [2], "test": [3]}

    Args:
      path: The path of the file.

    Raises:
      DataError: The file holds something else, or a class occurs twice.
    """
    path = Path(path)
    try:
        if path.stat().st_size > 1 << 20:
            raise ValueError("over 1 MB")
        content = json.loads(path.read_text(encoding="utf-8"))
        split = Split(*(tuple(sorted(content[part])) for part in Split._fields))
        classes = [c for part in split for c in part]
        if not all(split) or not all(type(c) is int and c >= 0 for c in classes):
            raise ValueError("classes are integers from 0, at least one a split")
        if len(set(classes)) < len(classes):
            raise ValueError("a class occurs twice")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{path} is not a class split ({type(error).__name__}: {one_line(error)}): write "
            '{"train": [0, 1], "validation": [2], "test": [3]}'
        ) from error
    return split


def _read_npz(path: Path) -> tuple[Entries, Entries, np.ndarray]:
    # Bytes that are all 1 shrink as far as deflate goes; their number is bounded.
    arrays = read_npz(path, _MEMBERS, Limits(64, _MAX_BYTES, _MAX_BYTES, ratio=1100))
    arrays = {name.replace("_matrix.", "_"): array for name, array in arrays.items()}
    features = {"attr_matrix"} if "attr_matrix" in arrays else _CSR["attr"]
    if missing := (_CSR["adj"] | features | {"labels"}) - arrays.keys():
        raise DataError(
            f"{path} has no {min(missing)}: a graph's npz has adj_data, adj_indices, "
            "adj_indptr and adj_shape of a CSR matrix, the same of attr or a dense attr_matrix, "
            "and labels"
        )
    adjacency = csr(path, arrays, "adj")
    if "attr_matrix" in arrays:
        features = dense(path, arrays["attr_matrix"])
    else:
        features = summed(csr(path, arrays, "attr"))
    labels = stored_labels(path, arrays["labels"])
    missing = arrays.get("zero_label_mask")
    if missing is not None:
        if missing.dtype != bool or missing.shape != labels.shape:
            raise DataError(f"{path}: zero_label_mask is not one bool a node: correct the file")
        labels = np.where(missing, -1, labels)
    if not adjacency.shape[0] == adjacency.shape[1] == features.shape[0] == len(labels):
        raise DataError(
            f"{path}: adjacency {adjacency.shape}, features {features.shape} and {len(labels)} "
            "labels are not of one graph: correct the file"
        )
    return adjacency, features, labels


def _of_shape(path, parts, known):
    nodes, features = parts[1].shape
    if (nodes, features) != (known.nodes, known.features):
        raise DataError(
            f"{path} has {nodes} nodes and {features} features, not {known.nodes} and "
            f"{known.features}: take {known.source}, or read it by its path"
        )
    return parts


def _graph(name: str, adjacency: Entries, features: Entries, labels: np.ndarray) -> Graph:
    n, m = features.shape
    if n * m > _MAX_SMOOTHED:
        raise DataError(f"{name}: {n} nodes with {m} features do not fit in memory: take fewer")
    edges = np.stack([adjacency.rows, adjacency.columns], 1).astype(np.int64)
    edges = edges[adjacency.values != 0]
    loops = np.count_nonzero(edges[:, 0] == edges[:, 1])
    edges = edges[edges[:, 0] != edges[:, 1]]
    directed = np.unique(edges @ np.array([n, 1]))
    undirected = len(np.unique(np.sort(edges, 1) @ np.array([n, 1])))
    made = graph(edges, sparse(*features), labels)
    _log.info(
        "%s: %d nodes, %d edges, %d features, %d classes; left out %d edges to oneself and %d "
        "repetitions, %d edges led one way only; %d nodes without features, %d without label",
        name,
        n,
        undirected,
        m,
        len(np.unique(labels[labels >= 0])),
        loops,
        len(edges) - len(directed),
        2 * undirected - len(directed),
        n - len(np.unique(features.rows[features.values != 0])),
        np.count_nonzero(labels < 0),
    )
    return made
