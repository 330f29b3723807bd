"""miniImageNet: 100 classes of ImageNet, 600 pictures each, in the split of Ravi and Larochelle."""

import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cml_jax.data.class_files import class_files, has_class_files
from cml_jax.data.known_images import Source, known_images
from cml_jax.data.pickles import unpickle
from cml_jax.data.pictures import SUFFIX
from cml_jax.data.types import DataError, Images, Split

_COUNT = 600
_STORED = 84  # pixels, in the pickles
_MAX_PICKLE = 1 << 30  # the training classes take 813 million bytes
_VALIDATION = ("val", "validation")
_MISSING = (
    "put there train.zip, val.zip and test.zip (or folders) with a folder for each class, or "
    "mini-imagenet-cache-train.pkl, -val.pkl and -test.pkl, or the folder images of the Ravi split"
)


def load_mini_imagenet(data_dir: str | os.PathLike[str] | None = None, size: int = 0) -> Images:
    """Loads miniImageNet, 64 / 16 / 20 classes.

    Looks in `data_dir`, in `$CML_JAX_DATA` and in the user's cache, in each also in the sub-folder
    `mini_imagenet` and three folders down, for any of these:

    - `train`, `val` (or `validation`) and `test`, as folders or as zips, with a folder for each
      class whose name is the WordNet id;
    - `mini-imagenet-cache-train.pkl`, `-val.pkl` (or `-validation.pkl`) and `-test.pkl`, which are
      read without running code;
    - `images`, a folder or a zip with all pictures, whose names start with the WordNet id; or any
      `mini*.zip`.

    Nothing is downloaded: ImageNet's terms do not allow to pass it on. The first call converts,
    which takes half a minute; later ones open the cache. Within a class, pictures are in the order
    of the names of their files.

    Args:
      data_dir: A folder to look in first.
      size: Height and width, in pixels; 0 is 84, the size that the papers use. Others are squashed
        to it, as MAML does.

    Returns:
      Images with pixels uint8 `[60000, size, size, 3]`.

    Raises:
      DataError: miniImageNet is nowhere, or what is there is not miniImageNet.

    Reference: Vinyals et al., 2016, https://arxiv.org/abs/1606.04080; the split: Ravi and
    Larochelle, 2017, https://openreview.net/forum?id=rJY0-Kcll.
    """
    size = size or _STORED
    return known_images(
        "mini_imagenet",
        data_dir,
        partial(_find, size=size),
        size=size,
        version=1,
        resized="squashed",
        missing=_MISSING,
    )


def _find(folder: Path, split: Split, size: int) -> Source | None:
    names = [name for part in split for name in part]
    pickles = _three(folder, "mini-imagenet-cache-{}.pkl")
    if pickles:
        return Source(pickles, "pickles", partial(_read_pickles, pickles, split, size))
    pattern = re.compile(rf"(?:.*/)?({'|'.join(names)})(?:/[^/]*|[_\d]*){SUFFIX}")
    candidates = [_three(folder, "{}"), _three(folder, "{}.zip")]
    candidates += [[path] for path in (folder / "images", folder / "images.zip") if path.exists()]
    candidates += [[path] for path in sorted(folder.glob("[mM]ini*.zip"))]
    if (folder / names[0]).is_dir():
        candidates.append([folder])
    for paths in candidates:
        if paths and has_class_files(paths, pattern):
            read = partial(class_files, paths, pattern, names, _COUNT, size)
            kind = "folders" if paths[0].is_dir() else "zips"
            return Source(paths, f"{kind} of pictures", read)
    return None


def _three(folder: Path, form: str) -> list[Path]:
    """The files of the three splits if all of them are there."""
    for validation in _VALIDATION:
        paths = [folder / form.format(part) for part in ("train", validation, "test")]
        if all(path.exists() for path in paths):
            return paths
    return []


def _read_pickles(paths: list[Path], split: Split, size: int) -> Iterator[tuple[str, np.ndarray]]:
    for path, classes in zip(paths, split, strict=True):
        content = unpickle(path, _MAX_PICKLE)
        pixels, of_class = _parts(path, content)
        for name in classes:
            ids = of_class.get(name)
            if not _are_ids(ids, len(pixels)):
                raise DataError(
                    f"{path} does not have {_COUNT} pictures of class {name}: replace it"
                )
            yield name, _resized(pixels[np.asarray(ids)], size)


def _parts(path: Path, content: Any) -> tuple[np.ndarray, dict]:
    if isinstance(content, dict):
        pixels, of_class = content.get("image_data"), content.get("class_dict")
        shape = (_STORED, _STORED, 3)
        if (
            isinstance(pixels, np.ndarray)
            and pixels.dtype == np.uint8
            and pixels.shape[1:] == shape
            and isinstance(of_class, dict)
        ):
            return np.asarray(pixels), of_class
    raise DataError(
        f"{path} does not hold image_data, uint8 [n, 84, 84, 3], and class_dict: replace it"
    )


def _are_ids(ids: Any, n: int) -> bool:
    if not isinstance(ids, list | np.ndarray) or np.shape(ids) != (_COUNT,):
        return False
    valid = all(isinstance(i, int | np.integer) and 0 <= i < n for i in ids)
    return valid and len(set(map(int, ids))) == _COUNT


def _resized(images: np.ndarray, size: int) -> np.ndarray:
    if size == _STORED:
        return images
    from PIL import Image

    pictures = (Image.fromarray(image) for image in images)
    return np.stack(
        [np.asarray(p.resize((size, size), Image.Resampling.LANCZOS)) for p in pictures]
    )
