"""Files from outside, checked before and while they are decoded: PNG, npz."""

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cml_jax.data.files import Limits, one_line, open_files
from cml_jax.data.types import DataError

if TYPE_CHECKING:
    from PIL import Image


def decode_png(content: bytes, size: tuple[int, int], name: str) -> "Image.Image":
    """Decodes a PNG whose header has the expected size.

    Args:
      content: The bytes of the file.
      size: The width and height in pixels.
      name: The name of the file, for the error.

    Raises:
      DataError: It is not a PNG, has another size, or is damaged.
    """
    from PIL import Image

    try:
        Image.open(io.BytesIO(content), formats=("PNG",)).verify()  # else no checksum is read
        image = Image.open(io.BytesIO(content), formats=("PNG",))
        if image.size != size:  # only the header has been read so far
            raise DataError(
                f"{name} is {image.size[0]} x {image.size[1]} pixels, not {size[0]} x {size[1]}: "
                "replace it with a good copy"
            )
        image.load()
    except DataError:
        raise
    except Exception as error:  # Pillow raises nearly anything for a damaged file
        raise DataError(
            f"{name} is not a readable PNG ({one_line(error)}): replace it with a good copy"
        ) from error
    return image


def read_npz(path: Path, members: str, limits: Limits) -> dict[str, np.ndarray]:
    """Reads the arrays of an npz, never objects.

    Args:
      path: The file.
      members: A pattern of the members to read, whose first group is the array's name.
      limits: How large the file may be.

    Raises:
      DataError: The file is damaged or exceeds the limits.
    """
    arrays = {}
    with open_files(path, re.compile(members), limits) as files:
        for file in files.wanted:
            content = file.read()
            try:
                stream = io.BytesIO(content)
                arrays[file.match[1]] = np.lib.format.read_array(stream, allow_pickle=False)
            except Exception as error:  # a header is an expression that numpy evaluates
                raise DataError(f"{path} is damaged ({one_line(error)}): delete it") from error
    return arrays
