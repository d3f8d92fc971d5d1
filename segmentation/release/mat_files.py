"""Label maps in SBD's form: one MATLAB file per picture, with the struct ``GTcls``.

Source: ``dataset/cls/<id>.mat`` of SBD (Hariharan et al., "Semantic Contours from Inverse Detectors", 2011), as
``voc_layers.py`` of github.com/shelhamer/fcn.berkeleyvision.org reads it.  Unlike VOC's maps these have no void.

The format is MathWorks' "MAT-File Format", level 5.  Only the way to ``GTcls.Segmentation`` is read; every other field
is passed over by its length.  scipy's loadmat reads the same files, but ends the process with a segmentation fault on
some damaged ones (scipy 1.17.1, one flipped byte in the flags of an array); the tests compare with it on whole ones.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from piggyback.shell.errors import BadInput, one_line
from segmentation.voc import CLASSES

LARGEST: Final = 1 << 26
"""Bytes of a file after unpacking; SBD's have some hundred thousand."""

_HEADER: Final = 128
_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 5, 6, 14, 15  # types of elements, table 1-1 of the format
_NUMBERS: Final = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_STRUCT: Final = 2  # classes of arrays, table 1-3
_NUMERIC: Final = range(6, 16)


class _Damaged(Exception):
    """A breach of the format; its text says which."""


def read_mat(data: bytes, *, name: str) -> NDArray[np.uint8]:
    """The classes of a picture's pixels, from the bytes of an SBD file.

    Args:
        data: the file's bytes, not trusted.
        name: of the file, for messages.

    Returns:
        uint8 (height, width), values 0..20.

    Raises:
        BadInput: it is damaged, of version 7.3, has no ``GTcls.Segmentation``, or other values.
    """
    name = one_line(name)
    if data.startswith(b"MATLAB 7.3"):  # its other marks are those of a file of level 5
        raise BadInput(f"{name} is a MATLAB file of version 7.3, which is HDF5: save it with -v7, or take SBD's own")
    try:
        labels = _find_labels(data)
    except _Damaged as fault:
        raise BadInput(f"{name} is not a readable MATLAB file ({fault}): fetch it again") from None
    if labels is None:
        raise BadInput(f"{name} has no GTcls.Segmentation: take a label map of SBD's cls folder")
    wrong = (labels < 0) | (labels >= len(CLASSES))
    if wrong.any():
        row, column = np.argwhere(wrong)[0].tolist()
        value = labels[row, column]
        raise BadInput(f"{name} has the value {value} in row {row}, column {column}; SBD's are 0..{len(CLASSES) - 1}")
    return np.ascontiguousarray(labels, dtype=np.uint8)


@dataclass(frozen=True)
class _Array:
    """An array of the file: its class, its sides, its name, and its elements from `parts` on."""

    kind: int
    sides: tuple[int, ...]
    name: bytes
    parts: Iterator[tuple[int, memoryview]]


def _find_labels(data: bytes) -> NDArray[np.integer[Any]] | None:
    """GTcls.Segmentation, whole numbers (height, width), or None where the file has none."""
    mark = data[_HEADER - 2 : _HEADER]
    if mark not in (b"IM", b"MI"):
        raise _Damaged("its header has no byte order mark")
    order = "<" if mark == b"IM" else ">"
    for kind, body in _elements(memoryview(data)[_HEADER:], order=order):
        inner = _elements(_unpack(body), order=order) if kind == _COMPRESSED else iter([(kind, body)])
        array = _array(inner, order=order)
        if array.name == b"GTcls":
            return _segmentation(array, order=order)
    return None


def _segmentation(array: _Array, *, order: str) -> NDArray[np.integer[Any]] | None:
    """The field ``Segmentation`` of a struct."""
    if array.kind != _STRUCT or array.sides != (1, 1):
        return None
    length = int.from_bytes(_next(array.parts, _INT32)[:4], "little" if order == "<" else "big")
    names = bytes(_next(array.parts, _INT8))
    if not 0 < length <= 64 or len(names) % length:
        raise _Damaged("the names of its fields have no length")
    for start in range(0, len(names), length):
        field = _next(array.parts, _MATRIX)
        if names[start : start + length].split(b"\0")[0] == b"Segmentation":
            return _matrix(_array(iter([(_MATRIX, field)]), order=order), order=order)
    return None


def _matrix(array: _Array, *, order: str) -> NDArray[np.integer[Any]]:
    """A matrix of whole numbers, of any type; they are stored column by column."""
    kind, body = next(array.parts, (0, memoryview(b"")))
    if array.kind not in _NUMERIC or kind not in _NUMBERS or len(array.sides) != 2:
        raise _Damaged("Segmentation is not a matrix of numbers")
    numbers = np.dtype(order + _NUMBERS[kind])
    height, width = array.sides
    if min(height, width) < 1 or len(body) != height * width * numbers.itemsize:
        raise _Damaged(f"Segmentation claims {width} x {height} numbers in {len(body)} bytes")
    found = np.frombuffer(body, dtype=numbers).reshape((height, width), order="F")
    if numbers.kind == "f":  # as MATLAB saves labels that it has computed with
        if not np.isin(found, np.arange(256)).all():
            raise _Damaged("Segmentation has numbers that are not labels")
        found = found.astype(np.int64)
    return found


def _array(elements: Iterator[tuple[int, memoryview]], *, order: str) -> _Array:
    """The array that the next element holds: flags, sides and name, then what its class needs."""
    parts = _elements(_next(elements, _MATRIX), order=order)
    flags, sides, name = _next(parts, _UINT32), _next(parts, _INT32), _next(parts, _INT8)
    if len(flags) != 8 or len(sides) % 4:
        raise _Damaged("an array has no flags or no sides")
    (bits,) = struct.unpack(f"{order}I", flags[:4])
    return _Array(bits & 0xFF, struct.unpack(f"{order}{len(sides) // 4}i", sides), bytes(name), parts)


def _next(elements: Iterator[tuple[int, memoryview]], expected: int) -> memoryview:
    """The next element's bytes, if it is of that type."""
    kind, body = next(elements, (0, memoryview(b"")))
    if kind != expected:
        raise _Damaged(f"an element has type {kind} instead of {expected}")
    return body


def _elements(data: memoryview, *, order: str) -> Iterator[tuple[int, memoryview]]:
    """Type and bytes of each element."""
    place = 0
    while place < len(data):
        if place + 8 > len(data):
            raise _Damaged("it ends early")
        kind, length = struct.unpack_from(f"{order}II", data, place)
        body = place + 8
        if kind >> 16:  # the short form: length, type and up to four bytes in one word of eight
            kind, length, body = kind & 0xFFFF, kind >> 16, place + 4
        end = body + length
        if end > len(data) or (body == place + 4 and length > 4):
            raise _Damaged("it ends early")
        yield kind, data[body:end]
        place = end if kind == _COMPRESSED else end + -end % 8


def _unpack(body: memoryview) -> memoryview:
    """The bytes of a compressed element, compared with their checksum."""
    unpacking = zlib.decompressobj()
    try:
        data = unpacking.decompress(body, LARGEST)
    except zlib.error as fault:
        raise _Damaged(str(fault)) from None
    if not unpacking.eof:
        raise _Damaged("it claims too much" if unpacking.unconsumed_tail else "it ends early")
    return memoryview(data)
