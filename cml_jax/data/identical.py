"""Counts images that are there twice, in two classes or two splits: a test must not see them."""

import hashlib

import numpy as np

from cml_jax.data.types import Split


class Identical:
    """Collects the digests of images while they are converted.

    >>> same = Identical(Split(("cat",), ("dog",), ("hen",)))
    >>> same.add("cat", np.zeros((2, 8, 8, 3), np.uint8))
    >>> same.add("hen", np.zeros((1, 8, 8, 3), np.uint8))
    >>> same.counts()
    {'identical_in_class': 1, 'identical_in_two_classes': 0, 'identical_in_two_splits': 1}
    """

    def __init__(self, split: Split):
        self._split_of = {label: part for part, own in split._asdict().items() for label in own}
        self._first: dict[bytes, str] = {}
        self._counts = dict.fromkeys(("in_class", "in_two_classes", "in_two_splits"), 0)

    def add(self, label: str, images: np.ndarray) -> None:
        """Takes the images uint8 `[n, h, w, c]` of a class."""
        for image in images:
            digest = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()
            first = self._first.setdefault(digest, "")
            if not first:
                self._first[digest] = label
            elif first == label:
                self._counts["in_class"] += 1
            elif self._split_of[first] == self._split_of[label]:
                self._counts["in_two_classes"] += 1
            else:
                self._counts["in_two_splits"] += 1

    def counts(self) -> dict[str, int]:
        """How many images are identical to an earlier one, by where the earlier one is."""
        return {f"identical_{where}": count for where, count in self._counts.items()}
