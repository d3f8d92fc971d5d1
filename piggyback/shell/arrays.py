"""Arrays from untrusted sources: exactly those that `numpy.save` writes of an expected type and shape.

numpy's own reader evaluates a header as Python, believes the shape that it states before there are any bytes, and
raises a dozen kinds of exceptions.  Here a header is only compared with the acceptable ones, never evaluated.

Format: numpy.org/doc/stable/reference/generated/numpy.lib.format.html, version 1.0.
"""

import io
import math
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.lib.format import dtype_to_descr
from numpy.typing import NDArray

from piggyback.shell.errors import Fault, one_line, reading, shown
from piggyback.shell.files import read_file

MAX_BYTES: Final = 1 << 30  # where no length is given; an index of ImageNet's 1.28 million pictures has 36 MB
_HEADER: Final = re.compile(
    rb"\x93NUMPY\x01\x00(..)\{'descr': (.{1,2000}?), 'fortran_order': False, 'shape': \(([0-9, ]{0,80})\), \} *\n",
    re.DOTALL,
)
_TEXT: Final = re.compile(r"'<U(\d{1,4})'")
_MOST_HEADER: Final = 1 << 16  # format 1.0 stores a header's length in two bytes
_END_OF_ZIP: Final = 22  # bytes of a zip's last record, without a comment


@dataclass(frozen=True)
class Form:
    """Type and shape that an array must have.

    Attributes:
        dtype: of its values; None for text of any length.
        shape: lengths; None for any.
    """

    dtype: np.dtype[Any] | None
    shape: tuple[int | None, ...] = ()

    @cached_property
    def descr(self) -> str | None:
        """The type as a header names it."""
        return None if self.dtype is None else repr(dtype_to_descr(self.dtype))

    def __str__(self) -> str:
        """Words for a message, such as ``int64 [n]``."""
        if self.dtype is None:
            return "one text"
        lengths = ", ".join("n" if length is None else str(length) for length in self.shape)
        return f"{self.dtype} [{lengths}]"


TEXT: Final = Form(None)


def read_array(path: Path, *, form: Form) -> NDArray[Any]:
    """Read a ``.npy`` file.

    Raises:
        Fault: it cannot be read, or is not such an array.
    """
    lengths = [length for length in form.shape if length is not None]
    limit = MAX_BYTES
    if form.dtype is not None and len(lengths) == len(form.shape):
        limit = _MOST_HEADER + form.dtype.itemsize * math.prod(lengths)
    return parse_array(read_file(path, limit=limit), form=form, name=one_line(path))


def parse_array(data: bytes, *, form: Form, name: str = "") -> NDArray[Any]:
    """Parse the bytes of a ``.npy`` file; the array is read-only.

    Args:
        data: the bytes.
        form: what the array must be.
        name: the file's name for messages; empty if the caller names it.

    Raises:
        Fault: ``bad-array``.
    """
    header = _HEADER.match(data)
    if header is None or 10 + int.from_bytes(header[1], "little") != header.end():
        raise Fault("bad-array", f"is damaged, or not what numpy writes; it must be {form}", file=name)
    descr, lengths = header[2].decode("latin-1"), header[3].decode()
    dtype, shape = _dtype(descr, form=form), _shape(lengths, form=form)
    if dtype is None or shape is None:
        found = f"{shown(descr, longest=60)} [{shown(lengths, longest=40)}]"
        raise Fault("bad-array", f"must be {form}, not {found}", file=name)
    there, stated = len(data) - header.end(), dtype.itemsize * math.prod(shape)
    if there != stated:
        raise Fault("bad-array", f"has {there:,} bytes of values, where its shape needs {stated:,}", file=name)
    try:
        if form.dtype is None:
            data[header.end() :].decode("utf-32-le")  # numpy would only find out later what is no character
        return np.ndarray(shape, dtype=dtype, buffer=data, offset=header.end())
    except ValueError as fault:  # no character, or lengths whose product is beyond what numpy counts
        raise Fault("bad-array", f"is damaged, or is not {form}: {fault}", file=name) from None


def _dtype(descr: str, *, form: Form) -> np.dtype[Any] | None:
    """The type that a header names; None if the form does not allow it."""
    if form.dtype is not None:
        return form.dtype if descr == form.descr else None
    text = _TEXT.fullmatch(descr)
    return np.dtype(f"<U{text[1]}") if text is not None else None


def _shape(lengths: str, *, form: Form) -> tuple[int, ...] | None:
    """The lengths between a header's brackets; None if the form does not allow them."""
    words = [word.strip() for word in lengths.removesuffix(",").split(",")] if lengths else []
    if len(words) != len(form.shape) or not all(word.isdigit() and len(word) <= 12 for word in words):
        return None
    shape = tuple(map(int, words))
    return shape if all(wanted in (None, found) for wanted, found in zip(form.shape, shape, strict=True)) else None


def parse_arrays(data: bytes, *, forms: Mapping[str, Form], limit: int, name: str = "") -> dict[str, NDArray[Any]]:
    """Parse the bytes of a ``.npz`` file that holds exactly these arrays; they are read-only.

    Args:
        data: the bytes.
        forms: what each array must be, by name.
        limit: bytes that all members may unpack to.
        name: the file's name for messages; empty if the caller names it.

    Raises:
        Fault: ``bad-array``, ``zip-bomb`` or ``damaged``.
    """
    wanted = f"a zip of the arrays {', '.join(forms)}"
    strange = Fault("bad-array", f"is damaged, or not what numpy writes; it must be {wanted}", file=name)
    # The last record tells the number of members: a zip of thousands is not even opened.
    if data[-_END_OF_ZIP:][:4] != b"PK\5\6" or int.from_bytes(data[-12:-10], "little") != len(forms):
        raise strange
    with reading(name, what="zip of arrays"), zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {member.filename: member for member in archive.infolist()}
        if members.keys() != {f"{array}.npy" for array in forms}:
            raise strange
        total = sum(member.file_size for member in members.values())
        if total > limit:
            raise Fault("zip-bomb", f"unpacks to {total:,} bytes; at most {limit:,} are read", file=name)
        return {
            array: parse_array(_member(archive, members[f"{array}.npy"]), form=form, name=f"{name} {array}".strip())
            for array, form in forms.items()
        }


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    # Never more than the zip's word, which was looked at; read() without a number would unpack all that is there.
    with archive.open(member) as file:
        return file.read(member.file_size)
