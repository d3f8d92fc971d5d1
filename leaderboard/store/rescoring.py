"""Numbers counted again from what a run left: predictions of pictures, or a confusion matrix of pixels."""

import io
import math
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from leaderboard.boards.tasks import VOC_CLASSES
from leaderboard.faults import Fault, shown
from leaderboard.store.truth import ZIP_FAULTS, Truth
from leaderboard.strict_json import is_count, parse

MAX_UNPACKED: Final = 4 << 20  # imagenet12's val and test, the most there can be, take 1.6 MB
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
    """What a network said about the pictures of one task.

    Attributes:
        task: its name, as the file says.
        image_ids: int64 [n]; not checked further.
        category_ids: int64 [n].
    """

    task: str
    image_ids: NDArray[np.int64]
    category_ids: NDArray[np.int64]


def read_predictions(data: bytes) -> Predictions:
    """Take in the bytes of a ``predictions.npz``; nothing is unpickled, nothing large is unpacked.

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
    # Never more than the zip's word, which was looked at; read() without a number would unpack all that is there.
    with archive.open(member) as file:
        return file.read(MAX_UNPACKED)


def _array(data: bytes) -> NDArray[np.int64] | str:
    """A vector of int64, or one text."""
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
    """How many pictures of a split were given their own category; all of them must be predicted, each once."""
    order = np.argsort(predictions.image_ids)
    places = order[np.searchsorted(predictions.image_ids, truth.ids, sorter=order)]
    return int((predictions.category_ids[places] == truth.labels).sum())


def read_confusion(data: bytes) -> list[list[int]]:
    """Take in the bytes of a ``confusion.json`` of VOC's 21 classes: rows are the truth's, columns the prediction's.

    Raises:
        Fault: of the JSON, or ``bad-confusion``.
    """
    document = parse(data, values=10_000)
    if not isinstance(document, dict) or document.keys() != {"classes", "rows", "columns", "matrix"}:
        raise Fault("bad-confusion", "must be an object of exactly classes, rows, columns and matrix")
    if document["classes"] != list(VOC_CLASSES):
        raise Fault("bad-confusion", f"must have VOC's {len(VOC_CLASSES)} classes in their order")
    if (document["rows"], document["columns"]) != ("truth", "prediction"):
        raise Fault("bad-confusion", "must have the truth in its rows and the prediction in its columns")
    matrix, n = document["matrix"], len(VOC_CLASSES)
    if not isinstance(matrix, list) or len(matrix) != n or any(not isinstance(r, list) or len(r) != n for r in matrix):
        raise Fault("bad-confusion", f"must have a matrix of {n} rows of {n} counts")
    for row, name in zip(matrix, VOC_CLASSES, strict=True):
        strange = next((value for value in row if not is_count(value)), None)
        if strange is not None or None in row:
            raise Fault("bad-confusion", f"has {shown(strange, longest=40)} in the row of {name}, which is no count")
    if not any(map(any, matrix)):
        raise Fault("bad-confusion", "counts no pixel")
    return cast(list[list[int]], matrix)


@dataclass(frozen=True, kw_only=True)
class PixelScores:
    """What a confusion matrix says.

    Attributes:
        n: pixels scored.
        correct: of them.
        metrics: ``mean_iou``, ``pixel_accuracy``, ``mean_accuracy``, ``frequency_weighted_iou``, fractions in [0, 1],
            and ``classes``, how many the mean IoU is over.
    """

    n: int
    correct: int
    metrics: dict[str, float]


def score_confusion(matrix: Sequence[Sequence[int]]) -> PixelScores:
    """The four numbers of section 5 of J. Long, E. Shelhamer, T. Darrell, "Fully convolutional networks for semantic
    segmentation", CVPR 2015: with n_ij pixels of class i predicted as j and t_i of class i, pixel accuracy is
    sum n_ii / sum t_i, mean accuracy the mean of n_ii / t_i, mean IU the mean of n_ii / (t_i + sum_j n_ji - n_ii), and
    frequency-weighted IU the mean of the same weighted by t_i.

    Counts stay whole numbers up to the one division of each.  A class that is in neither truth nor prediction is in no
    mean, nor is one that is not in the truth in the mean accuracy.

    Args:
        matrix: rows are the truth's classes, columns the prediction's; at least one pixel.
    """
    truth = [sum(row) for row in matrix]
    predicted = [sum(column) for column in zip(*matrix, strict=True)]
    right = [row[place] for place, row in enumerate(matrix)]
    unions = [t + p - r for t, p, r in zip(truth, predicted, right, strict=True)]
    n, correct = sum(truth), sum(right)
    iou = [r / union for r, union in zip(right, unions, strict=True) if union]
    recalls = [r / t for r, t in zip(right, truth, strict=True) if t]
    weighted = [t * r / union for t, r, union in zip(truth, right, unions, strict=True) if union]
    metrics = {
        "mean_iou": math.fsum(iou) / len(iou),
        "pixel_accuracy": correct / n,
        "mean_accuracy": math.fsum(recalls) / len(recalls),
        "frequency_weighted_iou": math.fsum(weighted) / n,
        "classes": float(len(iou)),
    }
    return PixelScores(n=n, correct=correct, metrics=metrics)
