"""Pictures with the right checksums and the wrong content."""

import io
import random
import struct
import zlib
from pathlib import Path

from PIL import Image

from support.fuzz.archives import rewrite
from support.fuzz.damages import files

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
            stream = io.BytesIO()
            form = rng.choice(("GIF", "BMP", "WEBP", "TIFF", "PPM"))
            Image.open(io.BytesIO(data)).convert("RGB").save(stream, form)
            return stream.getvalue()
        return forged_png(data, rng)

    path = rng.choice([p for p in files(folder) if p.suffix in (".zip", ".png")])
    if path.suffix == ".png":
        path.write_bytes(spoil(path.read_bytes()))
        return

    def change(members):
        victim = rng.choice(list(members))
        return (members | {victim: spoil(members[victim])}).items()

    rewrite(path, change)
