"""Damaged files by the hundred: each is refused in one line, or read right; never anything else.

Every case runs in a process of its own, forked from one that has imported what it needs, under
limits on memory, time and file sizes; an audit hook sees every file that is opened for writing
outside of the case's folder, and every program, connection and pickle. A new loader is one line of
`TARGETS`.
"""

import gzip
import io
import json
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
MEMORY = 256 << 20  # above what the process had before the case
SECONDS = 10
_FILE_BYTES = 64 << 20


class Target(NamedTuple):
    """A loader.

    Attributes:
      make: writes good files into a folder.
      read: the folder to what the loader makes of it.
      errors: names of the exceptions that it may raise.
      cases: how many damaged copies are tried.
      damages: `(folder, rng) -> None`, tried in turn.
      right: `(read, good) -> bool`: whether what was read is no wrong result.
    """

    make: Callable[[Path], None]
    read: Callable[[Path], Any]
    errors: tuple[str, ...]
    cases: int
    damages: tuple[Callable[[Path, random.Random], None], ...]
    right: Callable[[Any, Any], bool] = lambda read, good: read == good


# Damages that any file may have.


def _files(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.rglob("*")) if p.is_file() and not p.is_symlink()]


def truncate(folder: Path, rng: random.Random) -> None:
    path = rng.choice(_files(folder))
    os.truncate(path, rng.randrange(path.stat().st_size + 1))


def flip(folder: Path, rng: random.Random) -> None:
    path = rng.choice(_files(folder))
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 1, 8, 64))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def noise(folder: Path, rng: random.Random) -> None:
    """A piece of the file overwritten, cut out, doubled, or put elsewhere."""
    path = rng.choice(_files(folder))
    data = path.read_bytes()
    a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    b = min(b, a + rng.choice((1, 4, 100, 10_000)))
    piece = rng.choice((b"", rng.randbytes(b - a), bytes(b - a), b"\xff" * (b - a), data[a:b] * 2))
    path.write_bytes(data[:a] + piece + data[b:])


def number(folder: Path, rng: random.Random) -> None:
    """An integer of a header, set to a value that breaks things."""
    path = rng.choice(_files(folder))
    data = bytearray(path.read_bytes())
    form = rng.choice(("<H", "<I", "<Q", ">I"))
    size = struct.calcsize(form)
    if len(data) > size:
        value = rng.choice((0, 1, 2 ** (8 * size) - 1, 2 ** (8 * size - 1), 2 ** (4 * size)))
        end = rng.choice((100, len(data)))
        struct.pack_into(form, data, rng.randrange(max(min(end, len(data)) - size, 1)), value)
    path.write_bytes(data)


def vanish(folder: Path, rng: random.Random) -> None:
    rng.choice(_files(folder)).unlink()


def another(folder: Path, rng: random.Random) -> None:
    """Something else in the file's place."""
    path = rng.choice(_files(folder))
    path.unlink()
    kind = rng.randrange(6)
    if kind == 0:
        path.mkdir()
    elif kind == 1:
        path.symlink_to(path)
    elif kind == 2:
        path.symlink_to("/etc/passwd")
    elif kind == 3:
        path.write_bytes(b"")
    elif kind == 4:
        path.write_bytes(rng.randbytes(1000))
    else:
        with open(path, "wb") as file:  # 1 TB, of which nothing is on the disk
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 41, resource.RLIM_INFINITY))
            file.truncate(1 << 40)


ANY = (truncate, flip, noise, number, vanish, another)


# Zips.


def _rewrite(path: Path, change: Callable[[dict[str, bytes]], Iterable[tuple]]) -> None:
    """A zip with members that `change` makes of the old ones: `(name or ZipInfo, content)`."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name that is there twice
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in change(members):
                archive.writestr(name, content)


def _info(name: str, kind: int = 0, mode: int = 0o644) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.compress_type, info.external_attr = kind, mode << 16
    return info


def hostile_zip(folder: Path, rng: random.Random) -> None:
    """Members that no good archive has, among the good ones."""
    path = rng.choice([p for p in _files(folder) if zipfile.is_zipfile(p)])

    def change(members):
        names = list(members)
        victim = rng.choice(names)
        bad = "../" * rng.randrange(1, 9) + "tmp/escaped"
        added = rng.choice(
            (
                [(name, b"x") for name in (bad, f"a/{bad}", bad.replace("/", "\\"))],
                [("/tmp/escaped", b"x")],
                [("C:\\escaped", b"x"), (victim + "\0.png", b"x")],
                [(_info("link", mode=0o120777), b"/etc/passwd")],
                [(_info(victim, mode=0o120777), b"/etc/passwd")],
                [(victim, members[victim])],
                [(victim, b"other")],
                [(_info(victim, zipfile.ZIP_DEFLATED), bytes(1 << 22))],
                [(_info(victim, kind), members[victim]) for kind in (12,)],
                [(_info(victim, kind), members[victim]) for kind in (14,)],
                [(f"many/{i}", b"") for i in range(rng.choice((17, 1001)))],
                [(victim.replace("/", "//"), members[victim]), (" ", b"")],
                [(victim.upper(), members[victim]), (victim + "/", b"")],
            )
        )
        replaced = {getattr(name, "filename", name) for name, _ in added}
        keep = rng.random() < 0.3
        return [(n, c) for n, c in members.items() if keep or n not in replaced] + added

    _rewrite(path, change)


def wrong_claims(folder: Path, rng: random.Random) -> None:
    """Sizes, offsets, flags and names in a zip's directory that are not those of its members."""
    path = rng.choice([p for p in _files(folder) if zipfile.is_zipfile(p)])
    data = bytearray(path.read_bytes())
    at = [i for i in range(len(data)) if data.startswith(b"PK\x01\x02", i)]
    entry = rng.choice(at)
    offset, form = rng.choice(
        ((8, "<H"), (10, "<H"), (16, "<I"), (20, "<I"), (24, "<I"), (28, "<H"), (30, "<H"))
        + ((38, "<I"), (42, "<I"))
    )
    largest = 2 ** (8 * struct.calcsize(form)) - 1
    struct.pack_into(form, data, entry + offset, rng.choice((0, 1, 77, largest // 2, largest)))
    path.write_bytes(data)


# Images.


_BOMB = zlib.compress(bytes(50 << 20), 1)


def forged_png(data: bytes, rng: random.Random) -> bytes:
    """A PNG with right checksums and wrong content."""
    chunks, at = [], 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        chunks.append([data[at + 4 : at + 8], data[at + 8 : at + 8 + length]])
        at += 12 + length
    kind = rng.randrange(7)
    if kind == 0:
        size = rng.choice(((0, 0), (1, 1), (104, 105), (2**31 - 1,) * 2, (60_000, 60_000)))
        chunks[0][1] = struct.pack(">II", *size) + chunks[0][1][8:]
    elif kind == 1:
        header = bytearray(chunks[0][1])
        header[rng.randrange(8, 13)] = rng.randrange(256)
        chunks[0][1] = bytes(header)
    elif kind == 2:
        chunks.insert(1, [b"zTXt", b"a\0\0" + _BOMB])
    elif kind == 3:
        chunks.insert(1, [b"iCCP", b"a\0\0" + _BOMB])
    elif kind == 4:
        chunks = chunks[:1] + [[b"IDAT", rng.choice((b"", zlib.compress(bytes(10)), _BOMB))]]
    elif kind == 5:
        chunks.insert(1, [b"acTL", struct.pack(">II", 2**31 - 1, 0)])
    else:
        del chunks[rng.randrange(len(chunks))]
    body = b"".join(
        struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks
    )
    return data[:8] + body


def bad_image(folder: Path, rng: random.Random) -> None:
    """An image forged, cut, flipped, of another format; inside of a zip with the right checksum."""

    def spoil(data):
        kind = rng.randrange(5)
        if kind == 0:
            return data[: rng.randrange(len(data))]
        if kind == 1:
            at = rng.randrange(len(data))
            return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        if kind == 2:
            from PIL import Image

            stream = io.BytesIO()
            form = rng.choice(("GIF", "BMP", "WEBP", "TIFF", "PPM"))
            Image.open(io.BytesIO(data)).convert("RGB").save(stream, form)
            return stream.getvalue()
        return forged_png(data, rng)

    path = rng.choice([p for p in _files(folder) if p.suffix in (".zip", ".png")])
    if path.suffix == ".png":
        path.write_bytes(spoil(path.read_bytes()))
        return

    def change(members):
        victim = rng.choice(list(members))
        return (members | {victim: spoil(members[victim])}).items()

    _rewrite(path, change)


# Tars.


def hostile_tar(folder: Path, rng: random.Random) -> None:
    """Members that no good archive has, among the good ones."""
    path = rng.choice([p for p in _files(folder) if tarfile.is_tarfile(p)])
    with tarfile.open(path) as archive:
        good = {m.name: archive.extractfile(m).read() for m in archive if m.isreg()}  # type: ignore
    victim = rng.choice(list(good))

    def member(name: str, content: bytes = b"", **fields: Any) -> bytes:
        info = tarfile.TarInfo(name)
        vars_of = {"size": len(content)} | fields
        for field, value in vars_of.items():
            setattr(info, field, value)
        return info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)

    added = rng.choice(
        (
            [member("../" * rng.randrange(1, 9) + "tmp/escaped", b"x")],
            [member("/tmp/escaped", b"x"), member(f"a/../../{victim}", b"x")],
            [member(victim, type=tarfile.SYMTYPE, linkname="/etc/passwd")],
            [member(victim, type=tarfile.LNKTYPE, linkname="/etc/passwd")],
            [member(victim, type=rng.choice((tarfile.FIFOTYPE, tarfile.CHRTYPE, b"9")))],
            [member(victim, b"other")],
            [member(victim, good[victim])] * 2,
            [member(f"many/{i}") for i in range(300)],
            [member("zeros", bytes(8 << 20))],
            [member(victim, good[victim], size=1 << rng.choice((20, 40)))],
            [member("long", bytes(512), type=b"L", size=1 << rng.choice((20, 40)))],
            [member("x", b"99999999 size=" + b"9" * 30, type=b"x")],
            [member("x", b"19 path=\xff" + b"/" * 90, type=b"g")],
            [member(victim, good[victim], type=b"S")],
        )
    )
    keep = rng.random() < 0.5
    kept = [member(name, content) for name, content in good.items() if keep or name != victim]
    path.write_bytes(gzip.compress(b"".join([*kept, *added, bytes(1024)]), 1))


# Arrays and JSON.


def bad_array(folder: Path, rng: random.Random) -> None:
    """A header of numpy's that lies, a pickle, an archive with the digest of something else."""
    path = rng.choice(_files(folder))
    header = rng.choice(
        (
            "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000,), }",
            "{'descr': '|u1', 'fortran_order': False, 'shape': (-1,), }",
            "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 99999999999999999999), }",
            "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
            "{'descr': '<f8', 'fortran_order': 3, 'shape': 'x', }",
            "__import__('os').system('touch escaped')",
            "(" * 5000 + ")" * 5000,
            "[" * 9000,
            "{'descr': [('a', '|u1')] * 99999999, 'fortran_order': False, 'shape': (1,), }",
            "{'descr': '|S999999999', 'fortran_order': False, 'shape': (), }",
            "{'descr': '<U99999999', 'fortran_order': False, 'shape': (0,), }",
        )
    )
    version = rng.choice((b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x09"))
    form = "<H" if version == b"\x01\x00" else "<I"
    text = header.encode()
    array = b"\x93NUMPY" + version + struct.pack(form, len(text)) + text
    # The pickle, were it loaded, would make a file.
    array += rng.choice((bytes(100), b"cos\nsystem\n(S'touch escaped'\ntR."))

    def change(members):
        victim = rng.choice(list(members))
        return (members | {victim: array}).items()

    _rewrite(path, change)


def bad_json(folder: Path, rng: random.Random) -> None:
    """JSON that is none, is of another type, or is deep or large."""
    path = rng.choice(_files(folder))
    text = rng.choice(
        (
            b"[" * 100_000,
            b'{"step":' * 50_000 + b"1" + b"}" * 50_000,
            b"null",
            b"[]",
            b"3",
            b'"text"',
            b"{}",
            b'{"step": 1.5}',
            b'{"step": true}',
            b'{"step": ' + b"9" * 10_000 + b"}",
            b'{"step": 1, "train/loss": "high"}',
            b'{"step": 1, "train/loss": [1]}',
            b'{"step": 1, "train/loss": {"a": 1}}',
            b'{"step": -5}',
            b'{"step": 3, "train/loss": 1e999}',
            b"\xff\xfe{\x00}\x00",
            b"\x00" * 1000,
            b'{"method": [], "data.ways": {}, "seed": null}',
        )
    )
    lines = path.read_bytes().split(b"\n")
    lines[rng.randrange(len(lines))] = text
    path.write_bytes(rng.choice((b"\n".join(lines), text, text + b"\n")))


# The loaders.


def _small_omniglot() -> Any:
    from cml_jax.data import omniglot
    from support.omniglot_files import SMALL

    omniglot._split = lambda: SMALL
    # 50,000 members take seconds to write.
    omniglot._LIMITS = omniglot._LIMITS._replace(files=1000)
    return omniglot


def _make_zips(folder: Path) -> None:
    from support.omniglot_files import write_zips

    write_zips(folder)


def _make_folders(folder: Path) -> None:
    from support.omniglot_files import small_files

    for members in small_files().values():
        for name, content in members.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)


def _read_omniglot(folder: Path) -> str:
    """The arrays; and the cache holds all of them or nothing."""
    omniglot = _small_omniglot()
    cache = folder.parent / "cache"
    os.environ["CML_JAX_CACHE"] = str(cache)
    try:
        splits = omniglot.load_omniglot(folder)
    finally:
        left = sorted(p.name for p in cache.iterdir()) if cache.exists() else []
        assert left in ([], ["omniglot-v2"]), f"the cache has {left}"
    files = [p.name for p in (cache / left[0]).iterdir()]
    assert len(files) == 2 and "images.json" in files, f"the cache has {files}"
    return _digest(splits.pixels, *splits.members) + splits.split_hash


def _make_png(folder: Path) -> None:
    from support.omniglot_files import png

    (folder / "a.png").write_bytes(png(3))


def _read_png(folder: Path) -> str:
    import numpy as np

    from cml_jax.data.formats import decode_png

    # As read_folder hands it over: never more than a drawing may have.
    with open(folder / "a.png", "rb") as file:
        return _digest(np.asarray(decode_png(file.read(1 << 14), (105, 105), "a.png")))


def _make_cache(folder: Path) -> None:
    import numpy as np

    from cml_jax.data import Split
    from cml_jax.data.cache import write_images

    classes = [(name, np.full((3, 8, 9, 1), i, np.uint8)) for i, name in enumerate("abcd")]
    write_images(folder, "animals", Split(("a", "b"), ("c",), ("d",)), "source", classes)


def _read_cache(folder: Path) -> str:
    from cml_jax.data.cache import read_images

    images, source = read_images(folder)
    return _digest(images.pixels, *images.members) + str((images[2:], source))


def _make_graph(folder: Path) -> None:
    from support.graph_files import write

    write(folder / "own.npz")


def _read_graph(folder: Path) -> str:
    from cml_jax.data import read_graph

    return _graph_digest(read_graph(folder / "own.npz"))


def _make_planetoid(folder: Path) -> None:
    from support.graph_files import write_planetoid

    write_planetoid(folder)


def _read_planetoid(folder: Path) -> str:
    from cml_jax.data import graphs

    graphs._KNOWN["cora"] = graphs._KNOWN["cora"]._replace(nodes=6, features=2)
    return _graph_digest(graphs.load_graph("cora", folder))


def _graph_digest(graph: Any) -> str:
    """Of a graph whose parts fit together."""
    n = len(graph.labels)
    assert graph.adjacency.shape == (n, n) and len(graph.smoothed) == n
    assert graph.labels.dtype.kind == "i" and graph.labels.min() >= -1
    for matrix in (graph.adjacency, graph.features):
        for index, size in zip((matrix.rows, matrix.columns), matrix.shape, strict=True):
            assert not len(index) or (index.min() >= 0 and index.max() < size)
    return _digest(graph.labels, graph.smoothed, graph.adjacency.values, graph.features.values)


def bad_pickle(folder: Path, rng: random.Random) -> None:
    """A pickle that runs code, takes memory, nests, or is of something else."""
    import pickle

    from support.graph_files import bomb, false_pointers

    path = rng.choice([p for p in _files(folder) if p.suffix != ".index"])
    choices = (b"cos\nsystem\n(S'touch escaped'\ntR.", b"cbuiltins\neval\n(S'1'\ntR.", bomb())
    choices += (false_pointers(), false_pointers(5))
    choices += (b"(" * 100_000 + b".", b"]" * 50_000 + b"a" * 49_999 + b".", b"I1\n.", b"N.", b".")
    choices += (b"cnumpy\nload\n(S'/etc/passwd'\ntR.", b"\x8a\xff" + b"\xff" * 255 + b".")
    choices += (b"cbuiltins\nlist\n(cbuiltins\nlist\nI99999999999\ntR.", b"B\xff\xff\xff\xff.")
    choices += (pickle.dumps({0: [1], -1: [99]}, 2), pickle.dumps({"a": [[]]}, 2))
    path.write_bytes(rng.choice(choices))


def _make_class_split(folder: Path) -> None:
    text = json.dumps({"train": [0, 1], "validation": [2], "test": [3]})
    (folder / "split.json").write_text(text)


def _read_class_split(folder: Path) -> Any:
    from cml_jax.data import read_class_split

    return read_class_split(folder / "split.json")


def _is_class_split(split: Any, _: Any) -> bool:
    """A changed digit is another class, which nothing here can tell."""
    classes = [c for part in split for c in part]
    return len(set(classes)) == len(classes) and all(type(c) is int and c >= 0 for c in classes)


def _make_pictures(folder: Path) -> None:
    from support.image_files import encoded, pictures

    for form in ("JPEG", "PNG", "WEBP", "BMP", "GIF"):
        [pixels] = pictures(0, 1, 20, 30)
        (folder / f"a.{form.lower()}").write_bytes(encoded(pixels, form))


def _read_pictures(folder: Path) -> int:
    from cml_jax.data import pictures

    pictures._MAX_PIXELS = 1 << 22  # of 64 megapixels there is no room in a case
    files = _files(folder)
    for path in files:
        picture = pictures.decode_picture(path.read_bytes(), str(path), 8)
        assert picture.shape == (8, 8, 3) and picture.dtype.name == "uint8"
    return len(files)


def _make_animals(folder: Path) -> None:
    from support.image_files import animal_files, write_files

    write_files(folder, animal_files())


def _make_animals_zip(folder: Path) -> None:
    from support.image_files import write_animals_zip

    write_animals_zip(folder / "a.zip")


def _read_animals(folder: Path) -> Any:
    from cml_jax.data import load_folder

    return _images(load_folder, folder, size=8)


def _read_animals_zip(folder: Path) -> Any:
    from cml_jax.data import folder as loader

    loader.LIMITS = loader.LIMITS._replace(files=1000)
    return _images(loader.load_folder, folder / "a.zip", size=8)


def _make_mini(folder: Path) -> None:
    from support.image_files import write_mini_pickles

    write_mini_pickles(folder)


def _make_cifar(folder: Path) -> None:
    from support.image_files import write_cifar_pickles

    write_cifar_pickles(folder)


def _make_cifar_tar(folder: Path) -> None:
    from support.image_files import cifar_binary, write_tar

    write_tar(folder / "cifar-100-binary.tar.gz", cifar_binary())


def _make_cifar_tar_of_pickles(folder: Path) -> None:
    from support.image_files import cifar_pickles, write_tar

    write_tar(folder / "cifar-100-python.tar.gz", cifar_pickles())


def _make_flowers(folder: Path) -> None:
    from support.image_files import write_flowers

    write_flowers(folder)


def _known(load: str) -> Callable[[Path], Any]:
    """A loader of `cml_jax.data` that takes the small sets for the published ones."""

    def read(folder: Path) -> Any:
        from cml_jax import data
        from cml_jax.data import DataError, cifar, vgg_flower
        from support.image_files import small_sets

        def offline(*_: Any, **__: Any) -> Any:
            raise DataError("there is no network")

        for module, name, value in small_sets():
            setattr(module, name, value)
        cifar._download = vgg_flower._download = offline
        limits = {"files": 200, "total_bytes": 4 << 20}
        cifar._LIMITS = cifar._LIMITS._replace(**limits)
        vgg_flower._TAR_LIMITS = vgg_flower._TAR_LIMITS._replace(**limits)
        return _images(getattr(data, load), folder)

    return read


def _images(load: Callable[..., Any], folder: Path, **settings: Any) -> dict[str, Any]:
    """What was loaded, whose parts fit together; the cache holds all of it or nothing."""
    cache = folder.parent / ("cache" if folder.is_dir() else "../cache")
    os.environ["CML_JAX_CACHE"] = str(cache)
    tempfile.tempdir = str(cache.parent)
    os.cpu_count = lambda: 2  # each thread takes some of the memory of a case
    try:
        images = load(folder, **settings)
    except BaseException:
        left = [p.name for p in cache.iterdir()] if cache.exists() else []
        assert left == [], f"the cache has {left}"
        raise
    [made] = cache.iterdir()
    files = [p.name for p in made.iterdir()]
    assert len(files) == 2 and "images.json" in files, f"the cache has {files}"
    ids, counts = images.members
    names = [name for part in images.classes for name in part]
    assert images.pixels.dtype.name == "uint8" and images.pixels.shape[3] == 3
    assert len(set(names)) == len(names) == len(ids) and counts.sum() == len(images.pixels)
    assert counts.min() > 0 and ids.min() >= 0 and ids.max() < len(images.pixels)
    return {
        "all": _digest(images.pixels, *images.members) + images.split_hash,
        "pictures": sorted(_digest(image) for image in images.pixels),
    }


def _fits(read: Any, _: Any) -> bool:
    """Pixels without a checksum, or classes with fewer pictures: `_images` has seen the parts."""
    return bool(read)


def _same_pictures(read: Any, good: Any) -> bool:
    """A changed label is another class, which nothing here can tell."""
    return read["pictures"] == good["pictures"]


def _make_class_lists(folder: Path) -> None:
    lists = {"train": ["cat", "dog"], "validation": ["cow"], "test": ["hen"]}
    (folder / "split.json").write_text(json.dumps(lists))
    rows = [f"{name},{part}" for part, names in lists.items() for name in names]
    (folder / "split.csv").write_text("\n".join(["class,split", *rows, ""]))


def _read_class_lists(folder: Path) -> Any:
    from cml_jax.data.class_lists import read_class_lists

    return [read_class_lists(folder / f"split.{form}") for form in ("json", "csv")]


def bad_csv(folder: Path, rng: random.Random) -> None:
    """A CSV that is none, or says too much, too little or two things."""
    choices = (
        "",
        "\n",
        "\0",
        "class,split",
        "class,class,split\na,b,train\n",
        '"' * 9999,
        "," * 9999,
    )
    choices += ("class,split\n" + "a" * 200_000 + ",train\n", "class,split\ncat,train\ncat,test\n")
    choices += ("class\rsplit\r", 'class,split\n"cat\n",train\n', "split,label\nval,a,b,c\n\n\n")
    (folder / "split.csv").write_text(rng.choice(choices))


def _are_class_lists(splits: Any, _: Any) -> bool:
    """A changed letter is another class, which nothing here can tell."""
    names = [[name for part in split for name in part] for split in splits]
    assert all(type(name) is str for own in names for name in own)
    return all(len(set(own)) == len(own) and all(split) for own, split in zip(names, splits))  # noqa: B905


def _make_metrics(folder: Path) -> None:
    rows = [{"step": 10 * i, "train/loss": 1 / i, "seconds": None} for i in range(1, 30)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _read_metrics(folder: Path) -> list:
    from experiments.run_folder.folder import read_rows
    from experiments.run_folder.health import HealthCheck

    rows = read_rows(folder)
    settings = {"train_steps": 2000, "tasks_per_step": 32, "chance": 0.2, "agreement": True}
    HealthCheck(**settings, rows=rows).warnings()  # what reads them next
    return rows


def _are_rows(rows: Any, _: Any) -> bool:
    """A changed digit is another number, which nothing here can tell: the types are right."""
    values = [value for row in rows for value in row.values()]
    return all(type(row["step"]) is int for row in rows) and all(
        value is None or type(value) in (int, float) for value in values
    )


def _make_config(folder: Path) -> None:
    from experiments.settings.config import default_config
    from experiments.settings.record import record

    record(default_config(), folder)
    (folder / "last").mkdir()


def _read_config(folder: Path) -> str:
    from experiments.settings.config import default_config
    from experiments.settings.record import record

    record(default_config(), folder)
    return "goes on"


def _make_results(folder: Path) -> None:
    from experiments.run_folder.results import Results

    test = {"accuracy": 0.5, "ci95": 0.1, "num_tasks": 9, "num_steps": 1, "transductive": True}
    test["predicts"] = "meta-learner"
    made = {"method": "maml", "data": "glyphs", "split_hash": "", "graph": None, "seed": 0}
    made |= {"test": test, "test_all": [test], "wall_seconds": 1.5, "warnings": []}
    Results(**made, validation={"accuracy": 0.5, "step": 9}).write(folder)


def _read_results(folder: Path) -> Any:
    from experiments.run_folder.results import read_results

    return read_results(folder).to_dict()


def command_line(folder: Path, rng: random.Random) -> None:
    """Flags that a hand, a script or an enemy may write."""
    from experiments.settings.config import KEYS

    names = [*KEYS, "lr", "data", "model.", "", "data.name.x", "eval.num_step", "__class__", "é"]
    values = ("", "nan", "inf", "-1", "1e400", "9" * 30, "9" * 5000, "True", "()", "(1,", "(1,2,3)")
    values += ("1,2", "None", "'a'", "é漢", "a" * 100_000, "[1]", "{}", "0x10", "1_000", "1.0")
    values += (" 1", "\n", "%s", "{0}", "=", "(1,)*10**9", "9**9**9", "(" * 5000, "-0.0", "1j")
    values += ("__import__('os').system('touch escaped')", "lambda: 0", "1;2", "\x1b[2J")
    configs = ("glyphs.py", "sinusoid.py", "omniglot.py:5way-1shot", "glyphs.py:0way-1shot")
    configs += (
        "glyphs.py:5way-1shot\n",
        "glyphs.py:" + "9" * 5000,
        "sinusoid.py:x",
        "",
        "nosuch.py",
    )
    configs += ("glyphs.py:é", "__init__.py", ".", "glyphs.py:5way-1shot:x", "../setup.cfg", "\n")
    argv = [f"--config=configs/{rng.choice(configs if rng.random() < 0.3 else configs[:3])}"]
    for _ in range(rng.choice((1, 1, 2, 5))):
        name, value = rng.choice(names), rng.choice(values)
        if name in KEYS and rng.random() < 0.3:
            allowed = KEYS[name].allowed or (KEYS[name].default,)
            value = str(rng.choice(list(allowed)))
        form = rng.choice(("--config.{}={}",) * 8 + ("-config.{}={}", "--noconfig.{}", "--{}={}"))
        argv.append(form.format(name, value))
    argv += rng.choice(([],) * 8 + (["--"], ["x"], ["--flagfile=nosuch"], ["--workdir"], ["--=1"]))
    (folder / "argv.json").write_text(json.dumps(argv))


def _make_argv(folder: Path) -> None:
    (folder / "argv.json").write_text(json.dumps(["--config=configs/glyphs.py"]))


def _read_argv(folder: Path) -> str:
    """As the program starts; what it accepts has a folder and a JSON form."""
    import contextlib

    from absl import flags

    import experiments.main  # noqa: F401  its flags
    from experiments.settings.command_line import parse_flags
    from experiments.settings.config import ConfigError
    from experiments.settings.record import default_workdir

    argv = json.loads((folder / "argv.json").read_text())
    os.chdir(ROOT)
    sys.argv = ["main", *argv]  # config_flags reads these as well
    spoken = io.StringIO()
    try:
        with contextlib.redirect_stderr(spoken):
            parse_flags(sys.argv)
    except SystemExit as end:
        line = spoken.getvalue().removesuffix("\n")
        if end.code == 2 and line.startswith("error: "):
            raise ConfigError(line) from None
        raise AssertionError(f"ended with {end.code}: {line}") from None
    return str(default_workdir(flags.FLAGS["config"].config_filename, flags.FLAGS.config))


def _digest(*arrays: Any) -> str:
    import hashlib

    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


_ZIP = (*ANY, hostile_zip, wrong_claims)
DATA, RUN = ("DataError",), ("ConfigError", "ValueError")
TARGETS = {
    "omniglot zips": Target(_make_zips, _read_omniglot, DATA, 160, (*_ZIP, bad_image)),
    "omniglot folders": Target(_make_folders, _read_omniglot, DATA, 90, (*ANY, bad_image)),
    "png": Target(_make_png, _read_png, DATA, 150, (truncate, flip, noise, number, bad_image)),
    "cache": Target(_make_cache, _read_cache, DATA, 200, (*ANY, bad_json)),
    "graph": Target(_make_graph, _read_graph, DATA, 160, (*_ZIP, bad_array)),
    # Pickles have no checksum: a changed digit is another graph, whose parts fit together.
    "planetoid": Target(
        _make_planetoid, _read_planetoid, DATA, 160, (*ANY, bad_pickle), lambda read, _: bool(read)
    ),
    "class split": Target(
        _make_class_split, _read_class_split, DATA, 80, (*ANY, bad_json), _is_class_split
    ),
    # Pixels of most formats have no checksum either; the shapes fit.
    "pictures": Target(
        _make_pictures, _read_pictures, DATA, 200, (truncate, flip, noise, number, bad_image)
    ),
    "folder": Target(_make_animals, _read_animals, DATA, 110, (*ANY, bad_image), _fits),
    "folder zip": Target(
        _make_animals_zip, _read_animals_zip, DATA, 130, (*_ZIP, bad_image), _fits
    ),
    "mini pickles": Target(
        _make_mini, _known("load_mini_imagenet"), DATA, 110, (*ANY, bad_pickle), _fits
    ),
    "cifar pickles": Target(
        _make_cifar, _known("load_cifar_fs"), DATA, 110, (*ANY, bad_pickle), _fits
    ),
    "cifar tar": Target(_make_cifar_tar, _known("load_cifar_fs"), DATA, 130, (*ANY, hostile_tar)),
    "cifar tar of pickles": Target(
        _make_cifar_tar_of_pickles, _known("load_cifar_fs"), DATA, 60, (*ANY, hostile_tar), _fits
    ),
    "flowers": Target(
        _make_flowers, _known("load_vgg_flower"), DATA, 130, (*ANY, hostile_tar), _same_pictures
    ),
    "class lists": Target(
        _make_class_lists, _read_class_lists, DATA, 120, (*ANY, bad_json, bad_csv), _are_class_lists
    ),
    "metrics.jsonl": Target(_make_metrics, _read_metrics, RUN, 120, (*ANY, bad_json), _are_rows),
    "config.json": Target(_make_config, _read_config, RUN, 90, (*ANY, bad_json)),
    "command line": Target(
        _make_argv, _read_argv, RUN, 400, (command_line,), lambda read, _: read.startswith("runs/")
    ),
    "results.json": Target(
        _make_results, _read_results, RUN, 90, (*ANY, bad_json), lambda read, _: type(read) is dict
    ),
}


# Loaders that do what none may, by what the harness says of them: it is tested too.


def _bad(read: Callable[[Path], Any]) -> Target:
    def read_or_good(folder: Path) -> Any:
        return "good" if folder.parent.name == "good" else read(folder)

    return Target(lambda folder: None, read_or_good, RUN, 1, (lambda folder, rng: None,))


def _raise(error: Exception) -> Any:
    raise error


WRONG = {
    "read other": _bad(lambda folder: "other"),
    "KeyError": _bad(lambda folder: _raise(KeyError("a"))),
    "not one line": _bad(lambda folder: _raise(ValueError("a\nb"))),
    "wrote": _bad(lambda folder: open(folder.parent.parent / "other", "w").close()),
    "os.system": _bad(lambda folder: os.system("true")),
    "MemoryError": _bad(lambda folder: bytes(2 * MEMORY)),
    "seconds": _bad(lambda folder: time.sleep(2 * SECONDS)),
    "code was run": _bad(lambda folder: (folder / "escaped").touch()),
}


# Each case in a process of its own.

_ALLOWED_WRITES = ("/dev/null",)
_FORBIDDEN = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork")
_FORBIDDEN += ("socket.connect", "pickle.find_class", "os.symlink", "ctypes.dlopen")


def _watch_for(folder: Path, found: list[str]) -> None:
    inside = (str(folder), *_ALLOWED_WRITES)

    def hook(event: str, arguments: tuple) -> None:
        if event == "open" and isinstance(arguments[0], (str, bytes)):
            writes = arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes and not os.path.realpath(os.fsdecode(arguments[0])).startswith(inside):
                found.append(f"wrote {arguments[0]!r}")
        elif event in ("os.rename", "os.remove", "os.mkdir"):
            if not os.path.realpath(os.fsdecode(arguments[0])).startswith(inside):
                found.append(f"{event} {arguments[0]!r}")
        elif event in _FORBIDDEN:
            found.append(f"{event} {arguments!r}")

    sys.addaudithook(hook)


def _case(target: Target, good: Any, template: Path, seed: int, folder: Path) -> str:
    """What is wrong with the outcome of a case, or how it ended."""
    rng = random.Random(seed)
    data = folder / "data"
    shutil.copytree(template, data)
    damage = target.damages[seed % len(target.damages)]
    damage(data, rng)
    os.chdir(folder)
    found: list[str] = []
    held = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_BYTES,) * 2)
    _watch_for(folder, found)
    try:
        value = target.read(data)
        outcome = "right" if target.right(value, good) else f"WRONG: read {str(value)[:200]}"
    except Exception as error:
        name, text = type(error).__name__, str(error)
        outcome = "refused"
        if name not in target.errors:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            outcome = f"WRONG: {name}: {text[:200]} ({frame.filename}:{frame.lineno})"
        elif not text or "\n" in text or len(text) > 1000:
            outcome = f"WRONG: not one line: {text[:300]!r}"
    if found:
        outcome = f"WRONG: {found}"
    if (folder / "escaped").exists() or (data / "escaped").exists():
        outcome = "WRONG: code was run"
    return f"{outcome} [{damage.__name__}]"


def _serve(names: list[str]) -> None:
    """Prints one JSON list a target: `[seed, outcome, seconds]` of each case."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    home = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        for name in names:
            target, template = (TARGETS | WRONG)[name], home / f"template-{names.index(name)}"
            template.mkdir()
            target.make(template)
            (home / "good").mkdir(exist_ok=True)
            good = target.read(shutil.copytree(template, home / "good" / name))
            shutil.rmtree(home / "good")
            rows = [
                forked(target, good, template, seed, home / "case") for seed in range(target.cases)
            ]
            print(json.dumps([name, rows]), flush=True)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def forked(target: Target, good: Any, template: Path, seed: int, folder: Path) -> list:
    folder.mkdir()
    started = time.monotonic()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        signal.alarm(SECONDS)
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            outcome = _case(target, good, template, seed, folder)
        except BaseException as error:
            outcome = f"WRONG: the case itself: {error!r}"
        os.write(writer, outcome.encode())
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        outcome = pipe.read().decode()
    _, status = os.waitpid(pid, 0)
    if status:
        outcome = f"WRONG: ended with {status}, a crash or {SECONDS} seconds [{seed}]"
    shutil.rmtree(folder)
    return [seed, outcome, time.monotonic() - started]


def run(*names: str) -> dict[str, list]:
    """The outcomes of all cases of some targets, each `[seed, outcome, seconds]`."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    environment.pop("CML_JAX_DATA", None)
    done = subprocess.run(
        [sys.executable, __file__, *names],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return dict(map(json.loads, done.stdout.splitlines()))


if __name__ == "__main__":
    sys.path[:1] = [str(ROOT), str(ROOT / "tests")]  # in the place of this folder
    _serve(sys.argv[1:])
