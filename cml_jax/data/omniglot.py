"""Omniglot: 1,623 handwritten characters of 50 alphabets, 20 drawings each."""

import hashlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cml_jax.data.cache import cached_images, prepared_images
from cml_jax.data.fetch import fetch
from cml_jax.data.files import (
    Limits,
    fingerprint,
    folders_below,
    one_line,
    open_files,
    search_folders,
)
from cml_jax.data.formats import decode_png, read_npz
from cml_jax.data.types import DataError, Images, Split

PARTS = ("images_background", "images_evaluation")

_PREPARED = "omniglot-v2"  # a change of what is stored is a new version
_OLD_PREPARED = "omniglot-v1.npz"
_MAX_PREPARED_BYTES = 1 << 26
_DRAWING = re.compile(r"(?:[^/]+/)*([\w()'.-]+/character\d\d)/\d{4}_\d\d\.(?i:png)", re.ASCII)
# The larger of the original zips has 9.5 million bytes, the largest drawing 522.
_LIMITS = Limits(files=50_000, file_bytes=1 << 14, total_bytes=1 << 26)
_DRAWINGS = 20
_STORED_SIZE = (105, 105)
_SIZE = (28, 28)
_HOME = "https://github.com/brendenlake/omniglot (folder python)"

_log = logging.getLogger(__name__)


class Source(NamedTuple):
    """Omniglot in some form.

    Attributes:
      paths: Its files and folders.
      read: Yields the name (for messages), the character (as "Greek/character01") and the PNG of
        every drawing. The names of files that are not drawings are appended to the list that it
        is given.
    """

    paths: list[Path]
    read: Callable[[list[str]], Iterator[tuple[str, str, bytes]]]


def load_omniglot(data_dir: str | os.PathLike[str] | None = None) -> Images:
    """Loads Omniglot at 28 x 28 pixels, 1,100 / 100 / 423 characters.

    Looks in `data_dir`, in `$CML_JAX_DATA` and in the user's cache (`$CML_JAX_CACHE`,
    `$XDG_CACHE_HOME/cml_jax` or `~/.cache/cml_jax`), in each also up to three folders down, for any
    of these:

    - `omniglot-v2`, the folder that this function keeps in the cache, or `omniglot-v1.npz`, the
      file that earlier versions kept there;
    - `images_background` and `images_evaluation` side by side, as zips or as folders, as the
      original repository and torchvision (`omniglot-py`) have them;
    - the folder `omniglot` of tensorflow-datasets;
    - folders `ALPHABET/characterNN` without these parents, or all in one `omniglot*.zip`.

    Else the two zips are downloaded. The first call converts, which takes some seconds; later ones
    open the cache.

    Ink is 255 and paper 0, as in MAML (Reptile's code keeps ink = 0). Characters are in the order
    of their names within a split, and the drawings of one in the order of their pixels, so that
    every source gives the same arrays. The split is stored with this library: all characters in the
    order of the SHA-256 of "0/ALPHABET/characterNN" (0 is the seed), cut at 1,100 and 1,200.
    Quarter turns are a matter of the tasks, not of the data: see `cml_jax.tasks.episodes`.

    Args:
      data_dir: A folder to look in first.

    Returns:
      Images with pixels uint8 `[32460, 28, 28, 1]`, 20 of each character.

    Raises:
      DataError: Omniglot is nowhere and cannot be downloaded, or what is there is not Omniglot.

    Reference: Lake et al., 2015, https://github.com/brendenlake/omniglot.
    """
    split = _split()
    looked_in = search_folders(data_dir, "omniglot")
    for place in looked_in:
        if prepared := prepared_images(place / _PREPARED, "omniglot", split):
            return prepared
        if (place / _OLD_PREPARED).is_file():
            try:
                old = place / _OLD_PREPARED
                return _cached(split, fingerprint([old]), partial(_read_old, old, split))
            except DataError as error:
                _log.warning("%s; looking for another source of Omniglot", error)
        if source := find_source(place):
            return _prepare(source, split)
    zips = [f"{name}.zip" for name in PARTS]
    with tempfile.TemporaryDirectory(prefix="cml_jax-omniglot-") as folder:
        try:
            fetched = fetch("omniglot", zips, Path(folder))
        except DataError as error:
            raise DataError(
                f"Omniglot is not in {', '.join(map(str, looked_in))}, and {error}: put {zips[0]} "
                f"and {zips[1]} of {_HOME} into {looked_in[-1]}, or set CML_JAX_DATA to their "
                "folder"
            ) from error
        return _prepare(Source(fetched, partial(_read_files, fetched)), split)


def find_source(place: Path) -> Source | None:
    """Omniglot in a folder or not far below it, if it is there.

    Raises:
      DataError: Only one of the two parts is there.
    """
    half = None
    for folder in folders_below(place):
        parts = [path for name in PARTS if (path := _part(folder, name))]
        if len(parts) == len(PARTS):
            return Source(parts, partial(_read_files, parts))
        if parts:
            half = half or parts[0]
        elif folder.name == "omniglot" and (folder / "3.0.0" / "dataset_info.json").is_file():
            return Source([folder / "3.0.0"], partial(_read_tfds, folder))
        elif not folder.name.startswith(PARTS):
            whole = (
                [folder]
                if any(folder.glob("*/character01"))
                else sorted(path for path in folder.glob("[oO]mniglot*.zip") if path.is_file())[:1]
            )
            if whole:
                return Source(whole, partial(_read_files, whole))
    if half:
        raise DataError(f"{half} is half of Omniglot: put {' and '.join(PARTS)} side by side")
    return None


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


def _prepare(source: Source, split: Split) -> Images:
    return _cached(split, fingerprint(source.paths), lambda: _convert(source, split))


def _cached(split: Split, mark: str, convert: Callable[[], dict[str, np.ndarray]]) -> Images:
    return cached_images(_PREPARED, "omniglot", split, mark, lambda: convert().items())


def _convert(source: Source, split: Split) -> dict[str, np.ndarray]:
    """The drawings `[20, 28, 28, 1]` of every character, in the order of the split."""
    where = source.paths[0] if len(source.paths) == 1 else source.paths[0].parent
    drawings = {character: [] for part in split for character in part}
    others: list[str] = []
    for name, character, png in source.read(others):
        if character not in drawings:
            raise DataError(f"{name} is not of Omniglot: take it away")
        if len(drawings[character]) == _DRAWINGS:
            raise DataError(f"{name} is drawing {_DRAWINGS + 1} of its character: want 20")
        drawings[character].append(_shrink(png, name))
    short = sorted(c for c, own in drawings.items() if len(own) < _DRAWINGS)
    if short:
        also = f"; of {len(others)} other files one is {others[0]!r}" if others else ""
        raise DataError(
            f"{where} has {len(drawings) - len(short)} of {len(drawings)} characters complete, "
            f"{short[0]} has {len(drawings[short[0]])} of {_DRAWINGS} drawings{also}; expected "
            f"files ALPHABET/characterNN/NNNN_NN.png: replace it with {' and '.join(PARTS)} of "
            f"{_HOME}"
        )
    images = {character: _in_order(own)[..., None] for character, own in drawings.items()}
    if any((own.mean(axis=(1, 2, 3)) > 127).any() for own in images.values()):
        raise DataError(f"{where} has a drawing that is mostly ink: ink must be 0 and paper 255")
    return images


def _shrink(png: bytes, name: str) -> np.ndarray:
    from PIL import Image

    image = decode_png(png, _STORED_SIZE, name).convert("L")
    return 255 - np.asarray(image.resize(_SIZE, Image.Resampling.LANCZOS))


def _in_order(images: list[np.ndarray]) -> np.ndarray:
    """Sorts by pixels: tensorflow-datasets shuffles, and does not keep the drawer."""
    return np.stack(sorted(images, key=np.ndarray.tobytes))


def _part(folder: Path, name: str) -> Path | None:
    if (path := folder / f"{name}.zip").is_file() or (path := folder / name).is_dir():
        return path
    return None


def _read_files(paths: list[Path], others: list[str]) -> Iterator[tuple[str, str, bytes]]:
    for path in paths:
        with open_files(path, _DRAWING, _LIMITS) as files:
            others += files.others
            for match, read in files.wanted:
                yield f"{path}: {match.string}", match[1], read()


def _read_tfds(folder: Path, others: list[str]) -> Iterator[tuple[str, str, bytes]]:
    del others
    import tensorflow_datasets as tfds

    try:
        # The builder's code: builder_from_directory imports what features.json in the folder names.
        builder: Any = tfds.builder_cls("omniglot")(data_dir=folder.parent, version="3.0.0")
        names = builder.info.features["label"].names
        options = {"split": "train+test", "decoders": {"image": tfds.decode.SkipDecoding()}}
        if builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
            examples: Any = builder.as_data_source(**options)
        else:
            examples = tfds.as_numpy(builder.as_dataset(**options))  # needs TensorFlow
        for example in examples:
            alphabet, number = names[int(example["label"])].rsplit("_", 1)
            character = f"{alphabet}/character{int(number) + 1:02d}"
            yield f"{folder}: {character}", character, example["image"]
    except Exception as error:  # whatever tensorflow-datasets raises
        raise DataError(
            f"tensorflow-datasets cannot read {folder} ({one_line(error)}): install "
            f"tensorflow-cpu, or put {PARTS[0]}.zip and {PARTS[1]}.zip beside it"
        ) from error


def _read_old(path: Path, split: Split) -> dict[str, np.ndarray]:
    """The drawings of every character from the file that earlier versions kept in the cache."""
    limits = Limits(files=16, file_bytes=_MAX_PREPARED_BYTES, total_bytes=_MAX_PREPARED_BYTES)
    arrays = read_npz(path, r"(\w+)\.npy", limits)
    stored, digest = arrays.pop("sha256", None), hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode() + array.tobytes())
    if stored is None or str(stored) != digest.hexdigest():
        raise DataError(f"{path} does not match its SHA-256: delete it")
    names = [character for part in split for character in part]
    shape = (len(names), _DRAWINGS, *_SIZE, 1)
    if (
        arrays.keys() != {"images", "characters", "source"}
        or arrays["characters"].tolist() != sorted(names)
        or arrays["images"].shape != shape
        or arrays["images"].dtype != np.uint8
    ):
        raise DataError(f"{path} holds something else than Omniglot: delete it")
    row = dict(zip(sorted(names), arrays["images"], strict=True))
    return {name: row[name] for name in names}
