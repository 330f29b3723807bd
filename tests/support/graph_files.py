"""Small graphs as files: an npz, and the pickles of Planetoid."""

import collections
import pickle

import numpy as np

# Four nodes: 0 -> 1 twice, 1 - 2 both ways, 2 -> 2, 1 -> 3 with weight 0.
ARRAYS = {
    "adj_data": np.array([1, 1, 1, 0, 1, 1], np.float32),
    "adj_indices": np.array([1, 1, 2, 3, 1, 2], np.int32),
    "adj_indptr": np.array([0, 2, 4, 6, 6], np.int32),
    "adj_shape": np.array([4, 4]),
    "attr_data": np.array([2, 1, 3], np.uint8),
    "attr_indices": np.array([0, 2, 1], np.int32),
    "attr_indptr": np.array([0, 2, 2, 3, 3], np.int32),
    "attr_shape": np.array([4, 3]),
    "labels": np.array([0, 1, 1, 0]),
}


def write(path, **changes):
    arrays = {name: a for name, a in (ARRAYS | changes).items() if a is not None}
    np.savez_compressed(path, **arrays)
    return str(path)


# Planetoid: training nodes 0 - 2 (x = allx), test nodes 5 and 3; 4 has no features and no label.
class Csr:
    """As SciPy pickles a matrix, whose name `pickled` puts in."""

    def __init__(self, matrix):
        matrix = np.array(matrix, np.float32)
        rows, columns = np.nonzero(matrix)
        self._shape, self.data = matrix.shape, matrix[rows, columns]
        self.indices = columns.astype(np.int32)
        self.indptr = np.searchsorted(rows, np.arange(len(matrix) + 1)).astype(np.int32)


def pickled(value, protocol=2, module=b"scipy.sparse.csr"):
    content = pickle.dumps(value, protocol)
    if protocol > 3:
        return content
    return content.replace(f"{__name__}\nCsr".encode(), module + b"\ncsr_matrix")


GRAPH = {0: [1, 1, 2], 1: [0], 2: [0], 3: [5, 3], 4: [], 5: [3]}

PLANETOID = {
    "x": Csr([[1, 0]]),
    "y": np.array([[1, 0]], np.int32),
    "allx": Csr([[1, 0], [0, 2], [1, 1]]),
    "ally": np.array([[1, 0], [0, 1], [1, 0]], np.int32),
    "tx": Csr([[5, 0], [0, 3]]),
    "ty": np.array([[0, 1], [1, 0]], np.int32),
    "graph": collections.defaultdict(list, GRAPH),
}


def write_planetoid(folder, protocol=2, index="5\n3\n", **changes):
    for part, value in (PLANETOID | changes).items():
        raw = isinstance(value, bytes)
        content = value if raw else pickled(value, protocol)
        (folder / f"ind.cora.{part}").write_bytes(content)
    (folder / "ind.cora.test.index").write_text(index)


def bomb(protocol=2):
    """An array of a tebibyte, as NumPy's own reconstruction would make it."""
    function, (kind, _, code), _ = np.zeros(0, np.uint8).__reduce__()

    class Huge:
        def __reduce__(self):
            return function, (kind, (1 << 60,), code)

    return pickle.dumps(Huge(), protocol)


def false_pointers(protocol=2):
    """An array of a dtype that says of its bytes that they are no pointers, and then that they are.

    NumPy's own `dtype` believes it: it crashes, or worse, when the array is deleted.
    """
    function, (kind, _, code), _ = np.zeros(0, np.uint8).__reduce__()

    class Dtype:
        def __reduce__(self):
            pointers = {"a": (np.dtype("O"), 0)}
            return np.dtype, ("V8", False, True), (3, "|", None, ("a",), pointers, 8, 1, 1)

    class Array:
        def __reduce__(self):
            return function, (kind, (0,), code), (1, (1,), Dtype(), False, b"\x41" * 8)

    return pickle.dumps(Array(), protocol)
