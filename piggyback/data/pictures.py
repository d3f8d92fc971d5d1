"""Pictures from untrusted bytes: one decoder with one set of guards, for every benchmark.

JPEG and PNG only: the fewer decoders see untrusted bytes, the better.  Mode and size are checked before anything is
decoded.  Pixels are taken as they are stored; the orientation in EXIF is ignored, since the sizes and label maps of
the releases refer to the stored pixels.
"""

import io
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from piggyback.shell.errors import BadInput, PiggybackError, shown

FORMATS: Final = ("JPEG", "PNG")

LARGEST_FILE: Final = 16 << 20
"""Bytes of one picture's file; those of the releases have some hundred thousand at most."""

LARGEST_SIDE: Final = 1 << 13
"""Rows or columns of one picture; those of the releases have some hundreds."""

PLAIN: Final = ("RGB", "L")
"""Modes that are RGB already, or grey."""

CONVERTED: Final = (*PLAIN, "1", "P", "LA", "RGBA", "CMYK")
"""Modes that Pillow makes RGB of; of 16 bits it keeps none but the largest values, so those are not here."""

Size = tuple[int, int]
"""Height and width."""


@contextmanager
def open_picture(
    data: bytes, *, name: str, modes: Collection[str] = PLAIN, formats: tuple[str, ...] = FORMATS
) -> Iterator[Image.Image]:
    """Open a picture and check its mode and size; nothing is decoded until the block asks for it.

    Args:
        data: the file's bytes.
        name: the file's name for messages, on one line.
        modes: modes to accept.
        formats: formats to accept.

    Raises:
        BadInput: it is not a picture, is damaged or too large, or has another mode; or decoding in the block fails.
    """
    try:
        with Image.open(io.BytesIO(data), formats=formats) as picture:
            if picture.mode not in modes:
                wanted = "8-bit RGB or grey is" if modes is PLAIN else f"{', '.join(modes)} are"
                raise BadInput(f"{name} is a picture of mode {picture.mode}; {wanted} expected")
            if max(picture.size) > LARGEST_SIDE:
                raise BadInput(f"{name} claims {picture.width:,} x {picture.height:,} pixels, too many")
            yield picture
    except UnidentifiedImageError:  # its text is that of a buffer, not of a file
        raise BadInput(f"{name} is not a {' or '.join(formats)} picture") from None
    except PiggybackError:
        raise
    except Exception as fault:  # Pillow's decoders let out a dozen kinds, some of them in some versions only
        raise BadInput(f"{name} cannot be decoded ({shown(fault)})") from fault


def decode_rgb(picture: Image.Image) -> NDArray[np.uint8]:
    """Pixels of an open picture, uint8 (height, width, 3)."""
    return np.asarray(picture.convert("RGB"))


def measure(data: bytes, *, name: str, modes: Collection[str] = PLAIN, formats: tuple[str, ...] = FORMATS) -> Size:
    """Height and width of a picture, from its header alone.

    Raises:
        BadInput: as `open_picture`.
    """
    with open_picture(data, name=name, modes=modes, formats=formats) as picture:
        return picture.height, picture.width
