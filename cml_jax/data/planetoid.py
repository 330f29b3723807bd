"""Planetoid's graphs: eight files, of which seven are pickles, read without running code."""

import collections
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from cml_jax.data.files import one_line
from cml_jax.data.matrices import Entries, csr, summed
from cml_jax.data.pickles import unpickle
from cml_jax.data.types import DataError

_PARTS = ("x", "y", "tx", "ty", "allx", "ally", "graph", "test.index")
_MAX_BYTES = 1 << 27  # of a file; the largest of the three common graphs has 16 million


def planetoid_files(place: Path, name: str) -> list[Path]:
    """The eight files of a graph if they are in a folder, else an empty list.

    Raises:
      DataError: Only some of them are there.
    """
    paths = [place / f"ind.{name}.{part}" for part in _PARTS]
    missing = [path for path in paths if not path.is_file()]
    if missing and len(missing) < len(paths):
        raise DataError(f"{missing[0]} is missing: put all of ind.{name}.* side by side")
    return [] if missing else paths


def read_planetoid(paths: list[Path]) -> tuple[Entries, Entries, np.ndarray]:
    """Reads adjacency, features and labels from the files of `planetoid_files`.

    `test.index` says which nodes the rows of tx are. CiteSeer's leaves out nodes that are in the
    graph: these have no features, and the label -1.

    Raises:
      DataError: A file is damaged, would run code, or does not fit the others.
    """
    x, _, tx, ty, allx, ally, neighbours, index = (_path_content(path) for path in paths)
    del x  # the first rows of allx
    name = paths[0].with_suffix("")
    known, asked = (_features(path, part) for path, part in ((paths[4], allx), (paths[2], tx)))
    test = _test_index(paths[7], index, len_asked=asked.shape[0], first=known.shape[0])
    n, m = int(test.max()) + 1, known.shape[1]
    if asked.shape[1] != m:
        raise DataError(f"{name}: tx has {asked.shape[1]} columns, allx has {m}: replace the files")
    features = Entries(
        np.concatenate([known.rows, test[asked.rows]]),
        np.concatenate([known.columns, asked.columns]),
        np.concatenate([known.values, asked.values]),
        (n, m),
    )
    labels = np.full(n, -1, np.int32)
    labels[: known.shape[0]] = _labels(paths[5], ally, known.shape[0])
    labels[test] = _labels(paths[3], ty, asked.shape[0])
    return _edges(paths[6], neighbours, n), features, labels


def _path_content(path: Path) -> Any:
    if not path.name.endswith(".test.index"):
        return _sparse_pickle(path)
    try:
        with path.open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): correct it") from error
    if len(content) > _MAX_BYTES:
        raise DataError(f"{path} has over {_MAX_BYTES} bytes: replace it with a good copy")
    return content


def _sparse_pickle(path: Path) -> Any:
    class Matrix:  # instead of SciPy's; anew each time, as a pickle may set its attributes
        pass

    def reconstructor(cls, base, state):
        if cls is not Matrix or base is not object or state is not None:
            raise pickle.UnpicklingError("reconstructs something else than a matrix")
        return Matrix()

    also: dict[tuple[str, str], Any] = {("collections", "defaultdict"): collections.defaultdict}
    for builtins in ("__builtin__", "builtins"):
        also |= {(builtins, "list"): list, (builtins, "object"): object}
    for copyreg in ("copy_reg", "copyreg"):
        also[copyreg, "_reconstructor"] = reconstructor
    for scipy in ("scipy.sparse.csr", "scipy.sparse._csr"):
        also[scipy, "csr_matrix"] = Matrix
    made = unpickle(path, _MAX_BYTES, also)
    return vars(made) if isinstance(made, Matrix) else made


def _features(path: Path, state: Any) -> Entries:
    if not isinstance(state, dict):
        raise DataError(f"{path} is a {type(state).__name__}, not a sparse matrix: replace it")
    parts = {f"x_{part}": state.get(part) for part in ("data", "indices", "indptr")}
    shape = state.get("_shape", state.get("shape"))
    if not isinstance(shape, tuple) or not all(isinstance(s, int) for s in shape):
        raise DataError(f"{path} is a matrix of shape {shape!r:.40}: replace it")
    if max(shape, default=0) >= 1 << 31:
        raise DataError(f"{path} is a matrix of shape {shape!r:.40}: replace it")
    return summed(csr(path, parts | {"x_shape": np.array(shape, np.int64)}, "x"))


def _labels(path: Path, array: Any, rows: int) -> np.ndarray:
    """The classes of one-hot rows; -1 where a row is 0."""
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "biuf":
        raise DataError(f"{path} does not have labels, one row for each node: replace it")
    hot = array == 1
    if len(array) != rows or not ((array == 0) | hot).all() or (hot.sum(1) > 1).any():
        raise DataError(
            f"{path} has labels {array.shape} that are not one-hot for {rows} nodes: replace it"
        )
    return np.where(hot.any(1), hot.argmax(1), -1).astype(np.int32)


def _test_index(path: Path, content: bytes, len_asked: int, first: int) -> np.ndarray:
    try:
        index = np.array([int(line) for line in content.split()], np.int64)
    except (ValueError, OverflowError) as error:
        raise DataError(f"{path} has {one_line(error)}: replace it with a good copy") from error
    end = first + len_asked + 10_000  # nodes that are left out; CiteSeer has 15
    if len(index) != len_asked or len(np.unique(index)) != len_asked or not len_asked:
        raise DataError(
            f"{path} does not have {len_asked} different numbers, as tx has rows: replace it"
        )
    if index.min() < first or index.max() >= end:
        raise DataError(f"{path} leaves {first}, ..., {end - 1}: replace it with a good copy")
    return index


def _edges(path: Path, neighbours: Any, n: int) -> Entries:
    if not isinstance(neighbours, dict) or not all(type(v) is list for v in neighbours.values()):
        raise DataError(f"{path} is not a dict of lists of neighbours: replace it with a good copy")
    lengths = [len(v) for v in neighbours.values()]
    ends = [*neighbours, *(u for v in neighbours.values() for u in v)]
    if not all(isinstance(u, int | np.integer) and 0 <= u < n for u in ends):
        raise DataError(f"{path} has a node outside of 0, ..., {n - 1}: replace it")
    ends = np.array(ends, np.int64)
    rows = np.repeat(ends[: len(lengths)], lengths)
    return Entries(rows, ends[len(lengths) :], np.ones(len(rows)), (n, n))
