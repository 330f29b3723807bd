"""Zips, tars, arrays and pickles that no honest program has written."""

import gzip
import pickle
import random
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from support.fuzz.damages import files
from support.graph_files import bomb, false_pointers


def rewrite(path: Path, change: Callable[[dict[str, bytes]], Iterable[tuple]]) -> None:
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
    path = rng.choice([p for p in files(folder) if zipfile.is_zipfile(p)])

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

    rewrite(path, change)


def wrong_claims(folder: Path, rng: random.Random) -> None:
    """Sizes, offsets, flags and names in a zip's directory that are not those of its members."""
    path = rng.choice([p for p in files(folder) if zipfile.is_zipfile(p)])
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


def hostile_tar(folder: Path, rng: random.Random) -> None:
    """Members that no good archive has, among the good ones."""
    path = rng.choice([p for p in files(folder) if tarfile.is_tarfile(p)])
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


def bad_array(folder: Path, rng: random.Random) -> None:
    """A header of numpy's that lies, a pickle, an archive with the digest of something else."""
    path = rng.choice(files(folder))
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

    rewrite(path, change)


def bad_pickle(folder: Path, rng: random.Random) -> None:
    """A pickle that runs code, takes memory, nests, or is of something else."""
    path = rng.choice([p for p in files(folder) if p.suffix != ".index"])
    choices = (b"cos\nsystem\n(S'touch escaped'\ntR.", b"cbuiltins\neval\n(S'1'\ntR.", bomb())
    choices += (false_pointers(), false_pointers(5))
    choices += (b"(" * 100_000 + b".", b"]" * 50_000 + b"a" * 49_999 + b".", b"I1\n.", b"N.", b".")
    choices += (b"cnumpy\nload\n(S'/etc/passwd'\ntR.", b"\x8a\xff" + b"\xff" * 255 + b".")
    choices += (b"cbuiltins\nlist\n(cbuiltins\nlist\nI99999999999\ntR.", b"B\xff\xff\xff\xff.")
    choices += (pickle.dumps({0: [1], -1: [99]}, 2), pickle.dumps({"a": [[]]}, 2))
    path.write_bytes(rng.choice(choices))
