"""Pictures of every format, by hand; and what is no picture."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from support.image_files import encoded, pictures

from cml_jax.data import DataError
from cml_jax.data.pictures import decode_picture

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
COLOURS = np.array([[RED, GREEN], [BLUE, WHITE]], np.uint8)
ORIENTATION = 0x0112


def turned(pixels, orientation, form="PNG", **options):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encoded(pixels, form, exif=exif, **options)


def large(pixels):
    """Each pixel as a block of 16 x 16, which JPEG keeps."""
    return np.kron(pixels, np.ones((16, 16, 1), np.uint8))


EXACT = {
    "PNG": encoded(COLOURS),
    "BMP": encoded(COLOURS, "BMP"),
    "GIF": encoded(COLOURS, "GIF"),
    "WebP": encoded(COLOURS, "WEBP", lossless=True),
}


@pytest.mark.parametrize("form", EXACT)
def test_pixels_of_what_has_the_size(form):
    picture = decode_picture(EXACT[form], "a", 2)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture, COLOURS)


def test_pixels_of_a_jpeg():
    content = encoded(large(COLOURS), "JPEG", quality=100, subsampling=0)
    picture = decode_picture(content, "a.jpg", 32)
    assert np.abs(picture.astype(int) - large(COLOURS)).max() < 4


def test_grey_is_the_luma_of_itu_r_601():
    """0.299 R + 0.587 G + 0.114 B."""
    picture = decode_picture(EXACT["PNG"], "a", 2, channels=1)
    np.testing.assert_array_equal(picture[..., 0], [[76, 150], [29, 255]])


def test_a_grey_picture_has_three_equal_channels():
    grey = np.array([[0, 100], [200, 255]], np.uint8)
    picture = decode_picture(encoded(grey), "a", 2)
    np.testing.assert_array_equal(picture, grey[..., None].repeat(3, -1))
    np.testing.assert_array_equal(decode_picture(encoded(grey), "a", 2, channels=1)[..., 0], grey)


A, B, C, D = [[10] * 3], [[80] * 3], [[150] * 3], [[220] * 3]
STORED = np.block([[[A], [B]], [[C], [D]]]).astype(np.uint8).reshape(2, 2, 3)


@pytest.mark.parametrize(
    "orientation, shown",
    [
        (1, [[10, 80], [150, 220]]),
        (2, [[80, 10], [220, 150]]),
        (3, [[220, 150], [80, 10]]),
        (4, [[150, 220], [10, 80]]),
        (5, [[10, 150], [80, 220]]),
        (6, [[150, 10], [220, 80]]),
        (7, [[220, 80], [150, 10]]),
        (8, [[80, 220], [10, 150]]),
    ],
)
def test_the_turn_of_the_camera(orientation, shown):
    """EXIF: 6 is shown turned to the right by 90 degrees."""
    picture = decode_picture(turned(STORED, orientation), "a", 2)
    np.testing.assert_array_equal(picture[..., 0], shown)
    lossless = turned(STORED, orientation, "WEBP", lossless=True)
    np.testing.assert_array_equal(decode_picture(lossless, "a", 2)[..., 0], shown)
    jpeg = turned(large(STORED), orientation, "JPEG", quality=100)
    picture = decode_picture(jpeg, "a", 32)[8::16, 8::16, 0].astype(int)
    assert np.abs(picture - shown).max() < 4


def test_the_turn_comes_before_the_crop():
    row = np.array([[10, 20, 30, 40, 50, 60]] * 2, np.uint8)
    picture = decode_picture(turned(row, 6), "a", 2, channels=1, fit="crop")[..., 0]
    np.testing.assert_array_equal(picture, [[30, 30], [40, 40]])


def test_crop_takes_the_middle():
    row = np.array([[10, 20, 30, 40, 50, 60]] * 2, np.uint8)
    for pixels, middle in ((row, [[30, 40]] * 2), (row.T, [[30, 30], [40, 40]])):
        picture = decode_picture(encoded(pixels), "a", 2, channels=1, fit="crop")
        np.testing.assert_array_equal(picture[..., 0], middle)
    picture = decode_picture(encoded(row[:, :5]), "a", 2, channels=1, fit="crop")
    np.testing.assert_array_equal(picture[..., 0], [[20, 30]] * 2)  # 1.5 too many: 1 at the left


def lanczos(n, size):
    """The weights `[size, n]` of Lanczos's filter with three lobes."""
    scale = n / size
    x = (np.arange(n) + 0.5 - (np.arange(size)[:, None] + 0.5) * scale) / scale
    weights = np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)
    return weights / weights.sum(1, keepdims=True)


def test_squash_resizes_each_side_by_its_own_factor():
    pixels = np.random.default_rng(0).integers(60, 190, (9, 14), np.uint8)
    expected = lanczos(9, 4) @ pixels @ lanczos(14, 4).T
    picture = decode_picture(encoded(pixels), "a", 4, channels=1)[..., 0]
    assert np.abs(picture - expected).max() < 1.5  # rounded twice


def test_a_large_jpeg_is_what_it_is_when_decoded_in_full():
    [pixels] = pictures(0, 1, 600, 1000)
    content = encoded(pixels, "JPEG", quality=95)
    for fit, box in (("squash", (0, 0, 1000, 600)), ("crop", (200, 0, 800, 600))):
        full = Image.open(io.BytesIO(content)).resize((20, 20), Image.Resampling.LANCZOS, box)
        picture = decode_picture(content, "a", 20, fit=fit)
        assert np.abs(picture.astype(int) - np.asarray(full)).max() < 6


def test_what_is_transparent_lies_on_white():
    pixels = np.array([[[0, 0, 0, 255], [0, 0, 0, 0]], [[0, 0, 0, 51], [200, 0, 0, 255]]], np.uint8)
    expected = [[[0] * 3, [255] * 3], [[204] * 3, [200, 0, 0]]]
    np.testing.assert_array_equal(decode_picture(encoded(pixels), "a", 2), expected)
    palette = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "P")
    palette.putpalette([9, 9, 9, 70, 80, 90])
    stream = io.BytesIO()
    palette.save(stream, "PNG", transparency=0)
    expected = [[[255] * 3, [70, 80, 90]], [[70, 80, 90], [255] * 3]]
    np.testing.assert_array_equal(decode_picture(stream.getvalue(), "a", 2), expected)


def test_of_16_bits_the_higher_8_are_kept():
    pixels = np.array([[0x1234, 0xFFFF], [0x00FF, 0x8000]], np.uint16)
    picture = decode_picture(encoded(pixels), "a", 2, channels=1)[..., 0]
    np.testing.assert_array_equal(picture, [[0x12, 0xFF], [0, 0x80]])


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation(form):
    second = [Image.fromarray(COLOURS[::-1])]
    options = {"lossless": True} if form == "WEBP" else {}
    content = encoded(COLOURS, form, save_all=True, append_images=second, duration=99, **options)
    assert Image.open(io.BytesIO(content)).n_frames == 2
    np.testing.assert_array_equal(decode_picture(content, "a", 2), COLOURS)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_gives_what_is_asked_for(mode):
    image = Image.fromarray(large(COLOURS)).convert(mode)
    stream = io.BytesIO()
    image.save(stream, "JPEG" if mode in ("CMYK", "YCbCr") else "PNG", quality=100)
    assert decode_picture(stream.getvalue(), "a", 8).shape == (8, 8, 3)
    assert decode_picture(stream.getvalue(), "a", 8, channels=1).shape == (8, 8, 1)


def test_the_content_counts_not_the_name():
    np.testing.assert_array_equal(decode_picture(EXACT["PNG"], "a.jpg", 2), COLOURS)


def huge_png(width, height):
    """A good header over a tiny body."""
    content = bytearray(encoded(COLOURS))
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


def huge_bmp():
    content = bytearray(encoded(COLOURS, "BMP"))
    content[18:26] = struct.pack("<ii", 60_000, 60_000)
    return bytes(content)


def flipped(content):
    """A bit of the pixels, which only a checksum shows."""
    at = content.index(b"IDAT") + 8
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


WHOLE = pictures(3, 1, 40, 40)[0]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    "content, why",
    [
        (b"class,split\ncat,train\n", "it is none of JPEG, PNG, WEBP, BMP, GIF"),
        (b"", "it is none of JPEG, PNG, WEBP, BMP, GIF"),
        (b"<!DOCTYPE html>" * 100, "it is none of JPEG, PNG, WEBP, BMP, GIF"),
        (encoded(WHOLE, "TIFF"), "it is none of JPEG, PNG, WEBP, BMP, GIF"),
        (encoded(WHOLE, "PPM"), "it is none of JPEG, PNG, WEBP, BMP, GIF"),
        (encoded(WHOLE, "JPEG")[:-30], "truncated"),
        (encoded(WHOLE, "PNG")[:-100], ""),
        (encoded(WHOLE, "BMP")[:-100], "truncated"),
        (encoded(WHOLE, "GIF")[:-300], ""),
        (encoded(WHOLE, "WEBP")[:-20], ""),
        (flipped(encoded(WHOLE, "PNG")), "broken PNG|bad header checksum"),
        (huge_png(60_000, 60_000), "exceeds limit|pixels are more than 67108864"),
        (huge_png(8200, 8200), "8200 x 8200 pixels are more than 67108864"),
        (huge_bmp(), "exceeds limit|pixels are more than 67108864"),
    ],
    ids=range(14),
)
def test_what_is_no_picture_is_one_line(content, why):
    message = (
        rf"^hens/a.png is not a readable picture \(.*({why}).*\): replace it with a good copy$"
    )
    with pytest.raises(DataError, match=message) as caught:
        decode_picture(content, "hens/a.png", 8)
    assert "\n" not in str(caught.value)
