"""The check of labels that come from outside."""

from typing import Any

import numpy as np


def check_labels(labels: Any, of: str = "example", below: int = 2**31) -> np.ndarray:
    """Makes sure on the host that labels are one integer for each example.

    >>> check_labels([2, 0, -1])
    array([ 2,  0, -1], dtype=int32)
    >>> check_labels(["cat", "dog"])
    Traceback (most recent call last):
    ValueError: labels are <U3 [2], not one integer for each example: they are text; number the
    classes, as np.unique(labels, return_inverse=True)[1] does

    Args:
      labels: The class of every example, integers `[n]` from 0; -1 for one without a class.
      of: What an example is called in the message.
      below: The number that labels must be below.

    Returns:
      The labels, int32 `[n]`.

    Raises:
      ValueError: They are something else. The message says what they are and what to take.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"labels are {labels.dtype} {list(labels.shape)}, not one integer for each {of}: "
            f"{_other_labels(labels, of)}"
        )
    outside = labels[(labels < -1) | (labels >= below)]
    if len(outside):
        raise ValueError(
            f"labels are classes from 0 to {below - 1}, or -1 for no class, but one is "
            f"{outside[0]}: number the classes 0, 1, 2, ..."
        )
    return labels.astype(np.int32)


def _other_labels(labels, of):
    """What labels are that are not integers `[n]`, and what to do."""
    kind, numbers = labels.dtype.kind, labels.dtype.kind in "biuf"
    if kind in "SUT" or (kind == "O" and any(isinstance(each, str) for each in labels.flat)):
        return (
            "they are text; number the classes, as np.unique(labels, return_inverse=True)[1] does"
        )
    if numbers and labels.ndim == 2 and 1 in labels.shape:
        return "take labels.ravel()"
    one_hot = numbers and labels.ndim == 2 and np.isin(labels, (0, 1)).all()
    if one_hot and (labels.sum(1) == 1).all():
        return "they are one-hot; take labels.argmax(1)"
    if kind == "f" and labels.ndim == 1 and (labels == np.round(labels)).all():
        return "take labels.astype(int)"
    return f"give the number of each {of}'s class, 0, 1, 2, ..."
