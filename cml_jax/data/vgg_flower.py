"""VGG-Flower: 102 kinds of flowers, 40 to 258 photographs each."""

import io
import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from cml_jax.data.class_files import LIMITS
from cml_jax.data.fetch import fetch
from cml_jax.data.files import Limits, one_line, open_files, tar_files
from cml_jax.data.known_images import Source, in_place, known_images, tfds_examples
from cml_jax.data.pictures import decode_picture
from cml_jax.data.types import DataError, Images, Split

_SIZE = 32
_PICTURES, _CLASSES = 8189, 102
_PICTURE = re.compile(r"(?:jpg/)?image_(\d{5})\.jpg")
_MAX_LABELS = 1 << 16
_TAR_LIMITS = Limits(files=20_000, file_bytes=1 << 24, total_bytes=1 << 30)
_ARCHIVE, _LABELS = "102flowers.tgz", "imagelabels.mat"
_MISSING = (
    f"put {_ARCHIVE} and {_LABELS} of https://www.robots.ox.ac.uk/~vgg/data/flowers/102/ there"
)


def load_vgg_flower(data_dir: str | os.PathLike[str] | None = None, size: int = 0) -> Images:
    """Loads VGG-Flower (Oxford Flowers 102), 71 / 15 / 16 classes of unequal size.

    Looks in `data_dir`, in `$CML_JAX_DATA` and in the user's cache, in each also in the sub-folder
    `vgg_flower` and three folders down, for any of these:

    - `imagelabels.mat` beside `102flowers.tgz`, or beside its folder `jpg`;
    - the folder `oxford_flowers102` of tensorflow-datasets.

    Else these two files are downloaded. The first call converts, which takes about two minutes;
    later ones open the cache. The split is Meta-Dataset's, which the CML paper's code uses. Within
    a class, pictures are in the order of their pixels.

    Args:
      data_dir: A folder to look in first.
      size: Height and width, in pixels; 0 is 32, as in the CML paper. The photographs, about 500 x
        700, are squashed to it.

    Returns:
      Images with pixels uint8 `[8189, size, size, 3]`.

    Raises:
      DataError: The flowers are nowhere and cannot be downloaded, or what is there is something
        else.

    Reference: Nilsback and Zisserman, 2008, https://www.robots.ox.ac.uk/~vgg/data/flowers/102; the
    split: Triantafillou et al., 2020, https://arxiv.org/abs/1903.03096.
    """
    size = size or _SIZE
    return known_images(
        "vgg_flower",
        data_dir,
        partial(_find, size=size),
        size=size,
        version=1,
        resized="squashed",
        missing=_MISSING,
        download=partial(_download, size=size),
    )


def _find(folder: Path, split: Split, size: int) -> Source | None:
    labels = folder / _LABELS
    for pictures in (folder / _ARCHIVE, folder / "jpg"):
        if labels.is_file() and pictures.exists():
            paths = [pictures, labels]
            return Source(paths, "photographs", partial(_read, pictures, labels, split, size))
    if in_place(folder, "oxford_flowers102", "2.1.1"):
        read = partial(_read_tfds, folder, split, size)
        return Source([folder / "2.1.1"], "tensorflow-datasets", read)
    return None


def _download(folder: Path, split: Split, size: int) -> Source:
    pictures, labels = fetch("oxford_flowers102", [_ARCHIVE, _LABELS], folder)
    read = partial(_read, pictures, labels, split, size)
    return Source([pictures, labels], "photographs", read)


def _read(
    path: Path, labels_path: Path, split: Split, size: int
) -> Iterator[tuple[str, np.ndarray]]:
    labels = _read_labels(labels_path)
    pictures: dict[int, np.ndarray] = {}
    for name, number, content in _files(path):
        if not 1 <= number <= len(labels):
            raise DataError(f"{name} is not one of the {len(labels)} flowers: take it away")
        pictures[number] = decode_picture(content, name, size)
    if len(pictures) != len(labels):
        missing = min(set(range(1, len(labels) + 1)) - pictures.keys())
        raise DataError(
            f"{path} has {len(pictures)} of {len(labels)} flowers, image_{missing:05d}.jpg is "
            "missing: replace it with a good copy"
        )
    stacked = np.stack([pictures.pop(number) for number in range(1, len(labels) + 1)])
    yield from _by_class(stacked, labels, split)


def _files(path: Path) -> Iterator[tuple[str, int, bytes]]:
    if path.is_dir():
        with open_files(path, _PICTURE, LIMITS) as files:
            for match, read in files.wanted:
                yield str(path / match.string), int(match[1]), read()
    else:
        for match, content in tar_files(path, _PICTURE, _TAR_LIMITS):
            yield f"{path}: {match.string}", int(match[1]), content


def _read_labels(path: Path) -> np.ndarray:
    """The class of every picture, 1 to 102, in the order of their names."""
    import scipy.io

    try:
        with path.open("rb") as stream:
            content = stream.read(_MAX_LABELS + 1)
        if len(content) > _MAX_LABELS:
            raise ValueError(f"over {_MAX_LABELS} bytes")
        labels = np.asarray(scipy.io.loadmat(io.BytesIO(content))["labels"]).reshape(-1)
        if labels.dtype.kind not in "iuf" or len(labels) != _PICTURES:
            raise ValueError(f"it holds {labels.dtype} {labels.shape}")
        if set(labels.tolist()) != set(range(1, _CLASSES + 1)):
            raise ValueError(f"labels are not 1 to {_CLASSES}")
    except MemoryError:
        raise
    except Exception as error:  # scipy raises nearly anything for a damaged file
        raise DataError(
            f"{path} does not hold the labels of {_PICTURES} flowers ({one_line(error)}): replace "
            "it with a good copy"
        ) from error
    return labels.astype(np.int64)


def _by_class(
    pictures: np.ndarray, labels: np.ndarray, split: Split
) -> Iterator[tuple[str, np.ndarray]]:
    for part in split:
        for name in part:  # "001.pink primrose": its label and what it is
            own = pictures[labels == int(name[:3])]
            yield name, np.stack(sorted(own, key=np.ndarray.tobytes))


def _read_tfds(folder: Path, split: Split, size: int) -> Iterator[tuple[str, np.ndarray]]:
    labels, pictures = [], []
    for example in tfds_examples(folder, "2.1.1", "train+validation+test"):
        labels.append(int(example["label"]) + 1)
        pictures.append(decode_picture(example["image"], str(folder), size))
    if len(labels) != _PICTURES or set(labels) != set(range(1, _CLASSES + 1)):
        raise DataError(f"{folder} has {len(labels)} flowers, expected {_PICTURES}: replace it")
    yield from _by_class(np.stack(pictures), np.array(labels), split)
