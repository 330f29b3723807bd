"""Omniglot: the real files where they are, every bad file in small, and the cache."""

import hashlib
import http.server
import io
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
import zipfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from support.battery import assert_same
from support.omniglot_files import PARTS, SMALL, png, small_files, write_zip, write_zips

from cml_jax.data import DataError, Images, Split, fetch, load_omniglot, omniglot
from cml_jax.data.files import fingerprint
from cml_jax.data.types import split_hash

REAL = Path(os.environ.get("CML_JAX_DATA") or "/nowhere") / "omniglot"
needs_data = pytest.mark.skipif(
    not REAL.is_dir(), reason="CML_JAX_DATA is not set to the folder of omniglot/: NOT TESTED"
)

FIRST = "images_background/Greek/character01/0001_01.png"

pytestmark = pytest.mark.usefixtures("apart")


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A folder with a tiny Omniglot in two zips; the loader takes it for the whole."""
    monkeypatch.setattr(omniglot, "_split", lambda: SMALL)
    folder = tmp_path / "data"
    folder.mkdir()
    write_zips(folder)
    return folder


def cached():
    """The folder of Omniglot in the cache."""
    return Path(os.environ["CML_JAX_CACHE"]) / "omniglot-v2"


def convert(source, split):
    """The drawings of every character `[characters, 20, 28, 28, 1]`."""
    return np.stack(list(omniglot._convert(source, split).values()))


def same(a: Images, b: Images):
    assert a[2:] == b[2:]
    assert_same(a[:2], b[:2])


def by_class(images: Images):
    """The pixels of each split as `[classes, 20, h, w, c]`."""
    parts = (images.train, images.validation, images.test)
    return [part.pixels[part.members.ids] for part in parts]


def refused(folder, match):
    """Loading fails with one line, and the cache stays empty."""
    with pytest.raises(DataError, match=match) as caught:
        load_omniglot(folder)
    assert "\n" not in str(caught.value)
    assert not cached().exists()


# The real files.


@pytest.fixture(scope="session")
def real(tmp_path_factory):
    """The real zips, converted once, and the cache that this filled."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CML_JAX_CACHE", str(cache))
        patch.setenv("CML_JAX_DATA", str(REAL.parent))
        return load_omniglot(), cache


@needs_data
def test_real_files(real):
    data, _ = real
    assert [len(part) for part in by_class(data)] == [1100, 100, 423]
    assert [len(names) for names in data.classes] == [1100, 100, 423]
    for part in by_class(data):
        assert part.shape[1:] == (20, 28, 28, 1) and part.dtype == np.uint8
        means = part.mean(axis=(2, 3, 4))
        assert (means > 0).all() and means.mean() < 40  # ink is bright and rare
        assert np.median(part) == 0  # paper
        assert part.max() == 255
    assert data.name == "omniglot"
    digests = {
        hashlib.sha256(image.tobytes()).digest() for part in by_class(data) for image in part
    }
    assert len(digests) == 1623


@needs_data
def test_warm_cache_is_the_cold_conversion(real, monkeypatch):
    data, cache = real
    monkeypatch.setenv("CML_JAX_CACHE", str(cache))
    monkeypatch.setattr(omniglot, "_convert", None)  # calling it would fail
    same(load_omniglot(), data)
    same(load_omniglot(REAL.parent), data)
    same(load_omniglot(REAL), data)


@needs_data
def test_real_folders_are_the_real_zips(real, tmp_path):
    """Every drawing of some alphabets, read from extracted folders."""
    data, _ = real
    for part, alphabet in (("background", "Greek"), ("evaluation", "Angelic")):
        with zipfile.ZipFile(REAL / f"images_{part}.zip") as archive:
            wanted = [name for name in archive.namelist() if f"/{alphabet}/" in name]
            archive.extractall(tmp_path, wanted)
    split = omniglot._split()
    row = dict(zip(sum(split, ()), np.concatenate(by_class(data)), strict=True))
    names = sorted(name for name in row if name.split("/")[0] in ("Greek", "Angelic"))
    assert len(names) == 24 + 20
    images = convert(omniglot.find_source(tmp_path), Split(tuple(names), (), ()))
    np.testing.assert_array_equal(images, np.stack([row[name] for name in names]))


# The stored split.


def test_stored_split():
    split = omniglot._split()
    assert [len(part) for part in split] == [1100, 100, 423]
    names = [name for part in split for name in part]
    assert len(set(names)) == 1623 and len({name.split("/")[0] for name in names}) == 50
    shuffled = sorted(names, key=lambda name: hashlib.sha256(f"0/{name}".encode()).hexdigest())
    for part, (start, end) in zip(split, ((0, 1100), (1100, 1200), (1200, 1623)), strict=True):
        assert list(part) == sorted(shuffled[start:end])
    assert split_hash(split) == "b50a97eb9a741eeb"


def test_hash_sees_a_class_that_moves():
    moved = Split(SMALL.test, SMALL.validation, SMALL.train)
    assert split_hash(moved) != split_hash(SMALL)


# Sources.


def test_small(small):
    data = load_omniglot(small)
    for part in by_class(data):
        assert part.shape == (1, 20, 28, 28, 1) and part.dtype == np.uint8
        assert part[..., 0].reshape(20, -1).max(1).min() > 200  # ink
        assert np.median(part) == 0  # paper
    pixels = [drawing.tobytes() for drawing in data.validation.pixels]
    assert pixels == sorted(pixels)
    lanczos = Image.Resampling.LANCZOS
    for i in range(1, 21):
        original = Image.open(io.BytesIO(png(200 + i))).convert("L")
        assert (255 - np.asarray(original.resize((28, 28), lanczos))).tobytes() in pixels


@pytest.mark.parametrize("extracted", [("images_background",), tuple(PARTS)])
def test_folders_are_the_zips(small, monkeypatch, tmp_path, extracted):
    data = load_omniglot(small)
    for part in extracted:
        with zipfile.ZipFile(small / f"{part}.zip") as archive:
            archive.extractall(small)
        (small / f"{part}.zip").unlink()
    monkeypatch.setenv("CML_JAX_CACHE", str(tmp_path / "other"))
    same(load_omniglot(small), data)


def test_search_order(small, monkeypatch, tmp_path):
    """`data_dir` before CML_JAX_DATA before the cache; each has a sub-folder omniglot."""
    looked_at = []
    find = omniglot.find_source
    monkeypatch.setattr(omniglot, "find_source", lambda p: (looked_at.append(p), find(p))[1])
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    small.rename(second / "omniglot")
    monkeypatch.setenv("CML_JAX_DATA", str(second))
    load_omniglot(first)
    assert looked_at == [first, first / "omniglot", second]
    monkeypatch.delenv("CML_JAX_DATA")
    monkeypatch.setattr(omniglot, "_convert", None)
    load_omniglot(first)  # from the cache alone
    cached().rename(first / "omniglot-v2")
    load_omniglot(first)  # the prepared folder, moved elsewhere
    assert not cached().exists()


def renamed(old, new):
    """Every member's name in both zips."""

    def change(folder):
        files = {
            part: {name.replace(old, new): content for name, content in members.items()}
            for part, members in small_files().items()
        }
        write_zips(folder, files)

    return change


def extracted(under, *parts, change=str):
    """The drawings as files below folders."""

    def make(folder):
        for part in parts or PARTS:
            for name, content in small_files()[part].items():
                path = folder / under / change(name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            (folder / f"{part}.zip").unlink()

    return make


def moved(under):
    def change(folder):
        (folder / under).mkdir(parents=True)
        for part in PARTS:
            (folder / f"{part}.zip").rename(folder / under / f"{part}.zip")

    return change


def links(folder):
    extracted("real", change=lambda name: name.partition("/")[2])(folder)
    (folder / "omniglot").mkdir()
    for alphabet in (folder / "real").iterdir():
        (folder / "omniglot" / alphabet.name).symlink_to(alphabet)
        (alphabet / "back").symlink_to(folder)  # round in a circle
    (folder / "real").rename(folder / ".real")
    for link in (folder / "omniglot").iterdir():
        link.unlink()
        link.symlink_to(folder / ".real" / link.name)


def one_zip(folder):
    files = small_files()
    members = {
        f"python/{name}": content for part in files.values() for name, content in part.items()
    }
    for part in PARTS:
        (folder / f"{part}.zip").unlink()
    write_zip(folder / "omniglot-master.zip", members)


@pytest.mark.parametrize(
    "change",
    [
        moved("omniglot-py"),
        moved("omniglot/python"),
        moved("a/b/c"),
        extracted("omniglot-py"),
        extracted("a/b"),
        extracted("", change=lambda name: name.partition("/")[2]),
        extracted("omniglot", change=lambda name: name.partition("/")[2]),
        extracted("", change=lambda name: name.partition("/")[0] + "/" + name),
        extracted("", change=lambda name: name.replace(".png", ".PNG")),
        renamed("images_", "a/b/images_"),
        renamed("/", "\\"),
        renamed(".png", ".PNG"),
        renamed("images_background/", ""),
        links,
        one_zip,
    ],
    ids=range(15),
)
def test_wherever_and_however_it_lies(small, monkeypatch, tmp_path, change):
    """torchvision's folders, a clone, folders in front, Windows, capitals, links, no parents."""
    data = load_omniglot(small)
    change(small)
    monkeypatch.setenv("CML_JAX_CACHE", str(tmp_path / "other"))
    same(load_omniglot(small), data)


def test_what_is_there_is_said_where_it_is_not_omniglot(small, tmp_path):
    renamed("character", "char")(small)
    refused(
        small,
        r"data has 0 of 3 characters complete, Angelic/character01 has 0 of 20 drawings; of 60 "
        r"other files one is 'images_background/Greek/char01/0001_01.png'; expected files "
        r"ALPHABET/characterNN/NNNN_NN.png: replace it with images_background and",
    )


def test_a_search_ends(small, monkeypatch, tmp_path):
    """Among many other files, and in a circle of links."""
    (tmp_path / "data" / "circle").symlink_to(tmp_path / "data")
    folder = tmp_path / "elsewhere"
    for i in range(30):
        (folder / f"class{i}").mkdir(parents=True)
        for j in range(30):
            (folder / f"class{i}" / f"{j}.jpg").touch()
    (folder / "round").symlink_to(folder)
    assert omniglot.find_source(folder) is None
    monkeypatch.setattr("cml_jax.data.files._MAX_ENTRIES", 10)
    assert omniglot.find_source(folder) is None
    assert omniglot.find_source(small).paths == [small / f"{part}.zip" for part in PARTS]


@pytest.mark.parametrize("cache", ["none", "unwritable"])
def test_without_a_home_folder(small, monkeypatch, caplog, cache):
    """As for a user whom the system does not know: what was given is read, and a line is said."""
    monkeypatch.delenv("CML_JAX_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if cache == "none":

        def no_home(path):
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "expanduser", lambda p: no_home(p) if p.parts[0] == "~" else p)
        said = "there is no home folder for a cache: set CML_JAX_CACHE to a folder that can"
    else:
        monkeypatch.setenv("HOME", "/proc")
        said = "/proc/.cache/cml_jax/omniglot-v2 cannot be written"
    assert load_omniglot(small).pixels.shape == (60, 28, 28, 1)
    [line] = caplog.messages
    assert said in line and "\n" not in line
    if cache == "none":
        with pytest.raises(DataError, match="^there is no home folder to look for data in: set"):
            load_omniglot()
        with pytest.raises(DataError, match="^data_dir=~stranger/x is not a folder"):
            load_omniglot("~stranger/x")


def test_tfds_folder(small, monkeypatch, tmp_path):
    """A folder that tensorflow-datasets' own builder prepares from the same drawings."""
    tfds = pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("array_record")
    from tensorflow_datasets.image_classification import omniglot as builder_module

    data = load_omniglot(small)
    gfile = SimpleNamespace(listdir=os.listdir)  # all that the builder needs of TensorFlow
    patches = {"_NUM_CLASSES": 3, "_NUM_ALPHABETS": 2}
    patches["tf"] = SimpleNamespace(io=SimpleNamespace(gfile=gfile))
    for name, value in patches.items():
        monkeypatch.setattr(builder_module, name, value)
    folders = {}
    for split, part in zip(("train", "eval"), PARTS, strict=True):
        folders[split] = str(tmp_path / split)
        with zipfile.ZipFile(small / f"{part}.zip") as archive:
            archive.extractall(folders[split])
    folders |= {"small1": folders["train"], "small2": folders["train"]}
    monkeypatch.setattr(
        tfds.download.DownloadManager, "download_and_extract", lambda self, urls: folders
    )
    home = tmp_path / "tfds"
    tfds.builder_cls("omniglot")(data_dir=home, file_format="array_record").download_and_prepare()
    monkeypatch.setenv("CML_JAX_CACHE", str(tmp_path / "other"))
    same(load_omniglot(home), data)
    same(load_omniglot(home / "omniglot"), data)

    (home / "omniglot/3.0.0/dataset_info.json").write_text("{")
    monkeypatch.setenv("CML_JAX_CACHE", str(tmp_path / "third"))
    refused(home, "tensorflow-datasets cannot read")


@pytest.mark.parametrize("name", ["data_dir", "CML_JAX_DATA"])
def test_misspelt_folder(small, monkeypatch, name):
    missing = small / "missing"
    if name == "CML_JAX_DATA":
        monkeypatch.setenv(name, str(missing))
    refused(missing if name == "data_dir" else small, f"{name}=.*missing is not a folder")


def test_half_of_the_data(small):
    (small / "images_evaluation.zip").unlink()
    refused(small, r"images_background.zip is half of Omniglot: put .* side by side")


# Bad files.


def bad_name(name):
    def change(files):
        files["images_background"][name] = png(1)

    return change


def bad_drawing(content):
    def change(files):
        files["images_background"][FIRST] = content

    return change


def drop_drawing(files):
    del files["images_background"][FIRST]


def drop_character(files):
    members = files["images_evaluation"]
    files["images_evaluation"] = {"images_evaluation/readme.txt": b"x" * len(members)}


def extra_character(files):
    for i in range(1, 21):
        name = f"images_background/Elvish/character01/0999_{i:02d}.png"
        files["images_background"][name] = png(i)


def pixel_bomb():
    """A valid PNG header of 60,000 x 60,000 pixels over a tiny body."""
    content = bytearray(png(1))
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    content[29:33] = struct.pack(">I", zipfile.crc32(content[12:29]))
    return bytes(content)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    "change, message",
    [
        (bad_name("/etc/drawing.png"), "unsafe name '/etc/drawing.png'"),
        (bad_name("images_background/../../x.png"), "unsafe name"),
        (bad_name("images_background\\..\\x.png"), "unsafe name"),
        (bad_name(FIRST.replace("_01", "_21")), "is drawing 21 of its character"),
        (drop_drawing, "2 of 3 characters complete, Greek/character01 has 19 of 20"),
        (drop_character, "2 of 3 characters complete, Angelic/character01 has 0 of 20"),
        (extra_character, "Elvish/character01/0999_01.png is not of Omniglot"),
        (bad_drawing(b"#!/bin/sh\nrm -rf /\n"), "0001_01.png is not a readable PNG"),
        (bad_drawing(b""), "0001_01.png is not a readable PNG"),
        (bad_drawing(png(1)[: len(png(1)) // 2]), "0001_01.png is not a readable PNG"),
        (bad_drawing(png(1, mode="L", image_format="BMP")[:16000]), "is not a readable PNG"),
        (bad_drawing(png(1, mode="L", image_format="GIF")), "is not a readable PNG"),
        (bad_drawing(png(1, size=(104, 105))), "0001_01.png is 104 x 105 pixels, not 105 x 105"),
        (bad_drawing(pixel_bomb()), "60000 x 60000 pixels|not a readable PNG"),
        (bad_drawing(b"\0" * 20_000), "0001_01.png' of 20000 bytes"),
    ],
)
def test_bad_members(small, change, message):
    files = small_files()
    change(files)
    write_zips(small, files)
    refused(small, message)


def test_other_members_are_ignored(small):
    data = load_omniglot(small)
    files = small_files()
    files["images_background"] |= {
        "images_background/": b"",
        "__MACOSX/" + FIRST: b"junk",
        "images_background/Greek/.DS_Store": b"junk",
        "images_background/inner.zip": b"PK junk",
        "images_background/Greek/character01/deeper/0001_01.png": b"junk",
    }
    write_zips(small, files)
    same(load_omniglot(small), data)


def test_inverted_drawings(small):
    def inverted(content):
        image = Image.open(io.BytesIO(content)).convert("L").point(lambda value: 255 - value)
        stream = io.BytesIO()
        image.save(stream, "PNG")
        return stream.getvalue()

    files = {
        part: {name: inverted(content) for name, content in members.items()}
        for part, members in small_files().items()
    }
    write_zips(small, files)
    refused(small, "mostly ink: ink must be 0 and paper 255")


def test_link_in_a_zip(small):
    link = zipfile.ZipInfo("images_background/Greek/link.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(small / "images_background.zip", "a") as archive:
        archive.writestr(link, "/etc/passwd")
    refused(small, "has a link, 'images_background/Greek/link.png'")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicate_member(small):
    with zipfile.ZipFile(small / "images_background.zip", "a") as archive:
        archive.writestr(FIRST, png(1))
    refused(small, "0001_01.png' twice")


def test_too_many_members(small, monkeypatch):
    monkeypatch.setattr(omniglot, "_LIMITS", omniglot._LIMITS._replace(files=39))
    refused(small, "has 40 members, more than 39")


@pytest.mark.parametrize(
    "members, message",
    [
        ({FIRST: b"\0" * 16_000}, "compressed more than 200 times"),
        ({FIRST: b"\0" * 50_000_000}, "0001_01.png' of 50000000 bytes"),
    ],
)
def test_zip_bombs(small, members, message):
    write_zip(small / "images_background.zip", members, zipfile.ZIP_DEFLATED)
    assert (small / "images_background.zip").stat().st_size < 60_000
    refused(small, message)


def test_total_of_a_zip(small, monkeypatch):
    monkeypatch.setattr(omniglot, "_LIMITS", omniglot._LIMITS._replace(total_bytes=1000))
    refused(small, r"has \d+ bytes, more than 1000")


def test_total_of_the_content(small, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 2, 8000, np.uint8).tobytes()
    members = {name: noise for name in small_files()["images_background"]}
    path = small / "images_background.zip"
    write_zip(path, members, zipfile.ZIP_DEFLATED)
    limit = path.stat().st_size + 1000
    assert limit < 40 * len(noise)
    monkeypatch.setattr(omniglot, "_LIMITS", omniglot._LIMITS._replace(total_bytes=limit))
    refused(small, "has 320000 bytes of content")


def test_sizes_that_lie(small):
    """10 MB behind a header that says 5,000 bytes: what is inflated stays bounded."""
    path = small / "images_background.zip"
    write_zip(path, {FIRST: os.urandom(5000) + b"\0" * 10_000_000}, zipfile.ZIP_DEFLATED)
    path.write_bytes(path.read_bytes().replace(struct.pack("<I", 10_005_000), b"\x88\x13\0\0"))
    refused(small, r"is damaged \(Bad CRC-32")


def test_unusual_compression(small):
    write_zip(small / "images_background.zip", {FIRST: png(1)}, zipfile.ZIP_LZMA)
    refused(small, "unusual compression")


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda content: content[: len(content) // 2], "is damaged"),
        (lambda content: b"", "is damaged"),
        (lambda content: b"<!DOCTYPE html>" * 100, "is damaged"),
        (lambda content: content.replace(b"IDAT", b"IDAX", 1), "Bad CRC-32 for file"),
    ],
)
def test_damaged_zip(small, damage, message):
    path = small / "images_background.zip"
    path.write_bytes(damage(path.read_bytes()))
    refused(small, message)


def test_encrypted_zip(small):
    path = small / "images_background.zip"
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    content[6] |= 1
    path.write_bytes(content)
    refused(small, "is damaged .*password")


def test_bad_files_in_a_folder(small):
    data = load_omniglot(small)
    for part in PARTS:
        with zipfile.ZipFile(small / f"{part}.zip") as archive:
            archive.extractall(small)
        (small / f"{part}.zip").unlink()
    os.symlink("/nowhere", small / FIRST.replace("_01", "_98"))
    os.mkfifo(small / FIRST.replace("_01", "_99"))
    (small / "images_background" / os.fsdecode(b"\xff.png")).write_bytes(b"x")
    same(load_omniglot(small), data)
    shutil.rmtree(cached())
    (small / FIRST).write_bytes(b"\0" * 20_000)
    refused(small, "0001_01.png has more than 16384 bytes")


# The cache; test_data_cache.py damages it.


def test_a_damaged_cache_is_converted_again(small, caplog):
    data = load_omniglot(small)
    data = data._replace(pixels=data.pixels.copy())
    [pixels] = cached().glob("pixels-*.npy")
    content = pixels.read_bytes()
    pixels.write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    same(load_omniglot(small), data)
    [line] = caplog.messages
    assert "does not match its SHA-256" in line and "converting omniglot again" in line
    assert len(list(cached().iterdir())) == 2


def test_a_damaged_cache_without_a_source(small, caplog):
    load_omniglot(small)
    (cached() / "images.json").write_text("x")
    with pytest.raises(DataError, match="put images_background.zip and images_evaluation.zip of"):
        load_omniglot()
    assert "images.json is damaged" in caplog.text and "another source of omniglot" in caplog.text


def test_another_source_does_not_get_the_old_cache(small):
    old = load_omniglot(small)
    kept = old.pixels.copy()
    files = small_files()
    files["images_background"][FIRST] = png(9999)
    write_zips(small, files)
    new = load_omniglot(small)
    assert (new.pixels != old.pixels).any()
    np.testing.assert_array_equal(old.pixels, kept)  # what was opened before stays as it was
    same(load_omniglot(), new)
    paths = omniglot.find_source(small).paths
    before = fingerprint(paths)
    os.utime(small / "images_background.zip", (1, 1))  # other bytes of the same size
    assert fingerprint(paths) != before


def write_old(path, data):
    """The file that earlier versions kept: characters by name, a digest beside."""
    names = sorted(sum(data.classes, ()))
    row = dict(zip(sum(data.classes, ()), np.concatenate(by_class(data)), strict=True))
    arrays = {
        "images": np.stack([row[name] for name in names]),
        "characters": np.array(names),
        "source": np.array("a fingerprint"),
    }
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape}\n".encode())
        digest.update(arrays[name].tobytes())
    np.savez(path, **arrays, sha256=np.array(digest.hexdigest()))


def test_the_file_of_earlier_versions(small, monkeypatch, tmp_path, caplog):
    data = load_omniglot(small)
    old = tmp_path / "old"
    old.mkdir()
    write_old(old / "omniglot-v1.npz", data)
    monkeypatch.setenv("CML_JAX_CACHE", str(tmp_path / "other"))
    same(load_omniglot(old), data)
    same(load_omniglot(), data)  # kept in the new form
    content = (old / "omniglot-v1.npz").read_bytes()
    with np.load(old / "omniglot-v1.npz") as stored:
        arrays = dict(stored)
    changed = arrays | {"images": arrays["images"] ^ 1}
    for number, damaged in enumerate((content[:1000], changed, {"images": np.zeros(3)})):
        if isinstance(damaged, bytes):
            (old / "omniglot-v1.npz").write_bytes(damaged)
        else:
            np.savez(old / "omniglot-v1.npz", **damaged)
        monkeypatch.setenv("CML_JAX_CACHE", str(tmp_path / f"empty{number}"))
        caplog.clear()
        with pytest.raises(DataError, match="^Omniglot is not in"):
            load_omniglot(old)
        assert len(caplog.messages) == 1 and "another source of Omniglot" in caplog.text


def test_failed_write_leaves_nothing(small, monkeypatch, caplog):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert load_omniglot(small).pixels.shape == (60, 28, 28, 1)
    assert "No space left on device" in caplog.text and "CML_JAX_CACHE" in caplog.text
    assert not cached().exists()


def test_two_processes_fill_one_cache(small):
    program = f"""
import sys, time
from cml_jax.data import omniglot
omniglot._split = lambda: omniglot.Split(*{tuple(SMALL)!r})
convert = omniglot._convert
def late(*args):
    images = convert(*args)
    print("ready", flush=True)
    sys.stdin.readline()  # both have converted before either writes
    return images
omniglot._convert = late
print(omniglot.load_omniglot({str(small)!r}).pixels.sum())
"""
    start = partial(
        subprocess.Popen, [sys.executable, "-c", program], stdin=-1, stdout=-1, text=True
    )
    both = [start(), start()]
    try:
        assert [process.stdout.readline() for process in both] == ["ready\n"] * 2
        for process in both:
            process.stdin.write("\n")
            process.stdin.flush()
        sums = [int(process.communicate(timeout=60)[0]) for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [0, 0]
    assert sums == [int(load_omniglot().pixels.sum())] * 2


# The network.


@pytest.fixture
def server(small, monkeypatch, tmp_path):
    """Serves the zips of `small`; tensorflow-datasets takes them for the published ones."""
    tfds = pytest.importorskip("tensorflow_datasets")
    from tensorflow_datasets.core.download.checksums import compute_url_info

    monkeypatch.undo()  # the check of the connection too
    monkeypatch.setenv("CML_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("CML_JAX_DATA", raising=False)
    monkeypatch.setattr(omniglot, "_split", lambda: SMALL)
    handler = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": print})
    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=small))
    threading.Thread(target=served.serve_forever, daemon=True).start()
    infos = {
        f"http://127.0.0.1:{served.server_port}/{part}.zip": compute_url_info(small / f"{part}.zip")
        for part in PARTS
    }
    monkeypatch.setattr(tfds, "builder_cls", lambda name: SimpleNamespace(url_infos=infos))
    yield served
    served.shutdown()
    served.server_close()


def test_download(server, small, tmp_path):
    expected = convert(omniglot.find_source(small), SMALL)
    data = load_omniglot()
    np.testing.assert_array_equal(data.pixels, np.concatenate(expected))
    assert [path.name for path in cached().parent.iterdir()] == ["omniglot-v2"]
    server.shutdown()
    same(load_omniglot(), data)


def test_download_of_other_bytes(server, small):
    files = small_files()
    files["images_background"][FIRST] = png(9999)
    write_zips(small, files)
    refused(None, "the download failed .*Checksum.*put images_background.zip")


def test_server_without_the_file(server, small):
    (small / "images_background.zip").unlink()
    refused(None, "cannot be reached .*404.*put images_background.zip")


def test_no_connection_fails_soon(server):
    server.shutdown()
    server.server_close()
    start = time.perf_counter()
    refused(None, r"cannot be reached .*: put images_background.zip and images_evaluation.zip of")
    assert time.perf_counter() - start < 10


def test_connection_that_hangs(monkeypatch):
    """As a look-up of a name may, which no timeout of urllib bounds."""
    monkeypatch.undo()
    hang = threading.Event()

    def never(*args, **kwargs):
        hang.wait(60)
        raise OSError

    monkeypatch.setattr("urllib.request.urlopen", never)
    start = time.perf_counter()
    assert fetch._unreachable("http://127.0.0.1/x", 0.1) == "no answer in 0.1 s"
    assert time.perf_counter() - start < 10
    hang.set()


def test_import_is_light():
    program = (
        "import sys, cml_jax.data; "
        "print({'tensorflow', 'tensorflow_datasets', 'PIL', 'orbax'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
