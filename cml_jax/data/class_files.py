"""Pictures that lie in files, a class to a folder: sorted by class, read a class at a time."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from cml_jax.data.files import File, Limits, open_files
from cml_jax.data.pictures import decode_picture
from cml_jax.data.types import DataError

# miniImageNet has 60,000 pictures; ImageNet's largest has 15 MB.
LIMITS = Limits(files=1 << 21, file_bytes=1 << 26, total_bytes=1 << 36)


def has_class_files(paths: Sequence[Path], pattern: re.Pattern[str]) -> bool:
    """Whether each of some folders and zips holds a file of a class."""
    for path in paths:
        with open_files(path, pattern, LIMITS) as files:
            if not files.wanted:
                return False
    return True


def class_files(
    paths: Sequence[Path],
    pattern: re.Pattern[str],
    names: Sequence[str],
    count: int,
    size: int,
    *,
    order: Callable[[np.ndarray], bytes] | None = None,
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the classes of a data set whose class lists and counts are known.

    Args:
      paths: Folders and zips.
      pattern: Matches the whole path of a picture; its first group is the class.
      names: The classes, in the order in which they are yielded.
      count: How many pictures each has.
      size: Height and width to which they are resized, in pixels.
      order: Sorts the pictures of a class by content, where files of different sources have
        different names; by the names of the files where it is None.

    Yields:
      The class, and its pictures uint8 `[count, size, size, 3]`.

    Raises:
      DataError: A class is not complete, or a file is damaged.
    """
    with contextlib.ExitStack() as closing:
        of_class: dict[str, list[tuple[str, File]]] = {name: [] for name in names}
        others: list[str] = []
        for path in paths:
            files = closing.enter_context(open_files(path, pattern, LIMITS))
            others += files.others
            for file in files.wanted:
                of_class[file.match[1]].append((str(path), file))
        check_complete(paths, {name: len(own) for name, own in of_class.items()}, count, others)
        for name in names:
            own = sorted(of_class[name], key=lambda file: file[1].match.string)
            images = decode_all(own, size)
            yield name, images if order is None else np.stack(sorted(images, key=order))


def decode_all(
    files: Sequence[tuple[str, File]], size: int, channels: int = 3, fit: str = "squash"
) -> np.ndarray:
    """Decodes pictures on all cores: uint8 `[n, size, size, channels]`.

    Args:
      files: Each with the path of its folder or zip, for the error.
      size, channels, fit: As in `decode_picture`.
    """

    def decode(file: tuple[str, File]) -> np.ndarray:
        path, (match, read) = file
        name = os.path.join(path, match.string)
        return decode_picture(read(), name, size, channels=channels, fit=fit)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return np.stack(list(threads.map(decode, files)))


def check_complete(
    paths: Sequence[Path], counts: dict[str, int], count: int, others: Sequence[str] = ()
) -> None:
    """Makes sure that every class has its number of pictures.

    Raises:
      DataError: One has not; the message says which, and what else is there.
    """
    if wrong := sorted(name for name, own in counts.items() if own != count):
        where = paths[0] if len(paths) == 1 else paths[0].parent
        also = f"; of {len(others)} other files one is {others[0]!r}" if others else ""
        raise DataError(
            f"{where} has {len(counts) - len(wrong)} of {len(counts)} classes complete: "
            f"{wrong[0]!r} has {counts[wrong[0]]} pictures, expected {count}{also}: replace it "
            "with a good copy"
        )
