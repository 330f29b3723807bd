"""Images from outside, checked before they are decoded."""

import io
from typing import TYPE_CHECKING

from cml_jax.data.files import one_line
from cml_jax.data.types import DataError

if TYPE_CHECKING:
    from PIL import Image


def decode_png(content: bytes, size: tuple[int, int], name: str) -> "Image.Image":
    """Decodes a PNG whose header has the expected size.

    Args:
      content: the file.
      size: width and height in pixels.
      name: of the file, for the error.

    Raises:
      DataError: not a PNG, of another size, or damaged.
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
