"""The confusion matrix of label maps, and VOC's four numbers from it, exactly.

One int64 matrix is summed over all pictures and divided once, in float64: the mean of pictures' own IoUs is
another quantity.  Definitions as in ``score.py`` of github.com/shelhamer/fcn.berkeleyvision.org; void in the
truth is not scored, and labels above 20 are an error, as in VOC's own ``VOCevalseg.m``.
"""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from piggyback.shell import console
from piggyback.shell.errors import BadInput, one_line
from piggyback.shell.files import write_bytes, write_json
from piggyback.shell.strict_json import read_json
from segmentation.voc import CLASSES, VOID

Matrix = NDArray[np.int64]
"""Scored pixels, int64 (21, 21): rows are the truth's classes, columns the prediction's."""

_N: Final = len(CLASSES)
_DENSE: Final = 5
"""One change in so many pixels, or more, and counting pixels is faster than counting runs (measured)."""

_KEYS: Final = {"classes", "rows", "columns", "matrix"}


def count_pairs(truth: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> Matrix:
    """How many pixels of one picture have each pair of labels.

    Args:
        truth: uint8 (height, width), 0..20 and 255 for void, which is not counted.
        prediction: uint8 of the same shape; 0..20 wherever the truth is not void.

    Returns:
        int64 (21, 21), rows truth, columns prediction; matrices of several pictures add up.

    Raises:
        BadInput: the shapes differ, or a label is none; the message says which and names no file.
        ValueError: they are not uint8.
    """
    if truth.dtype != np.uint8 or prediction.dtype != np.uint8:
        raise ValueError(f"label maps must be uint8, not {truth.dtype} and {prediction.dtype}")
    if truth.shape != prediction.shape:
        sizes = (" x ".join(map(str, shape[::-1])) for shape in (truth.shape, prediction.shape))
        raise BadInput("the truth is {}, the prediction {} pixels".format(*sizes))
    table = _count_bytes(truth.ravel(), prediction.ravel())
    matrix = table[:_N, :_N].copy()
    if matrix.sum() + table[VOID].sum() != truth.size:
        _refuse(table)
    return matrix


def _count_bytes(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How often each pair of bytes stands at the same place of two vectors, int64 (256, 256).

    Neighbours in a label map are mostly equal, so runs are counted and not pixels; where they are not, the two
    bytes together are one number of 16 bits.  Float weights are exact: a picture has fewer than 2^53 pixels.
    """
    changes = first[1:] != first[:-1]
    changes |= second[1:] != second[:-1]
    if _DENSE * np.count_nonzero(changes) >= len(first):
        pairs = first.astype(np.uint16)
        pairs <<= 8
        pairs |= second
        return np.bincount(pairs, minlength=1 << 16).reshape(256, 256)
    last = np.append(np.flatnonzero(changes), len(first) - 1)  # of each run
    runs = first[last].astype(np.intp)
    runs <<= 8
    runs |= second[last]
    counts = np.bincount(runs, weights=np.diff(last, prepend=-1), minlength=1 << 16)
    return counts.astype(np.int64).reshape(256, 256)


def _refuse(table: NDArray[np.int64]) -> None:
    """Say which label is none, from counts of all pairs of bytes."""
    for label in range(_N, VOID):
        if table[label].any():
            raise BadInput(f"the truth has the label {label}; labels are 0..{_N - 1}, and {VOID} for void")
    columns = table[:_N].sum(axis=0)
    label = _N + int(np.flatnonzero(columns[_N:])[0])
    what = f"{label} (void)" if label == VOID else str(label)
    raise BadInput(
        f"the prediction has the label {what} in {columns[label]:,} pixels that are scored; every pixel of the "
        f"truth that is not void needs one of 0..{_N - 1}"
    )


@dataclass(frozen=True, kw_only=True)
class Scores:
    """VOC's numbers of one confusion matrix; all are fractions in [0, 1].

    Attributes:
        mean_iou: mean of `iou` over the classes that have one.
        pixel_accuracy: scored pixels that are right.
        mean_accuracy: mean of `accuracy` over the classes that are in the truth.
        frequency_weighted_iou: mean of `iou`, weighted with the class's pixels in the truth.
        iou: of the 21 classes, in order; None where a class is in neither truth nor prediction.
        accuracy: of the 21 classes: its pixels that are right; None where a class is not in the truth.
        pictures: how many were scored.
    """

    mean_iou: float
    pixel_accuracy: float
    mean_accuracy: float
    frequency_weighted_iou: float
    iou: tuple[float | None, ...]
    accuracy: tuple[float | None, ...]
    pictures: int

    @property
    def absent(self) -> tuple[str, ...]:
        """Names of the classes that are in neither truth nor prediction: they are in no mean."""
        return tuple(name for name, iou in zip(CLASSES, self.iou, strict=True) if iou is None)

    def as_json(self) -> dict[str, object]:
        """The numbers for ``--json``; ``iou`` has null where a class is absent."""
        return {
            "mean_iou": self.mean_iou,
            "pixel_accuracy": self.pixel_accuracy,
            "mean_accuracy": self.mean_accuracy,
            "frequency_weighted_iou": self.frequency_weighted_iou,
            "iou": list(self.iou),
            "pictures": self.pictures,
        }


def score(matrix: Matrix, *, pictures: int) -> Scores:
    """The four numbers and those per class.

    Args:
        matrix: int64 (21, 21), summed over all pictures.
        pictures: how many.

    Raises:
        BadInput: no pixel was scored.
        ValueError: the matrix is none.
    """
    if matrix.dtype != np.int64 or matrix.shape != (_N, _N) or (matrix < 0).any():
        raise ValueError(f"a confusion matrix is int64 ({_N}, {_N}) of counts, not {matrix.dtype} {matrix.shape}")
    total = int(matrix.sum())
    if not total:
        raise BadInput(f"nothing to score: {pictures} pictures, and no pixel of the truth that is not void")
    right, truth, predicted = matrix.diagonal().tolist(), matrix.sum(axis=1).tolist(), matrix.sum(axis=0).tolist()
    unions = [t + p - r for t, p, r in zip(truth, predicted, right, strict=True)]
    iou = _fractions(right, unions)
    accuracy = _fractions(right, truth)
    weighted = math.fsum(count / total * one for count, one in zip(truth, iou, strict=True) if one is not None)
    return Scores(
        mean_iou=_mean(iou),
        pixel_accuracy=sum(right) / total,
        mean_accuracy=_mean(accuracy),
        frequency_weighted_iou=weighted,
        iou=iou,
        accuracy=accuracy,
        pictures=pictures,
    )


def _fractions(parts: Sequence[int], wholes: Sequence[int]) -> tuple[float | None, ...]:
    return tuple(part / whole if whole else None for part, whole in zip(parts, wholes, strict=True))


def _mean(values: Sequence[float | None]) -> float:
    """Mean of those that are there; at least one is, as a pixel was scored."""
    present = [value for value in values if value is not None]
    return math.fsum(present) / len(present)


def warn_if_background(matrix: Matrix) -> bool:
    """Say so when every predicted pixel is background; on VOC such predictions have a mean IoU of some 3.5 %."""
    total = int(matrix.sum())
    if not total or total != int(matrix[:, 0].sum()):
        return False
    console.notice(
        "every predicted pixel is background: the network found no object, or the predictions were written in "
        "another way than as palette indices"
    )
    return True


def show(scores: Scores, *, title: str = "PASCAL VOC") -> None:
    """Print the numbers for a person, in percent; n/a where a class is absent."""
    rows: list[tuple[str, ...]] = [
        (name, _percent(iou), _percent(accuracy))
        for name, iou, accuracy in zip(CLASSES, scores.iou, scores.accuracy, strict=True)
    ]
    rows.append(("mean", _percent(scores.mean_iou), _percent(scores.mean_accuracy)))
    console.table(title, "class", "IoU %", "accuracy %", rows=rows)
    lines = [
        f"mean IoU {_percent(scores.mean_iou)} %, pixel accuracy {_percent(scores.pixel_accuracy)} %, mean accuracy "
        f"{_percent(scores.mean_accuracy)} %, frequency-weighted IoU {_percent(scores.frequency_weighted_iou)} %, "
        f"{scores.pictures:,} pictures"
    ]
    if scores.absent:
        which = ", ".join(scores.absent)
        lines.append(
            f"n/a: in neither truth nor prediction, so left out of mean IoU, which is over "
            f"{_N - len(scores.absent)} of {_N} classes: {which}"
        )
    for line in lines:
        console.out.print(line, markup=False, soft_wrap=True)


def _percent(fraction: float | None) -> str:
    return "n/a" if fraction is None else f"{100 * fraction:.2f}"


def write_csv(path: Path, scores: Scores) -> None:
    """One line per class, fractions; empty where a class is absent.  Whole or not at all."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["label", "class", "iou", "accuracy"])
    for label, (name, iou, accuracy) in enumerate(zip(CLASSES, scores.iou, scores.accuracy, strict=True)):
        lines.writerow([label, name, *("" if value is None else repr(value) for value in (iou, accuracy))])
    write_bytes(path, text.getvalue().encode())


def write_matrix(path: Path, matrix: Matrix) -> None:
    """Write a confusion matrix as JSON with the classes' names, as the evidence of a result."""
    document = {"classes": list(CLASSES), "rows": "truth", "columns": "prediction", "matrix": matrix.tolist()}
    write_json(path, document)


def read_matrix(path: Path) -> Matrix:
    """Read what `write_matrix` wrote.

    Raises:
        BadInput: it is missing, or no confusion matrix of VOC's classes.
    """
    document, name = read_json(path), one_line(path)
    if not isinstance(document, dict) or document.keys() != _KEYS:
        raise BadInput(f"{name} is no confusion matrix: it must have exactly {', '.join(sorted(_KEYS))}")
    if document["classes"] != list(CLASSES):
        raise BadInput(f"{name} has other classes than VOC's, or in another order")
    if (document["rows"], document["columns"]) != ("truth", "prediction"):
        raise BadInput(f"{name} must have the truth in rows and the prediction in columns")
    rows = document["matrix"]
    if not isinstance(rows, list) or len(rows) != _N:
        raise BadInput(f"{name} must have {_N} rows of {_N} counts")
    for row, label in zip(rows, CLASSES, strict=True):
        if not isinstance(row, list) or len(row) != _N:
            raise BadInput(f"{name}: the row of {label} must be {_N} counts")
        for value in row:
            if type(value) is not int or value < 0:  # a boolean is an int to Python, but no count
                raise BadInput(f"{name}: the row of {label} has {str(value)[:40]}, which is no count of pixels")
    if sum(map(sum, rows)) >= 1 << 63:
        raise BadInput(f"{name} counts more pixels than there can be")
    return np.array(rows, dtype=np.int64)
