"""Images that are decoded once into a file: whole or not at all, verified, and never copied."""

import json
import os
import time

import numpy as np
import pytest
from support.battery import assert_same
from support.omniglot_files import write_zip

from cml_jax.data import DataError, Split
from cml_jax.data.cache import cached_images, read_images, write_images
from cml_jax.data.files import Limits
from cml_jax.data.formats import read_npz
from cml_jax.data.types import split_hash

SPLIT = Split(("cat", "dog"), ("cow",), ("hen", "pig"))
COUNTS = [3, 5, 2, 4, 1]


def classes(shift=0):
    """Every class and its images `[n, 4, 6, 3]`."""
    rng = np.random.default_rng(shift)
    for name, count in zip(sum(SPLIT, ()), COUNTS, strict=True):
        yield name, rng.integers(0, 256, (count, 4, 6, 3), np.uint8)


@pytest.fixture
def folder(tmp_path):
    """A folder with written images."""
    write_images(tmp_path / "set", "animals", SPLIT, "source 1", classes())
    return tmp_path / "set"


def test_what_is_written_is_what_is_read(tmp_path):
    written = write_images(tmp_path / "set", "animals", SPLIT, "source 1", classes())
    read, source = read_images(tmp_path / "set")
    assert_same(read, written)
    assert source == "source 1" and read.name == "animals"
    assert read.classes == SPLIT and read.split_hash == split_hash(SPLIT)
    everything = dict(classes())
    for part, names in SPLIT._asdict().items():
        pool = read.split(part)
        assert isinstance(pool.pixels, np.memmap) and len(pool.members.counts) == len(names)
        for name, ids, count in zip(names, *pool.members, strict=True):
            np.testing.assert_array_equal(pool.pixels[ids[:count]], everything[name])
        assert pool.members.ids.shape[1] == max(COUNTS)  # one width for all splits
    assert read.train.pixels.ctypes.data % 64 == 0  # jax reads it in place
    assert len(read.train.pixels) == 8 and len(read.validation.pixels) == 2
    with pytest.raises(ValueError, match="read-only"):
        read.pixels[0] = 1
    np.testing.assert_array_equal(
        np.load(next((tmp_path / "set").glob("*.npy"))), np.concatenate([*everything.values()])
    )


def damages():
    def truncate(path):
        os.truncate(path, path.stat().st_size - 1)

    def longer(path):
        with open(path, "ab") as stream:
            stream.write(b"x")

    def flip(path):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    def shape(path):
        content = path.read_bytes()
        path.write_bytes(content.replace(b"(15, 4, 6, 3)", b"(15, 6, 4, 3)"))

    def missing(path):
        path.unlink()

    return [truncate, longer, flip, shape, missing]


@pytest.mark.parametrize(
    "name, damage",
    [("pixels-*.npy", damage) for damage in damages()]
    + [("images.json", damage) for damage in damages() if damage.__name__ != "shape"],
)
def test_damage_is_refused_in_one_line(folder, name, damage):
    [path] = folder.glob(name)
    damage(path)
    with pytest.raises(DataError, match=f"{path.name} is damaged .*: delete it") as error:
        read_images(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"pixels": "../../secret.npy"}, "a name is not"),
        ({"pixels": "pixels-a/b.npy"}, "a name is not"),
        ({"pixels": 3}, "a name is not"),
        ({"counts": [1]}, "do not fit together"),
        ({"counts": [1, 2, 3, 4, -5]}, "not a positive integer"),
        ({"counts": [3, 5, 2, 4, 10**9]}, "pixels-.*it has"),
        ({"shape": [4, 6]}, "do not fit together"),
        ({"shape": [4, 6, 3.0]}, "not a positive integer"),
        ({"shape": [6, 4, 3]}, "pixels-.*it holds uint8"),
        ({"classes": {"train": ["cat"]}}, "damaged .'validation'"),
        ({"classes": {"train": "ab", "validation": "c", "test": ["d", 1]}}, "a name is not"),
        ({"name": None}, "a name is not"),
    ],
)
def test_a_description_that_lies(folder, changes, message):
    """With a digest that fits."""
    from cml_jax.data.cache import _digest

    path = folder / "images.json"
    about = json.loads(path.read_text()) | changes
    del about["sha256"]
    path.write_text(json.dumps(about | {"sha256": _digest(about)}))
    with pytest.raises(DataError, match=message) as error:
        read_images(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "[]", "null", "[" * 100_000, "{", "\0", "3"])
def test_json_that_is_something_else(folder, text):
    (folder / "images.json").write_text(text)
    with pytest.raises(DataError, match="images.json is damaged"):
        read_images(folder)


def test_made_once_and_again_when_something_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("CML_JAX_CACHE", str(tmp_path))
    made = []

    def convert():
        made.append(1)
        return classes(len(made))

    def load(source="a", split=SPLIT):
        return cached_images("set-v1", "animals", split, source, convert)

    first = load()
    assert_same(load(), first)
    assert len(made) == 1
    second = load(source="b")
    assert len(made) == 2 and (first.pixels != second.pixels).any()
    assert_same(load(source="b"), second)
    assert len(list((tmp_path / "set-v1").iterdir())) == 2  # the old pixels are gone
    kept = tmp_path / "set-v1" / "pixels-killed.npy"
    kept.write_bytes(b"half")
    load(source="a")
    assert kept.exists()  # another process may be writing it
    os.utime(kept, (time.time() - 1e6,) * 2)
    load(source="b")
    assert not kept.exists()


def test_a_failure_while_converting_leaves_nothing(tmp_path):
    def broken():
        yield next(classes())
        raise DataError("a.png is damaged")

    with pytest.raises(DataError, match="a.png"):
        write_images(tmp_path / "set", "animals", SPLIT, "", broken())
    assert not (tmp_path / "set").exists()
    write_images(tmp_path / "set", "animals", SPLIT, "", classes())
    expected, _ = read_images(tmp_path / "set")
    with pytest.raises(DataError, match="a.png"):
        write_images(tmp_path / "set", "animals", SPLIT, "", broken())
    assert_same(read_images(tmp_path / "set")[0], expected)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda given: given[::-1], "class 'pig' is out of order"),
        (lambda given: given[:-1], "there are classes without images"),
        (lambda given: [*given, given[0]], "class 'cat' is out of order"),
        (lambda given: [(n, x / 2) for n, x in given], "class 'cat' is float64"),
        (lambda given: [*given[:4], ("pig", given[4][1][:, :2])], r"'pig' is uint8 .1, 2, 6, 3"),
    ],
)
def test_a_loader_that_errs_is_told(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        write_images(tmp_path / "set", "animals", SPLIT, "", change(list(classes())))
    assert not (tmp_path / "set").exists()


# npz


@pytest.mark.parametrize(
    "descr, shape, message",
    [
        ("|O", "(1,)", "Object arrays cannot be loaded"),
        ("|u1", f"({10**15},)", "is damaged"),
        ("|u1", "(__import__('os').abort(),)", "is damaged"),
    ],
)
def test_npz_with_a_hostile_header(tmp_path, descr, shape, message):
    path = tmp_path / "a.npz"
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little")
    write_zip(path, {"images.npy": start + header})
    with pytest.raises(DataError, match=message):
        read_npz(path, r"(\w+)\.npy", Limits(16, 10_000, 10_000))


def test_npz_that_is_too_large(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros(3))
    with pytest.raises(DataError, match="more than 100:"):
        read_npz(tmp_path / "a.npz", r"(\w+)\.npy", Limits(16, 100, 100))
