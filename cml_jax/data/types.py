"""What the loaders return, and the one error that they raise."""

import hashlib
import json
from typing import Any, NamedTuple

import numpy as np

from cml_jax.tasks.episodes import ImagePool
from cml_jax.tasks.members import Members


class DataError(ValueError):
    """A data set is missing, or not what it should be; one line says what to do."""


class Split(NamedTuple):
    """The classes of each split: names, or integers where classes have no names."""

    train: tuple
    validation: tuple
    test: tuple


class Images(NamedTuple):
    """Images of all splits in one array, and which of them belong to which class.

    >>> from cml_jax.tasks.members import consecutive_members
    >>> images = Images(
    ...     pixels=np.zeros((9, 8, 8, 3), np.uint8),
    ...     members=consecutive_members([2, 3, 2, 2]),  # classes may differ in size
    ...     classes=Split(("cat", "dog"), ("cow",), ("hen",)),
    ...     name="animals",
    ...     split_hash="",
    ... )
    >>> images.train.pixels.shape, images.train.members.counts
    ((5, 8, 8, 3), array([2, 3], dtype=int32))
    >>> images.test.members.ids
    array([[0, 1, 0]], dtype=int32)

    Attributes:
      pixels: uint8 `[N, h, w, c]`, a NumPy array that may be mapped from a file: only what is read
        is in memory. The images of a split lie side by side, those of training first, then
        validation, then test; within a split, those of a class.
      members: The ids of each class's images; its rows are in the order of `classes`.
      classes: The names of the classes of each split.
      name: The data set.
      split_hash: Tells which class is where: the first 16 hex digits of a SHA-256, for results.
      notes: What results say of the images: from where they are, how they were resized, how many
        are identical.
    """

    pixels: np.ndarray
    members: Members
    classes: Split
    name: str
    split_hash: str
    notes: dict[str, Any] = {}

    @property
    def train(self) -> ImagePool:
        """The images of the training classes, what `cml_jax.tasks.episodes` draws from."""
        return self.split("train")

    @property
    def validation(self) -> ImagePool:
        """The images of the validation classes."""
        return self.split("validation")

    @property
    def test(self) -> ImagePool:
        """The images of the test classes."""
        return self.split("test")

    def split(self, name: str) -> ImagePool:
        """A view of the images of a split, with ids that count within it.

        Args:
          name: "train", "validation" or "test".
        """
        ends = np.cumsum([len(classes) for classes in self.classes])
        part = Split._fields.index(name)
        rows = slice(ends[part] - len(self.classes[part]), ends[part])
        ids, counts = self.members.ids[rows], self.members.counts[rows]
        real = np.arange(ids.shape[1]) < counts[:, None]
        first = ids[real].min(initial=len(self.pixels))
        end = ids[real].max(initial=-1) + 1
        ids = np.where(real, ids - first, 0).astype(np.int32)
        return ImagePool(self.pixels[first:end], Members(ids, counts))


def split_hash(split: Split) -> str:
    """The first 16 hex digits of the SHA-256 of the lists (of the names, not of a file)."""
    return hashlib.sha256(json.dumps(split).encode()).hexdigest()[:16]
