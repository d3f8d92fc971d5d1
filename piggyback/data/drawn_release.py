"""Drawn releases: the stamp that says what was drawn into a folder, and the encoding of pictures."""

import io
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from piggyback.shell.errors import BadInput, one_line
from piggyback.shell.strict_json import read_json

QUALITY: Final = 90  # of the JPEGs


def was_drawn(stamp: Path, *, identity: object) -> bool:
    """Whether a folder has its stamp.

    Args:
        stamp: the file, ``drawn.json``.
        identity: JSON that says what is to be drawn.

    Raises:
        BadInput: the stamp says that something else was drawn.
    """
    if not stamp.exists():
        return False
    if read_json(stamp) != identity:
        folder = one_line(stamp.parent)
        raise BadInput(f"{folder} holds other drawings than those asked for: delete it, or choose another folder")
    return True


def encode_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """JPEG file of an RGB picture, uint8 (height, width, 3)."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
