"""What every loader returns, and the one error that it raises."""

from typing import NamedTuple

import numpy as np


class DataError(ValueError):
    """A data set is missing, or not what it should be; one line says what to do."""


class ImageSplits(NamedTuple):
    """Images by class, the classes split into training, validation and test.

    Attributes:
      train: uint8 `[classes, images, height, width, channels]`; likewise `validation` and `test`.
      name: the data set.
      split_hash: which class is where: the first 16 hex digits of a SHA-256, for the results.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    name: str
    split_hash: str
