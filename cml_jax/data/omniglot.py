"""Omniglot: 1,623 handwritten characters of 50 alphabets, 20 drawings each."""

import json
import logging
import os
import tempfile
from importlib import resources
from pathlib import Path

import numpy as np

from cml_jax.data.cache import read_arrays, write_arrays
from cml_jax.data.fetch import fetch
from cml_jax.data.formats import decode_png
from cml_jax.data.omniglot_sources import PARTS, Source, find_source, fingerprint, parts_source
from cml_jax.data.places import cache_dir, search_folders
from cml_jax.data.types import DataError, Images, Split, split_hash
from cml_jax.tasks.members import consecutive_members

_PREPARED = "omniglot-v1.npz"  # a change of what is stored is a new version
_MAX_PREPARED_BYTES = 1 << 26
_DRAWINGS = 20
_STORED_SIZE = (105, 105)
_SIZE = (28, 28)

_log = logging.getLogger(__name__)


def load_omniglot(data_dir: str | os.PathLike[str] | None = None) -> Images:
    """Loads Omniglot at 28 x 28 pixels, 1,100 / 100 / 423 characters.

    Looks in `data_dir`, in `$CML_JAX_DATA` and in the user's cache (`$CML_JAX_CACHE`,
    `$XDG_CACHE_HOME/cml_jax` or `~/.cache/cml_jax`), in each also in the sub-folder `omniglot`, for
    `omniglot-v1.npz` (the cached file of this function), `images_background` and
    `images_evaluation` (zips or folders), or a folder of tensorflow-datasets. Else the two zips are
    downloaded. The first call converts, in a few seconds; later ones read the cache.

    Ink is 255 and paper 0, as in MAML (Reptile's code keeps ink = 0). Characters are in the order
    of their names, and the drawings of one in the order of their pixels, so that every source gives
    the same arrays. The split is stored: all characters in the order of the SHA-256 of
    "0/ALPHABET/characterNN" (0 is the seed), cut at 1,100 and 1,200. Rotations as further classes
    are the task's, not the data's.

    Args:
      data_dir: a folder to look in first.

    Returns:
      uint8 `[characters, 20, 28, 28, 1]` for each split.

    Raises:
      DataError: Omniglot is nowhere and cannot be downloaded, or what is there is not Omniglot.

    Reference: Lake et al., 2015, https://github.com/brendenlake/omniglot.
    """
    split = _split()
    characters = sorted([*split.train, *split.validation, *split.test])
    images = _images(data_dir, characters)
    row = {character: i for i, character in enumerate(characters)}
    ordered = images[[row[character] for part in split for character in part]]
    members = consecutive_members([_DRAWINGS] * len(ordered))
    pixels = ordered.reshape(-1, *_SIZE, 1)
    return Images(pixels, members, split, name="omniglot", split_hash=split_hash(split))


def _split() -> Split:
    path = resources.files("cml_jax.data") / "splits" / "omniglot.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    return Split(
        *(
            tuple(
                f"{alphabet}/character{number:02d}"
                for alphabet, numbers in stored[part].items()
                for number in numbers
            )
            for part in Split._fields
        )
    )


def _images(data_dir: str | os.PathLike[str] | None, characters: list[str]) -> np.ndarray:
    looked_in = search_folders(data_dir, "omniglot")
    for place in looked_in:
        prepared = place / _PREPARED
        if prepared.is_file():
            try:
                return _read_prepared(prepared, characters)[0]
            except DataError as error:
                _log.warning("%s; looking for another source of Omniglot", error)
        if source := find_source(place):
            return _prepare(source, characters)
    zips = [f"{name}.zip" for name in PARTS]
    with tempfile.TemporaryDirectory(prefix="cml_jax-omniglot-") as folder:
        try:
            fetched = fetch("omniglot", zips, Path(folder))
        except DataError as error:
            raise DataError(
                f"Omniglot is not in {', '.join(map(str, looked_in))}, and {error}: put {zips[0]} "
                f"and {zips[1]} of https://github.com/brendenlake/omniglot (folder python) into "
                f"{looked_in[-1]}, or set CML_JAX_DATA to their folder"
            ) from error
        return _prepare(parts_source(fetched), characters)


def _prepare(source: Source, characters: list[str]) -> np.ndarray:
    """Reads the cache if it was made from this source, else converts and fills it."""
    cached = cache_dir() / _PREPARED
    mark = fingerprint(source)
    if cached.is_file():
        try:
            images, cached_mark = _read_prepared(cached, characters)
            if cached_mark == mark:
                return images
        except DataError as error:
            _log.warning("%s; converting Omniglot again", error)
    images = _convert(source, characters)
    arrays = {"images": images, "characters": np.array(characters), "source": np.array(mark)}
    try:
        write_arrays(cached, arrays)
    except OSError as error:
        _log.warning(
            "%s cannot be written (%s): set CML_JAX_CACHE to a folder that can, or Omniglot is "
            "converted every time",
            cached,
            error.strerror,
        )
    return images


def _read_prepared(path: Path, characters: list[str]) -> tuple[np.ndarray, str]:
    arrays = read_arrays(path, max_bytes=_MAX_PREPARED_BYTES)
    shape = (len(characters), _DRAWINGS, *_SIZE, 1)
    if (
        arrays.keys() != {"images", "characters", "source"}
        or arrays["characters"].tolist() != characters
        or arrays["images"].shape != shape
        or arrays["images"].dtype != np.uint8
    ):
        raise DataError(f"{path} holds something else than Omniglot: delete it")
    return arrays["images"], str(arrays["source"])


def _convert(source: Source, characters: list[str]) -> np.ndarray:
    where = source.paths[0].parent
    drawings: dict[str, list[np.ndarray]] = {character: [] for character in characters}
    for drawing in source.read():
        if drawing.character not in drawings:
            raise DataError(f"{drawing.name} is not of Omniglot: take it away")
        if len(drawings[drawing.character]) == _DRAWINGS:
            raise DataError(f"{drawing.name} is drawing {_DRAWINGS + 1} of its character: want 20")
        drawings[drawing.character].append(_shrink(drawing.png, drawing.name))
    short = [character for character in characters if len(drawings[character]) < _DRAWINGS]
    if short:
        raise DataError(
            f"{where} has {len(characters) - len(short)} of {len(characters)} characters complete, "
            f"{short[0]} has {len(drawings[short[0]])} of {_DRAWINGS} drawings: replace "
            f"{' and '.join(PARTS)} with the published files"
        )
    images = np.stack([_in_order(drawings[character]) for character in characters])
    if (images.mean(axis=(2, 3)) > 127).any():
        raise DataError(f"{where} has a drawing that is mostly ink: ink must be 0 and paper 255")
    return images[..., None]


def _shrink(png: bytes, name: str) -> np.ndarray:
    from PIL import Image

    image = decode_png(png, _STORED_SIZE, name).convert("L")
    return 255 - np.asarray(image.resize(_SIZE, Image.Resampling.LANCZOS))


def _in_order(images: list[np.ndarray]) -> np.ndarray:
    """Sorts by pixels: tensorflow-datasets shuffles, and does not keep the drawer."""
    return np.stack(sorted(images, key=np.ndarray.tobytes))
