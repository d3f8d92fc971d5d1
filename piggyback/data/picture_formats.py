"""Pictures from untrusted bytes: what may be decoded, and what Pillow raises when it cannot."""

import struct
import zlib
from typing import Final

from PIL import Image

FORMATS: Final = ("JPEG", "PNG")  # what the releases have; the fewer decoders see untrusted bytes, the better

UNREADABLE: Final = (
    OSError,  # Pillow's own errors, truncation among them
    SyntaxError,  # broken PNG
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
