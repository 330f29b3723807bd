"""CIFAR-FS and FC100: two few-shot splits of CIFAR-100, 100 classes of 600 pictures."""

import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cml_jax.data.class_files import check_complete, class_files, has_class_files
from cml_jax.data.fetch import fetch
from cml_jax.data.files import Limits, tar_files
from cml_jax.data.known_images import Source, in_place, known_images, tfds_examples
from cml_jax.data.pickles import unpickle, unpickle_bytes
from cml_jax.data.pictures import SUFFIX, decode_picture
from cml_jax.data.types import DataError, Images, Split

_SIZE, _COUNT = 32, 600
_COUNTS = {"train": 50_000, "test": 10_000}
_RECORD = 2 + 3 * _SIZE * _SIZE  # two labels, then the red, green and blue planes
_MAX_PICKLE = 1 << 28  # 155 million bytes
_BINARY = re.compile(r"cifar-100-binary/(train|test)\.bin")
_PICKLES = re.compile(r"cifar-100-python/(train|test)")
_LIMITS = Limits(files=100, file_bytes=1 << 28, total_bytes=1 << 29)
_ZIPS = ("[cC][iI][fF][aA][rR]*.zip", "[fF][cC]100*.zip")
_MISSING = (
    "put cifar-100-python.tar.gz or cifar-100-binary.tar.gz of "
    "https://www.cs.toronto.edu/~kriz/cifar.html there"
)

Labelled = Iterator[tuple[np.ndarray, np.ndarray]]  # fine labels [n], pictures [n, 32, 32, 3]


def load_cifar_fs(data_dir: str | os.PathLike[str] | None = None) -> Images:
    """Loads CIFAR-FS: the classes of CIFAR-100 split at random, 64 / 16 / 20.

    Looks in `data_dir`, in `$CML_JAX_DATA` and in the user's cache, in each also in the sub-folder
    `cifar_fs` and three folders down, for any of these:

    - `cifar-100-python`, the folder of pickles, which are read without running code, or
      `cifar-100-python.tar.gz`;
    - `cifar-100-binary` or `cifar-100-binary.tar.gz`;
    - a folder for each class (in one that may have any name), or such folders in a zip whose name
      starts with "cifar" or "fc100";
    - the folder `cifar100` of tensorflow-datasets.

    Else `cifar-100-binary.tar.gz` is downloaded. The first call converts, which takes some seconds;
    later ones open the cache. Within a class, pictures are in the order of their pixels, so that
    every source gives the same arrays.

    Args:
      data_dir: A folder to look in first.

    Returns:
      Images with pixels uint8 `[60000, 32, 32, 3]`.

    Raises:
      DataError: CIFAR-100 is nowhere and cannot be downloaded, or what is there is not CIFAR-100.

    Reference: Bertinetto et al., 2019, https://arxiv.org/abs/1805.08136.
    """
    return _load("cifar_fs", data_dir)


def load_fc100(data_dir: str | os.PathLike[str] | None = None) -> Images:
    """Loads FC100: the classes of CIFAR-100 split by superclass, 60 / 20 / 20.

    What is read, returned and raised is as in `load_cifar_fs`; the sub-folder is `fc100`.

    Reference: Oreshkin et al., 2018, https://arxiv.org/abs/1805.10123.
    """
    return _load("fc100", data_dir)


def _load(name: str, data_dir: str | os.PathLike[str] | None) -> Images:
    return known_images(
        name,
        data_dir,
        _find,
        size=_SIZE,
        version=1,
        resized="no",
        missing=_MISSING,
        download=_download,
    )


def _find(folder: Path, split: Split) -> Source | None:
    if all((folder / part).is_file() for part in ("train", "test", "meta")):
        paths = [folder / part for part in _COUNTS]
        return _source(paths, "pickles", lambda: map(_read_pickle, paths), split)
    if all((folder / f"{part}.bin").is_file() for part in _COUNTS):
        paths = [folder / f"{part}.bin" for part in _COUNTS]
        return _source(paths, "binary files", lambda: map(_read_binary, paths), split)
    if (tar := folder / "cifar-100-python.tar.gz").is_file():
        return _source([tar], "pickles", partial(_read_tar_of_pickles, tar), split)
    if (tar := folder / "cifar-100-binary.tar.gz").is_file():
        return _source([tar], "binary files", partial(_read_tar, tar), split)
    if in_place(folder, "cifar100", "3.0.2"):
        return _source([folder / "3.0.2"], "tensorflow-datasets", lambda: _read_tfds(folder), split)
    names = [name for part in split for name in part]
    pattern = re.compile(rf"(?:[^/]+/)*({'|'.join(map(re.escape, names))})/[^/]+{SUFFIX}")
    candidates = [folder] if (folder / names[0]).is_dir() else []
    candidates += sorted(path for form in _ZIPS for path in folder.glob(form))
    for path in candidates:
        if has_class_files([path], pattern):
            order = np.ndarray.tobytes
            read = partial(class_files, [path], pattern, names, _COUNT, _SIZE, order=order)
            return Source([path], "folders of pictures", read)
    return None


def _download(folder: Path, split: Split) -> Source:
    [tar] = fetch("cifar100", ["cifar-100-binary.tar.gz"], folder)
    return _source([tar], "binary files", lambda: _read_tar(tar), split)


def _source(paths: list[Path], form: str, read: Callable[[], Labelled], split: Split) -> Source:
    return Source(paths, form, partial(_classes, paths, read, split))


def _classes(
    paths: list[Path], read: Callable[[], Labelled], split: Split
) -> Iterator[tuple[str, np.ndarray]]:
    """The pictures of every class; labels count the names of all classes in alphabetical order."""
    nothing = np.zeros(0, np.int64), np.zeros((0, _SIZE, _SIZE, 3), np.uint8)
    labels, pictures = map(np.concatenate, zip(nothing, *read(), strict=True))
    names = [name for part in split for name in part]
    index = {name: i for i, name in enumerate(sorted(names))}
    check_complete(paths, {name: int((labels == index[name]).sum()) for name in names}, _COUNT)
    for name in names:
        own = pictures[labels == index[name]]
        yield name, np.stack(sorted(own, key=np.ndarray.tobytes))


def _read_pickle(path: Path) -> tuple[np.ndarray, np.ndarray]:
    return _from_pickle(unpickle(path, _MAX_PICKLE), path, path.name)


def _read_tar_of_pickles(path: Path) -> Labelled:
    for match, content in tar_files(path, _PICKLES, _LIMITS):
        yield _from_pickle(unpickle_bytes(content, path), path, match[1])


def _from_pickle(content: Any, path: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    labels, planes = (
        (content.get("fine_labels"), content.get("data")) if isinstance(content, dict) else (0, 0)
    )
    n = _COUNTS[part]
    if (
        not isinstance(planes, np.ndarray)
        or planes.dtype != np.uint8
        or planes.shape != (n, _RECORD - 2)
        or not isinstance(labels, list)
        or len(labels) != n
        or not all(type(label) is int and 0 <= label < 100 for label in labels)
    ):
        raise DataError(f"{path} does not hold {n} pictures of CIFAR-100: replace it")
    return np.array(labels), _from_planes(np.asarray(planes))


def _read_binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with path.open("rb") as stream:
            content = stream.read(_COUNTS[path.stem] * _RECORD + 1)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): correct it") from error
    return _from_records(content, path, path.stem)


def _read_tar(path: Path) -> Labelled:
    for match, content in tar_files(path, _BINARY, _LIMITS):
        yield _from_records(content, path, match[1])


def _from_records(content: bytes, path: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    if len(content) != _COUNTS[part] * _RECORD:
        raise DataError(
            f"{path}: {part}.bin does not have {_COUNTS[part] * _RECORD} bytes: replace it with a "
            "good copy"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, _RECORD)
    return records[:, 1].astype(np.int64), _from_planes(records[:, 2:])


def _from_planes(planes: np.ndarray) -> np.ndarray:
    return planes.reshape(-1, 3, _SIZE, _SIZE).transpose(0, 2, 3, 1)


def _read_tfds(folder: Path) -> Labelled:
    labels, pictures = [], []
    examples: Iterator[Any] = tfds_examples(folder, "3.0.2", "train+test")
    for example in examples:
        labels.append(int(example["label"]))
        pictures.append(decode_picture(example["image"], str(folder), _SIZE))
    yield np.array(labels), np.array(pictures).reshape(-1, _SIZE, _SIZE, 3)
