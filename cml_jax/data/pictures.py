"""Pictures from outside, in the common formats, as arrays of one size."""

import io

import numpy as np

from cml_jax.data.files import one_line
from cml_jax.data.types import DataError

FITS = ("squash", "crop")
SUFFIX = r"\.(?i:jpe?g|png|webp|bmp|gif)"

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
_MAX_PIXELS = 1 << 26  # 64 megapixels take 256 MB while they are decoded


def decode_picture(
    content: bytes, name: str, size: int, *, channels: int = 3, fit: str = "squash"
) -> np.ndarray:
    """Decodes a picture and resizes it to a square.

    A turn that the camera has noted (EXIF) is carried out; of an animation the first frame is
    taken; what is transparent lies on white; of 16 bits the higher 8 are kept. A picture that has
    the size already is not resampled; others are, with Lanczos's filter.

    >>> import io
    >>> from PIL import Image
    >>> stream = io.BytesIO()
    >>> Image.new("RGB", (40, 20), (255, 0, 0)).save(stream, "PNG")
    >>> picture = decode_picture(stream.getvalue(), "red.png", 8)
    >>> picture.shape, picture[0, 0]
    ((8, 8, 3), array([255,   0,   0], dtype=uint8))

    Args:
      content: The bytes of a JPEG, PNG, WebP, BMP or GIF.
      name: The name of the file, for the error.
      size: Height and width of the result, in pixels.
      channels: 3 for colour, 1 for grey.
      fit: "squash" resizes height and width each by its own factor; "crop" keeps the proportions:
        the shorter side gets the size, and of the longer one the middle is kept.

    Returns:
      uint8 `[size, size, channels]`.

    Raises:
      DataError: It is not such a picture, is damaged, or has over 64 megapixels.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        image = Image.open(io.BytesIO(content), formats=_FORMATS)  # reads only the header
        if image.width * image.height > _MAX_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels are more than {_MAX_PIXELS}")
        if image.format == "PNG":
            image.verify()  # else its checksums are not read
            image = Image.open(io.BytesIO(content), formats=("PNG",))
        image.draft(image.mode, (2 * size, 2 * size))  # JPEG: decodes at half, a quarter, an eighth
        image = ImageOps.exif_transpose(image)
        image = _without_alpha(_to_8_bits(image)).convert("RGB" if channels == 3 else "L")
        box = None
        if fit == "crop":
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            box = (left, top, left + side, top + side)
        image = image.resize((size, size), Image.Resampling.LANCZOS, box)
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises nearly anything for a damaged file
        unknown = isinstance(error, UnidentifiedImageError)
        problem = f"it is none of {', '.join(_FORMATS)}" if unknown else one_line(error)
        raise DataError(
            f"{name} is not a readable picture ({problem}): replace it with a good copy"
        ) from error
    return np.asarray(image).reshape(size, size, channels)


def _to_8_bits(image):
    """Pillow's own conversion cuts 16 bits off at 255."""
    from PIL import Image

    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))


def _without_alpha(image):
    from PIL import Image

    if not image.has_transparency_data:
        return image
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))
    return white
