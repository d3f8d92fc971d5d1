"""Label maps as PNG files: palette indices in, palette indices out, never by way of colours.

VOC keeps labels as the indices of a palette PNG (mode P); the colours only make them visible.  The colours, or the
grey values that a decoder makes of them, are other numbers, so nothing here converts.  The chunks of a file are walked
before Pillow decodes it: Pillow takes files without their last bytes, does not compare the checksums of pixel data, and
scales grey values of 2 and 4 bits (1 of 15 would be read as 17, a sheep).
"""

import io
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from piggyback.data.pictures import open_picture
from piggyback.shell.errors import BadInput, one_line
from piggyback.shell.files import read_file, write_bytes
from segmentation.voc import CLASSES, PALETTE, VOID

LARGEST: Final = 1 << 26
"""Pixels of one label map; VOC's have at most 250,000.  A file that claims more is not decoded."""

LARGEST_FILE: Final = 1 << 27
"""Bytes of one label map's file."""

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_GREY, _INDEXED = 0, 3  # the PNG specification's colour types
_KINDS: Final = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with transparency", 6: "RGBA"}
_REMEDY: Final = "label maps are PNGs of palette indices (mode P), or of 8-bit grey values that are the labels"
_ALLOWED: Final = np.isin(np.arange(256), [*range(len(CLASSES)), VOID])
_COLOURS: Final = {PALETTE[3 * label : 3 * label + 3]: label for label in (*range(len(CLASSES)), VOID)}
_BLACK: Final = bytes(3)
_SWAPPED: Final = np.frombuffer(PALETTE, np.uint8).reshape(256, 3)[:, ::-1].tobytes()  # blue first, as OpenCV has it


def read_label_map(data: bytes, *, name: str) -> NDArray[np.uint8]:
    """The palette indices of a PNG.

    Args:
        data: the file's bytes, not trusted.
        name: of the file, for messages.

    Returns:
        uint8 (height, width), values 0..20 and 255 (void).

    Raises:
        BadInput: the bytes are not a whole PNG, have colours or another depth instead of labels, hold another
            value, or show by their palette that a program renumbered VOC's colours.
    """
    name = one_line(name)
    chunks = _chunks(data, name=name)
    depth = _check_header(chunks, name=name)
    try:
        with open_picture(data, name=name, modes=("P", "L"), formats=("PNG",)) as picture:
            counts = picture.histogram()  # faster than counting in numpy
            labels = np.array(picture, dtype=np.uint8)
    except BadInput as fault:
        raise BadInput(f"{fault}: write or fetch it again") from None
    used = [value for value, count in enumerate(counts) if count]
    if not _ALLOWED[used].all():
        row, column = np.argwhere(~_ALLOWED[labels])[0].tolist()
        raise BadInput(
            f"{name} has the value {labels[row, column]} in row {row}, column {column}; "
            f"labels are 0..{len(CLASSES) - 1}, and {VOID} for void"
        )
    if b"PLTE" in chunks:
        _check_palette(chunks[b"PLTE"], used, depth=depth, name=name)
    return labels


def read_label_file(path: Path) -> NDArray[np.uint8]:
    """The palette indices of a PNG file; see `read_label_map`.

    Raises:
        BadInput: it is missing, unreadable, or not a label map.
    """
    return read_label_map(read_file(path, limit=LARGEST_FILE), name=str(path))


def encode_label_map(labels: NDArray[np.uint8]) -> bytes:
    """A PNG of mode P with VOC's palette; the same labels give the same bytes with the same zlib.

    Args:
        labels: uint8 (height, width), values 0..20 and 255.

    Raises:
        ValueError: they are of another type, shape or value.
    """
    if labels.dtype != np.uint8 or labels.ndim != 2 or not labels.size:
        raise ValueError(f"labels must be uint8 (height, width), not {labels.dtype} {labels.shape}")
    if not _ALLOWED[labels].all():
        raise ValueError(f"labels must be 0..{len(CLASSES) - 1} or {VOID}, not {labels[~_ALLOWED[labels]][0]}")
    picture = Image.fromarray(np.ascontiguousarray(labels))
    picture.putpalette(PALETTE)  # all 256 colours: with fewer Pillow would cut indices to fewer bits
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def write_label_map(path: Path, labels: NDArray[np.uint8]) -> None:
    """Write a PNG of mode P with VOC's palette, whole or not at all.

    Raises:
        ValueError: the labels are not uint8 (height, width) of 0..20 and 255.
    """
    write_bytes(path, encode_label_map(labels))


def palette_of(data: bytes, *, name: str) -> bytes | None:
    """The palette of a PNG, three bytes a colour; None where it has none.

    Raises:
        BadInput: the bytes are not a whole PNG.
    """
    return _chunks(data, name=one_line(name)).get(b"PLTE")


def _chunks(data: bytes, *, name: str) -> Mapping[bytes, bytes]:
    """The chunks of a PNG by type, the first of each; all checksums are compared.  Bytes after the end are ignored."""
    if data[:2] == b"\xff\xd8":
        raise BadInput(f"{name} is a JPEG, which does not keep labels: {_REMEDY}")
    if data[: len(_SIGNATURE)] != _SIGNATURE:
        raise BadInput(f"{name} is {'not a PNG' if data else 'empty'}: {_REMEDY}")
    found: dict[bytes, bytes] = {}
    place = len(_SIGNATURE)
    while b"IEND" not in found:
        head, body = data[place : place + 8], place + 8
        if len(head) < 8:
            raise BadInput(f"{name} ends early, after {len(data)} bytes: write or fetch it again")
        length, kind = int.from_bytes(head[:4]), head[4:]
        end = body + length
        if end + 4 > len(data):
            raise BadInput(f"{name} ends early, after {len(data)} bytes: write or fetch it again")
        if zlib.crc32(memoryview(data)[place + 4 : end]) != int.from_bytes(data[end : end + 4]):
            raise BadInput(f"{name} is damaged near byte {place}: write or fetch it again")
        found.setdefault(kind, b"" if kind == b"IDAT" else data[body:end])
        place = end + 4
    return found


def _check_header(chunks: Mapping[bytes, bytes], *, name: str) -> int:
    """The bits per pixel; a file that cannot hold labels is refused before it is decoded."""
    header = chunks.get(b"IHDR", b"")
    if len(header) != 13:
        raise BadInput(f"{name} has no PNG header: write or fetch it again")
    width, height, depth, colour = struct.unpack(">IIBB", header[:10])
    if colour not in (_GREY, _INDEXED) or (colour == _GREY and depth != 8):
        bits = "" if depth == 8 else f"{depth}-bit "
        raise BadInput(f"{name} is {bits}{_KINDS.get(colour, 'of an unknown kind')}; {_REMEDY}")
    if not 0 < width * height <= LARGEST:
        raise BadInput(f"{name} claims {width:,} x {height:,} pixels; a label map has at most {LARGEST:,}")
    if b"acTL" in chunks:
        raise BadInput(f"{name} is animated; a label map is one picture")
    return int(depth)


def _check_palette(palette: bytes, used: list[int], *, depth: int, name: str) -> None:
    """Refuse indices that a program changed, as far as the palette shows it.

    Any palette is taken, as other programs write other colours.  Two things prove that the indices are not the
    labels.  One is colours that are all VOC's, but of other labels: optimisers of PNGs sort and compact
    palettes, which keeps the look and changes the numbers.  The other is an index without a colour in a file of
    fewer than 8 bits: the writer took the depth from a palette that was too short, and cut the labels' high bits.
    """
    colours = {label: palette[3 * label : 3 * label + 3] for label in used}
    bare = [label for label, colour in colours.items() if len(colour) < 3]
    if bare and depth < 8:
        raise BadInput(
            f"{name} has the index {bare[0]}, but only {len(palette) // 3} colours and {depth} bits per pixel: "
            "the program that wrote it cut its labels; write it with 256 colours"
        )
    if len(palette) >= 3 * len(CLASSES) and _SWAPPED.startswith(palette):
        return
    moved = [label for label, colour in colours.items() if _COLOURS.get(colour, label) != label]
    renumbered = all(colour in _COLOURS for colour in colours.values())
    # Black alone proves nothing: it also fills palettes that nobody set.
    for label in moved if renumbered else ():
        if colours[label] != _BLACK:
            meant = _COLOURS[colours[label]]
            what = "void" if meant == VOID else CLASSES[meant]
            raise BadInput(
                f"{name} has VOC's colours at other indices: {label} has the colour of {meant} ({what}), so a "
                "program sorted its palette and its indices are no longer labels; write it again without that"
            )
