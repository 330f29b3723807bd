"""Pickles from outside: plain arrays come back, and nothing else is done."""

import pickle

import numpy as np
import pytest
from support.graph_files import bomb, false_pointers
from support.image_files import python_2_pickle

from cml_jax.data import DataError
from cml_jax.data.pickles import unpickle

ARRAYS = {
    "bytes": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
    "transposed": np.arange(12, dtype=np.int32).reshape(3, 4).T,
    "a slice": np.arange(20, dtype=np.int64)[::3],
    "big-endian": np.arange(5, dtype=">i4"),
    "reals": np.linspace(0, 1, 5, dtype=np.float32),
    "truths": np.array([True, False]),
    "no dimension": np.array(3.5),
    "text": np.array(["a", "bcd"]),
    "names": np.array([b"a", b"bcd"]),
}


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5, "Python 2"])
@pytest.mark.parametrize("name", ARRAYS)
def test_plain_arrays_come_back(tmp_path, name, protocol):
    array = ARRAYS[name]
    value = {"array": array, "again": array, "first": array.flat[0], "list": [1, "x", None]}
    if protocol == "Python 2":
        content = python_2_pickle(value)
    else:
        content = pickle.dumps(value, protocol)
    (tmp_path / "a.pkl").write_bytes(content)
    read = unpickle(tmp_path / "a.pkl", 1 << 20)
    native = array.dtype.newbyteorder("=")  # NumPy's own way
    assert read["array"].dtype in (array.dtype, native) and read["array"].shape == array.shape
    np.testing.assert_array_equal(read["array"], array)
    assert read["again"] is read["array"]
    assert read["first"] == value["first"] and read["list"] == value["list"]


@pytest.mark.parametrize(
    "content, why",
    [
        (pickle.dumps(np.array([[1], "x"], object), 2), "has an array of 'O8'"),
        (pickle.dumps(np.zeros(2, [("a", "O")]), 2), "has an array of 'V8'"),
        (pickle.dumps(np.zeros(2, "datetime64[s]"), 2), "has an array of 'M8'"),
        (false_pointers(), "has an array of 'V8'"),
        (false_pointers(5), "has an array of 'V8'"),
        (b"cnumpy\nload\n(S'/etc/passwd'\ntR.", "asks for numpy.load"),
        (b"cnumpy\nndarray\n(I9\ntR.", "not callable"),
        (pickle.dumps(print), "asks for builtins.print"),
        (b"", ""),
    ],
    ids=range(9),
)
def test_anything_else_is_one_line(tmp_path, content, why):
    (tmp_path / "a.pkl").write_bytes(content)
    message = rf"a.pkl is not a pickle of plain arrays \(.*{why}.*\): replace it with a good copy"
    with pytest.raises(DataError, match=message) as caught:
        unpickle(tmp_path / "a.pkl", 1 << 20)
    assert "\n" not in str(caught.value)


def test_an_array_of_a_tebibyte_is_not_made(tmp_path):
    """A pickle makes its arrays empty, and gives them shape and content afterwards."""
    (tmp_path / "a.pkl").write_bytes(bomb())
    assert unpickle(tmp_path / "a.pkl", 1 << 20).nbytes == 0


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="a.pkl cannot be read .No such file or directory"):
        unpickle(tmp_path / "a.pkl", 100)
    (tmp_path / "a.pkl").write_bytes(bytes(101))
    with pytest.raises(DataError, match="a.pkl has over 100 bytes"):
        unpickle(tmp_path / "a.pkl", 100)
