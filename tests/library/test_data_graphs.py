"""Graphs from files: the real ones, Planetoid's layout, and hostile files."""

import logging
import os
import pickle
import zipfile

import numpy as np
import pytest
from support.battery import assert_same
from support.graph_files import ARRAYS, GRAPH, PLANETOID, Csr, bomb, pickled, write, write_planetoid

from cml_jax.data import DataError, load_graph, read_class_split, read_graph, split_classes
from cml_jax.data.graphs import CLASS_COUNTS
from cml_jax.graphs.sparse import Sparse


@pytest.fixture(autouse=True)
def no_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("CML_JAX_CACHE", str(tmp_path / "cache"))


def dense(matrix: Sparse):
    full = np.zeros(matrix.shape)
    np.add.at(full, (matrix.rows, matrix.columns), matrix.values)
    return full


X = np.array([[2, 0, 1], [0, 0, 0], [0, 3, 0], [0, 0, 0]])
MEANS = np.array([[3, 3, 0, 0], [2, 2, 2, 0], [0, 3, 3, 0], [0, 0, 0, 6]]) / 6


def test_small_npz(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        made = read_graph(write(tmp_path / "own.npz", class_names=np.array([{}], object)))
    np.testing.assert_allclose(dense(made.adjacency), MEANS)
    np.testing.assert_array_equal(dense(made.features), X)
    np.testing.assert_allclose(made.smoothed, MEANS @ X, rtol=1e-6)
    np.testing.assert_array_equal(made.labels, [0, 1, 1, 0])
    (said,) = (record.message for record in caplog.records)
    assert said.endswith(
        "4 nodes, 2 edges, 3 features, 2 classes; left out 1 edges to oneself and 1 repetitions, "
        "1 edges led one way only; 2 nodes without features, 0 without label"
    )


def test_other_layouts_are_the_same_graph(tmp_path):
    expected = read_graph(write(tmp_path / "a.npz"))
    attributes = {name: None for name in ARRAYS if name.startswith("attr")}
    assert_same(read_graph(write(tmp_path / "b.npz", **attributes, attr_matrix=X)), expected)
    later = {name.replace("_", "_matrix.", 1): a for name, a in ARRAYS.items() if "_" in name}
    np.savez(tmp_path / "c.npz", **later, labels=ARRAYS["labels"])
    assert_same(read_graph(str(tmp_path / "c.npz")), expected)
    twice = {
        "attr_data": np.array([1, 1, 1, 3]),
        "attr_indices": np.array([0, 2, 0, 1]),
        "attr_indptr": np.array([0, 3, 3, 4, 4]),
    }
    assert_same(read_graph(write(tmp_path / "d.npz", **twice)), expected)
    falling = {"attr_data": np.array([1, 2, 3]), "attr_indices": np.array([2, 0, 1], np.uint64)}
    assert_same(read_graph(write(tmp_path / "e.npz", **falling)), expected)


def test_a_mask_takes_labels_away(tmp_path):
    mask = np.array([False, False, True, False])
    made = read_graph(write(tmp_path / "own.npz", zero_label_mask=mask))
    np.testing.assert_array_equal(made.labels, [0, 1, -1, 0])
    unlabelled = np.array([0, 1, -1, 0])
    assert_same(read_graph(write(tmp_path / "other.npz", labels=unlabelled)), made)


HUGE = np.array([0, 2, 4, 1 << 40, 6])
HOSTILE = {
    "no adjacency": (
        {"adj_data": None},
        "has no adj_data: a graph's npz has",
    ),
    "no labels": ({"labels": None}, "has no labels: a graph's npz has"),
    "objects": ({"adj_data": np.array([{}] * 6, object)}, "damaged"),
    "objects as labels": ({"labels": np.array([0, 1, 1, "a"], object)}, "damaged"),
    "text": ({"adj_data": np.array(["1"] * 6)}, "adj_data is of <U1"),
    "complex": ({"attr_data": np.ones(3, np.complex64)}, "attr_data is of complex64"),
    "not a number": ({"attr_data": np.array([1, np.nan, 1])}, "not finite"),
    "infinite in float32": ({"attr_data": np.array([1, 1e39, 1])}, "not finite"),
    "a column too far": ({"attr_indices": np.array([0, 3, 1])}, r"attr_indices leave 0, ..., 2"),
    "a negative column": ({"adj_indices": np.array([1, 1, 2, -3, 1, 2])}, "adj_indices leave"),
    "fractions of columns": ({"adj_indices": np.ones(6)}, "adj_indices is of float64"),
    "indptr that falls": ({"adj_indptr": np.array([0, 4, 2, 6, 6])}, "does not rise"),
    "indptr not from 0": ({"adj_indptr": np.array([1, 2, 4, 6, 6])}, "does not rise"),
    "indptr too long": ({"adj_indptr": np.array([0, 2, 4, 6, 6, 6])}, "does not rise"),
    "indptr to nowhere": ({"adj_indptr": HUGE[[0, 1, 2, 3, 3]]}, "ends at 1099511627776"),
    "data cut off": ({"adj_data": np.ones(5)}, "ends at 6 of 6"),
    "a huge shape": ({"adj_shape": np.array([1 << 40, 4])}, "adj_shape is"),
    "no shape": ({"adj_shape": np.array([4])}, "adj_shape is"),
    "two dimensions": ({"adj_indices": np.ones((6, 1), int)}, "one dimension"),
    "not square": ({"adj_shape": np.array([4, 5])}, "not of one graph"),
    "another number of labels": ({"labels": np.array([0, 1, 1])}, "not of one graph"),
    "labels that leave": (
        {"labels": np.array([0, 1, 1, 1 << 40])},
        r"labels are classes from 0 to 3, or -1 .* one is 1099511627776: number the classes",
    ),
    "negative labels": ({"labels": np.array([0, 1, -2, 0])}, "but one is -2: number the"),
    "fractions of labels": (
        {"labels": np.array([0, 1, 1, 0.5])},
        r"labels are float64 \[4\], not one integer for each node: give the number of each node's",
    ),
    "labels in a column": (
        {"labels": np.array([[0], [1], [1], [0]])},
        r"labels are int64 \[4, 1\], not one integer for each node: take labels.ravel\(\)",
    ),
    "one-hot labels": (
        {"labels": np.eye(4)},
        r"labels are float64 \[4, 4\], .*: they are one-hot; take labels.argmax\(1\)",
    ),
    "labels in words": (
        {"labels": np.array(["a", "b", "b", "a"])},
        r"labels are <U1 \[4\], .*: they are text; number the classes",
    ),
    "no nodes' labels": ({"labels": np.array([], int)}, "there are no labels"),
    "a mask of another size": ({"zero_label_mask": np.array([True])}, "zero_label_mask"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_npz(tmp_path, case):
    changes, message = HOSTILE[case]
    with pytest.raises(DataError, match=message) as error:
        read_graph(write(tmp_path / "own.npz", **changes))
    assert "\n" not in str(error.value) and "own.npz" in str(error.value)


def header(shape):
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    "content, message",
    [
        (header((1 << 60,)) + b"x", "damaged"),
        (header((1 << 33,)) + b"x", "damaged"),
        (b"not an array", "damaged"),
        (bytes((1 << 29) + 1), "536870913 bytes"),
    ],
)
def test_hostile_members(tmp_path, content, message):
    path = tmp_path / "own.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.npy", content)
    with pytest.raises(DataError, match=message) as error:
        read_graph(str(path))
    assert "\n" not in str(error.value)


def test_a_graph_too_large_for_memory(tmp_path):
    n = 3000
    changes = {
        "adj_shape": np.array([n, n]),
        "adj_indptr": np.pad(ARRAYS["adj_indptr"], (0, n - 4), mode="edge"),
        "attr_shape": np.array([n, 1 << 20]),
        "attr_indptr": np.pad(ARRAYS["attr_indptr"], (0, n - 4), mode="edge"),
        "labels": np.zeros(n, int),
    }
    with pytest.raises(DataError, match="do not fit in memory"):
        read_graph(write(tmp_path / "own.npz", **changes))


@pytest.fixture
def tiny_cora(monkeypatch):
    """Cora is whatever is written here: six nodes with two features."""
    from cml_jax.data import graphs

    known = graphs._KNOWN["cora"]._replace(nodes=6, features=2)
    monkeypatch.setitem(graphs._KNOWN, "cora", known)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3])
def test_planetoid(tiny_cora, tmp_path, protocol):
    write_planetoid(tmp_path, protocol)
    made = load_graph("cora", tmp_path)
    np.testing.assert_array_equal(
        dense(made.features), [[1, 0], [0, 2], [1, 1], [0, 3], [0, 0], [5, 0]]
    )
    np.testing.assert_array_equal(made.labels, [0, 1, 0, 0, -1, 1])
    edges = np.argwhere(dense(made.adjacency) > 0)
    apart = [[a, b] for a, b in edges.tolist() if a != b]
    assert apart == [[0, 1], [0, 2], [1, 0], [2, 0], [3, 5], [5, 3]]


class Runs:
    def __reduce__(self):
        return os.system, ("touch ran",)


PICKLES = {
    "code": ({"graph": pickle.dumps(Runs())}, "asks for posix.system"),
    "code of old": ({"graph": b"cos\nsystem\n(S'touch ran'\ntR."}, "asks for os.system"),
    "eval": ({"allx": b"c__builtin__\neval\n(S'1'\ntR."}, "asks for __builtin__.eval"),
    "a dotted name": ({"graph": b"\x80\x04\x8c\x05numpy\x8c\x0fndarray.tofile2\x93."}, "asks for"),
    "numpy's own loader": ({"ty": b"cnumpy\nload\n(S'x'\ntR."}, "asks for numpy.load"),
    "a huge array": ({"ty": bomb()}, "does not have labels"),
    "half a pickle": ({"ally": pickled(PLANETOID["ally"])[:-9]}, "not a pickle of plain arrays"),
    "another codec": (
        {"graph": b"c_codecs\nencode\n(Vabc\nVzlib_codec\ntR."},
        "encodes as 'zlib_codec'",
    ),
    "something else rebuilt": (
        {"allx": b"ccopy_reg\n_reconstructor\n(c__builtin__\nlist\nc__builtin__\nobject\nNtR."},
        "something else than a matrix",
    ),
    "a list of features": ({"allx": [[1, 0]]}, "not a sparse matrix"),
    "a column too far": ({"tx": Csr([[5, 0, 0], [0, 3, 0]])}, "tx has 3 columns"),
    "labels of others": ({"ally": PLANETOID["ty"]}, "not one-hot for 3 nodes"),
    "two labels": ({"ty": np.ones((2, 2), np.int32)}, "not one-hot"),
    "objects for labels": ({"ty": np.array([[{}, {}]] * 2)}, "has an array of"),
    "neighbours outside": ({"graph": GRAPH | {0: [6]}}, "a node outside of 0, ..., 5"),
    "neighbours that are text": ({"graph": GRAPH | {0: ["a"]}}, "a node outside"),
    "no dict": ({"graph": [1, 2]}, "not a dict of lists"),
    "an index twice": ({"index": "3\n3\n"}, "not have 2 different numbers"),
    "an index far off": ({"index": f"3\n{1 << 40}\n"}, "leaves 3"),
    "an index of words": ({"index": "3\nfive\n"}, "invalid literal"),
}


@pytest.mark.parametrize("case", PICKLES)
def test_hostile_planetoid(tiny_cora, tmp_path, monkeypatch, case):
    changes, message = PICKLES[case]
    write_planetoid(tmp_path, **changes)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message) as error:
        load_graph("cora", tmp_path)
    assert "\n" not in str(error.value) and not (tmp_path / "ran").exists()


def test_a_pickle_cannot_set_what_outlives_it(tiny_cora, tmp_path):
    """A state for the class of matrices instead of a matrix would reach every later one."""
    write_planetoid(tmp_path, allx=b"cscipy.sparse.csr\ncsr_matrix\n(N(S'indptr'\nI1\ndtb.")
    with pytest.raises(DataError):
        load_graph("cora", tmp_path)
    write_planetoid(tmp_path)
    assert load_graph("cora", tmp_path).features.shape == (6, 2)


def test_a_part_that_is_missing(tmp_path):
    write_planetoid(tmp_path)
    (tmp_path / "ind.cora.graph").unlink()
    with pytest.raises(DataError, match=r"ind\.cora\.graph is missing"):
        load_graph("cora", tmp_path)


def test_where_graphs_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.delenv("CML_JAX_DATA", raising=False)
    with pytest.raises(DataError, match="planetoid.*CML_JAX_DATA") as error:
        load_graph("citeseer", tmp_path)
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="'citseer' is not a known graph"):
        load_graph("citseer")
    (tmp_path / "graphs").mkdir()
    write(tmp_path / "graphs" / "citeseer.npz")
    monkeypatch.setenv("CML_JAX_DATA", str(tmp_path))
    with pytest.raises(DataError, match="4 nodes and 3 features, not 3327 and 3703"):
        load_graph("citeseer")
    with pytest.raises(DataError, match="there is no file .*own.npz: correct its path"):
        read_graph(str(tmp_path / "own.npz"))


@pytest.mark.parametrize(
    "name, nodes, edges, features, labelled, isolated",
    [
        ("citeseer", 3327, 4552, 3703, 3312, 48),
        ("cora", 2708, 5278, 1433, 2708, 0),
        ("amazon_computer", 13752, 245861, 767, 13752, 281),
    ],
)
def test_real_files(data_dir, name, nodes, edges, features, labelled, isolated):
    made = load_graph(name, data_dir)
    adjacency = made.adjacency
    assert adjacency.shape == (nodes, nodes) and made.features.shape == (nodes, features)
    assert len(adjacency.values) == nodes + 2 * edges
    assert (np.diff(adjacency.starts) == 1).sum() == isolated
    assert (made.labels >= 0).sum() == labelled
    sums = np.bincount(adjacency.rows, adjacency.values)
    np.testing.assert_allclose(sums, 1, rtol=1e-5)
    rows = np.random.default_rng(0).integers(nodes, size=5)
    x = dense(made.features)
    for row in rows:
        entries = slice(adjacency.starts[row], adjacency.starts[row + 1])
        expected = x[adjacency.columns[entries]].mean(0)
        np.testing.assert_allclose(made.smoothed[row], expected, rtol=1e-4, atol=1e-6)
    split = split_classes(made.labels, CLASS_COUNTS[name], seed=0, at_least=15)
    assert [len(part) for part in split] == list(CLASS_COUNTS[name])


def test_an_npz_of_pytorch_geometric_is_told_the_layout(tmp_path):
    path = tmp_path / "pyg.npz"
    np.savez(path, x=np.ones((5, 2)), edge_index=np.ones((2, 3), int), y=np.zeros(5, int))
    with pytest.raises(
        DataError, match="has no adj_data: a graph's npz has adj_data, adj"
    ) as error:
        read_graph(path)
    assert "\n" not in str(error.value)


def test_class_splits(caplog):
    labels = np.repeat([0, 1, 2, 3, 4, -1], [5, 5, 5, 2, 5, 50])
    split = split_classes(labels, (2, 1, 1), seed=3, at_least=3)
    assert sorted(c for part in split for c in part) == [0, 1, 2, 4]
    assert "classes [3] have fewer than 3 nodes" in caplog.text
    assert split == split_classes(labels, (2, 1, 1), seed=3, at_least=3)
    others = {split_classes(labels, (2, 1, 1), seed=seed, at_least=3) for seed in range(20)}
    assert len(others) > 5
    for counts in [(2, 2, 1), (4, 0, 0), (2, 2)]:
        with pytest.raises(DataError, match="class counts"):
            split_classes(labels, counts, seed=0, at_least=3)


def test_class_splits_from_a_file(tmp_path):
    path = tmp_path / "split.json"
    path.write_text('{"train": [3, 0], "validation": [1], "test": [2]}')
    assert read_class_split(path) == ((0, 3), (1,), (2,))
    for content in [
        '{"train": [1]}',
        '{"train": [1], "validation": [1], "test": [2]}',
        "[" * 9999,
        '{"train": [1], "validation": [2], "test": ["a"]}',
        "{",
        '{"train": [1], "validation": [true], "test": [0]}',
    ]:
        path.write_text(content)
        with pytest.raises(DataError, match="not a class split") as error:
            read_class_split(path)
        assert "\n" not in str(error.value)
