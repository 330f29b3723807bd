"""A tiny Omniglot: three characters of twenty drawings, in two zips."""

import io
import zipfile

import numpy as np
from PIL import Image

from cml_jax.data import Split

SMALL = Split(("Greek/character01",), ("Greek/character02",), ("Angelic/character01",))

PARTS = {"images_background": ["Greek/character01", "Greek/character02"]}

PARTS["images_evaluation"] = ["Angelic/character01"]


def png(seed, size=(105, 105), mode="1", image_format="PNG"):
    """A drawing: a white sheet with one black rectangle."""
    x, y = np.random.default_rng(seed).integers(0, 80, 2)
    image = Image.new("L", size, 255)
    image.paste(0, (x, y, x + 20, y + 10))
    stream = io.BytesIO()
    image.convert(mode).save(stream, image_format)
    return stream.getvalue()


def small_files():
    """`{part: {member: content}}` of a tiny Omniglot."""
    files, label = {}, 0
    for part, characters in PARTS.items():
        files[part] = {}
        for character in characters:
            label += 1
            for i in range(1, 21):
                name = f"{part}/{character}/{label:04d}_{i:02d}.png"
                files[part][name] = png(100 * label + i)
    return files


def write_zip(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def write_zips(folder, files=None):
    for part, members in (files or small_files()).items():
        write_zip(folder / f"{part}.zip", members)
