"""Predictions of pictures: ``predictions.npz`` read without trust, and counted against labels."""

import io
import re
import zipfile
from dataclasses import dataclass
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from leaderboard.faults import Fault
from leaderboard.store.truth import ZIP_FAULTS, Truth

MAX_UNPACKED: Final = 4 << 20  # bytes; the largest that we know, of 97,000 pictures, takes 1.6 MB
_ARRAYS: Final = ("category_ids.npy", "image_ids.npy", "task.npy")
_END_OF_ZIP: Final = 22  # bytes of a zip's last record, without a comment
_HEADER: Final = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '(<i8|<U\d{1,2})', 'fortran_order': False, 'shape': \((?:(\d{1,7}),)?\), \} *\n",
    re.DOTALL,
)
"""The header that `numpy.save` writes for such arrays, and no other: so nothing has to be interpreted.

Format: numpy.org/doc/stable/reference/generated/numpy.lib.format.html, version 1.0.
"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """The category that a network chose for each picture of one task.

    Attributes:
        task: its name, as the file says.
        image_ids: int64 [n]; not checked further.
        category_ids: int64 [n].
    """

    task: str
    image_ids: NDArray[np.int64]
    category_ids: NDArray[np.int64]


def read_predictions(data: bytes) -> Predictions:
    """Read the bytes of a ``predictions.npz``; nothing is unpickled, nothing large is unpacked.

    Raises:
        Fault: ``zip-bomb`` or ``bad-predictions``.
    """
    strange = Fault("bad-predictions", f"is no predictions file: a zip of {', '.join(_ARRAYS)} as numpy writes them")
    # The last record tells the number of members: a zip of thousands is not even opened.
    if data[-_END_OF_ZIP:][:4] != b"PK\5\6" or int.from_bytes(data[-12:-10], "little") != len(_ARRAYS):
        raise strange
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > MAX_UNPACKED:
                raise Fault("zip-bomb", f"unpacks to more than {MAX_UNPACKED >> 20} MiB; predictions are smaller")
            if sorted(member.filename for member in members) != list(_ARRAYS):
                raise strange
            arrays = {member.filename: _member(archive, member) for member in members}
    except Fault:
        raise
    except ZIP_FAULTS:
        raise strange from None
    task, *ids = (_array(arrays[name]) for name in ("task.npy", "image_ids.npy", "category_ids.npy"))
    if not isinstance(task, str) or any(isinstance(one, str) for one in ids):
        raise Fault("bad-predictions", "must hold task, one text, and image_ids and category_ids, int64 [n]")
    image_ids, category_ids = cast(list[NDArray[np.int64]], ids)
    if len(image_ids) != len(category_ids) or not len(image_ids):
        raise Fault("bad-predictions", f"has {len(image_ids)} pictures and {len(category_ids)} categories")
    return Predictions(task=task, image_ids=image_ids, category_ids=category_ids)


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    # A zip may state too small a size, which was checked; read() without a limit would unpack all that is there.
    with archive.open(member) as file:
        return file.read(MAX_UNPACKED)


def _array(data: bytes) -> NDArray[np.int64] | str:
    """Read a vector of int64, or one text."""
    header = _HEADER.match(data)
    if header is None or 10 + int.from_bytes(data[8:10], "little") != header.end():
        raise Fault("bad-predictions", "has an array that is not int64 [n] or one text, as numpy writes them")
    kind, length, body = header[1].decode(), header[2], data[header.end() :]
    if kind == "<i8" and length is not None and len(body) == 8 * int(length):
        return np.frombuffer(body, dtype="<i8").astype(np.int64, copy=False)
    if kind != "<i8" and length is None and len(body) == 4 * int(kind[2:]):
        try:
            return body.decode("utf-32-le").rstrip("\0")
        except UnicodeDecodeError:
            pass
    raise Fault("bad-predictions", "has an array whose bytes do not fit its shape")


def count_right(predictions: Predictions, truth: Truth) -> int:
    """Count the pictures of a split that were given their own category; all must be predicted, each once."""
    order = np.argsort(predictions.image_ids)
    places = order[np.searchsorted(predictions.image_ids, truth.ids, sorter=order)]
    return int((predictions.category_ids[places] == truth.labels).sum())
