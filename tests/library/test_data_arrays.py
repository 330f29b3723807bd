"""Arrays in the user's cache: made once for a source, whole or not at all, never wrong."""

import os
import time

import numpy as np
import pytest
from support.battery import assert_same

from cml_jax.data.arrays import cached_arrays


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CML_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "arrays"


class Maker:
    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return {"ids": np.arange(5, dtype=np.int32), "scales": np.ones((2, 3), np.float32)}


def test_what_takes_long_is_made_once_for_each_source(cache):
    make = Maker()
    for source in ("a", "a", "b", "a"):
        arrays = cached_arrays("table-v1", source, make, seconds=0)
        assert_same(arrays, Maker()())
    assert make.calls == 2
    assert sorted(path.name for path in cache.iterdir()) == ["table-v1-a.npz", "table-v1-b.npz"]
    cached_arrays("table-v1", "c", make)  # at once
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "pickle", "text"])
def test_a_damaged_file_is_made_again_after_a_warning(cache, caplog, damage):
    make = Maker()
    cached_arrays("table-v1", "a", make, seconds=0)
    path = cache / "table-v1-a.npz"
    whole = path.read_bytes()
    if damage == "pickle":
        with open(path, "wb") as stream:
            np.savez(stream, ids=np.array([{}], object))
    else:
        at = whole.index(np.arange(5, dtype=np.int32).tobytes())
        path.write_bytes(
            {
                "cut": whole[:-30],
                "changed": whole[:at] + b"\1" + whole[at + 1 :],
                "empty": b"",
                "text": b"not a zip",
            }[damage]
        )
    assert_same(cached_arrays("table-v1", "a", make, seconds=0), Maker()())
    assert make.calls == 2 and path.read_bytes() == whole
    assert "table-v1-a.npz is damaged" in caplog.text and "\n" not in caplog.messages[-1]


def test_the_last_four_are_kept_and_what_was_left_behind_is_deleted(cache):
    make = Maker()
    cached_arrays("table-v1", "0", make, seconds=0)
    left_behind, young = cache / ".killed.npz", cache / ".running.npz"
    for path in (left_behind, young):
        path.write_bytes(b"part")
    os.utime(left_behind, (time.time() - 1e5,) * 2)
    for i in range(1, 5):
        for path in cache.glob("table*"):
            os.utime(path, (path.stat().st_mtime - 10,) * 2)
        cached_arrays("table-v1", "0", make, seconds=0)  # read, and so not the oldest
        cached_arrays("table-v1", str(i), make, seconds=0)
    kept = {path.name for path in cache.iterdir()}
    assert kept == {young.name, *(f"table-v1-{i}.npz" for i in (0, 2, 3, 4))}


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CML_JAX_CACHE", str(tmp_path / "file"))
    make = Maker()
    for _ in range(2):
        assert_same(cached_arrays("table-v1", "a", make, seconds=0), Maker()())
    assert make.calls == 2 and "is not kept" in caplog.text
