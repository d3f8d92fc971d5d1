"""Confusion matrices of pixels: ``confusion.json`` read as untrusted, and its numbers counted again."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

from piggyback.shell.errors import Fault, shown
from piggyback.shell.strict_json import is_count, parse_json

LONGEST_CLASS: Final = 100  # characters of a class's name

Rows = list[list[int]]


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """A confusion matrix.

    Attributes:
        classes: names, in order.
        rows: pixels of each true class, by predicted class.
    """

    classes: tuple[str, ...]
    rows: Rows


def read_confusion(data: bytes, *, classes: Sequence[str] | None) -> Matrix:
    """Read the bytes of a ``confusion.json``.

    Args:
        data: the file's.
        classes: that it must have, in their order; None where the benchmark's classes are not known.

    Raises:
        Fault: of the JSON, or ``bad-confusion``.
    """
    document = parse_json(data)
    if not isinstance(document, dict) or document.keys() != {"classes", "rows", "columns", "matrix"}:
        raise Fault("bad-confusion", "must be an object of exactly classes, rows, columns and matrix")
    named = document["classes"]
    if not isinstance(named, list) or not named or not all(map(_is_name, named)) or len(set(named)) < len(named):
        raise Fault("bad-confusion", f"must have a list of different names, each of at most {LONGEST_CLASS} characters")
    if classes is not None and named != list(classes):
        raise Fault("bad-confusion", f"must have the benchmark's {len(classes)} classes in their order")
    if (document["rows"], document["columns"]) != ("truth", "prediction"):
        raise Fault("bad-confusion", "must have the truth in its rows and the prediction in its columns")
    return Matrix(classes=tuple(named), rows=_read_rows(document["matrix"], named))


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= LONGEST_CLASS and value.isprintable()


def _read_rows(matrix: object, classes: Sequence[str]) -> Rows:
    n = len(classes)
    if not isinstance(matrix, list) or len(matrix) != n or any(not isinstance(r, list) or len(r) != n for r in matrix):
        raise Fault("bad-confusion", f"must have a matrix of {n} rows of {n} counts")
    for row, name in zip(matrix, classes, strict=True):
        strange = next((value for value in row if not is_count(value)), None)
        if strange is not None or None in row:
            raise Fault("bad-confusion", f"has {shown(strange, longest=40)} in the row of {name}, which is no count")
    if not any(map(any, matrix)):
        raise Fault("bad-confusion", "counts no pixel")
    return cast(Rows, matrix)


@dataclass(frozen=True, kw_only=True)
class PixelScores:
    """The numbers of a confusion matrix.

    Attributes:
        n: pixels judged.
        correct: how many of them are right.
        metrics: ``mean_iou``, ``pixel_accuracy``, ``mean_accuracy``, ``frequency_weighted_iou``, fractions in [0, 1],
            and ``classes``, how many the mean IoU is over.
    """

    n: int
    correct: int
    metrics: dict[str, float]


def score_confusion(matrix: Sequence[Sequence[int]]) -> PixelScores:
    """The four numbers of section 5 of J. Long, E. Shelhamer, T. Darrell, CVPR 2015.

    With n_ij pixels of class i predicted as j and t_i of class i: pixel accuracy is sum n_ii / sum t_i, mean accuracy
    the mean of n_ii / t_i, mean IU the mean of n_ii / (t_i + sum_j n_ji - n_ii), and frequency-weighted IU the mean of
    the same weighted by t_i.

    Counts stay whole numbers up to the one division of each.  A class that is in neither truth nor prediction is in no
    mean, and one that is not in the truth is not in the mean accuracy.

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
