"""One decoder for every benchmark: what it takes, and what it refuses before it decodes anything."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from piggyback.data.pictures import CONVERTED, PLAIN, decode_rgb, measure, open_picture
from piggyback.shell.errors import BadInput

GREY = np.linspace(0, 255, 6 * 4).astype(np.uint8).reshape(6, 4)


def saved(picture: Image.Image, kind: str, **more: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **more)
    return buffer.getvalue()


def refused(data: bytes, match: str, *, modes: tuple[str, ...] = CONVERTED) -> None:
    for read in (lambda: measure(data, name="a.jpg", modes=modes), lambda: decode(data, modes=modes)):
        with pytest.raises(BadInput, match=match) as caught:
            read()
        assert str(caught.value).startswith("a.jpg ")
        assert "\n" not in str(caught.value)


def decode(data: bytes, *, modes: tuple[str, ...] = PLAIN) -> np.ndarray:
    with open_picture(data, name="a.jpg", modes=modes) as picture:
        return decode_rgb(picture)


def test_rgb_and_grey_are_taken_as_they_are() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
    assert np.array_equal(decode(saved(Image.fromarray(colours), "PNG")), colours)
    assert np.array_equal(decode(saved(Image.fromarray(GREY), "PNG")), GREY[..., None].repeat(3, 2))
    assert measure(saved(Image.fromarray(GREY), "JPEG"), name="a.jpg") == (6, 4)


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA", "CMYK"])
def test_other_modes_are_converted_only_where_they_are_asked_for(mode: str) -> None:
    data = saved(Image.fromarray(GREY).convert("RGB").convert(mode), "JPEG" if mode == "CMYK" else "PNG")
    refused(data, f"is a picture of mode {mode}; 8-bit RGB or grey is expected", modes=PLAIN)
    assert decode(data, modes=CONVERTED).shape == (6, 4, 3)


@pytest.mark.parametrize("modes", [PLAIN, CONVERTED])
def test_sixteen_bits_are_refused_by_all(modes: tuple[str, ...]) -> None:
    """Pillow makes white of nearly all their values."""
    refused(saved(Image.fromarray(GREY.astype(np.uint16) * 257), "PNG"), "is a picture of mode I", modes=modes)


def test_what_is_no_picture_or_no_whole_one_is_refused() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 40, 3), dtype=np.uint8))
    whole = saved(noise, "JPEG")
    refused(b"", "is not a JPEG or PNG picture")
    refused(b"<html>", "is not a JPEG or PNG picture")
    refused(saved(Image.fromarray(GREY), "GIF"), "is not a JPEG or PNG picture")
    for data in (whole[:-40], saved(noise, "PNG")[:-60]):
        with pytest.raises(BadInput, match=r"a\.jpg cannot be decoded \("):
            decode(data)
    with (
        pytest.raises(BadInput, match=r"a\.jpg is not a PNG picture"),
        open_picture(whole, name="a.jpg", formats=("PNG",)),
    ):
        pass


def test_a_size_is_not_believed() -> None:
    refused(saved(Image.fromarray(np.zeros((9000, 1), np.uint8)), "PNG"), "claims 1 x 9,000 pixels, too many")
    header = b"IHDR" + struct.pack(">IIBBBBB", 8192, 8192, 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    with pytest.raises(BadInput, match="cannot be decoded"):
        decode(data + struct.pack(">I", 4) + b"IDAT" + bytes(8))


def test_pixels_are_taken_as_they_are_stored() -> None:
    """Label maps and the sizes of annotations are those of the stored pixels."""
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter turn
    plain = saved(Image.fromarray(GREY), "JPEG", quality=95)
    data = saved(Image.fromarray(GREY), "JPEG", quality=95, exif=turned)
    assert measure(data, name="a.jpg") == (6, 4)
    assert np.array_equal(decode(data), decode(plain))
