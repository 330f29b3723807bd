"""Damages that any file may have, and files of text that are none."""

import os
import random
import resource
import struct
from collections.abc import Callable
from pathlib import Path

Damage = Callable[[Path, random.Random], None]


def files(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.rglob("*")) if p.is_file() and not p.is_symlink()]


def truncate(folder: Path, rng: random.Random) -> None:
    path = rng.choice(files(folder))
    os.truncate(path, rng.randrange(path.stat().st_size + 1))


def flip(folder: Path, rng: random.Random) -> None:
    path = rng.choice(files(folder))
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 1, 8, 64))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def noise(folder: Path, rng: random.Random) -> None:
    """A piece of the file overwritten, cut out, doubled, or put elsewhere."""
    path = rng.choice(files(folder))
    data = path.read_bytes()
    a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    b = min(b, a + rng.choice((1, 4, 100, 10_000)))
    piece = rng.choice((b"", rng.randbytes(b - a), bytes(b - a), b"\xff" * (b - a), data[a:b] * 2))
    path.write_bytes(data[:a] + piece + data[b:])


def number(folder: Path, rng: random.Random) -> None:
    """An integer of a header, set to a value that breaks things."""
    path = rng.choice(files(folder))
    data = bytearray(path.read_bytes())
    form = rng.choice(("<H", "<I", "<Q", ">I"))
    size = struct.calcsize(form)
    if len(data) > size:
        value = rng.choice((0, 1, 2 ** (8 * size) - 1, 2 ** (8 * size - 1), 2 ** (4 * size)))
        end = rng.choice((100, len(data)))
        struct.pack_into(form, data, rng.randrange(max(min(end, len(data)) - size, 1)), value)
    path.write_bytes(data)


def vanish(folder: Path, rng: random.Random) -> None:
    rng.choice(files(folder)).unlink()


def another(folder: Path, rng: random.Random) -> None:
    """Something else in the file's place."""
    path = rng.choice(files(folder))
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


def bad_json(folder: Path, rng: random.Random) -> None:
    """JSON that is none, is of another type, or is deep or large."""
    path = rng.choice(files(folder))
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
