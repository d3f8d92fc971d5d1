"""The confusion matrix of label maps: which class of the truth was predicted as which, counted exactly.

Void in the truth is not counted, and labels above 20 are an error, as in VOC's own ``VOCevalseg.m``.
"""

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from piggyback.shell.errors import BadInput, one_line
from piggyback.shell.files import write_json
from piggyback.shell.strict_json import read_json
from segmentation.voc import CLASSES, VOID

Matrix = NDArray[np.int64]
"""Scored pixels, int64 (21, 21): rows are the truth's classes, columns the prediction's."""

_N: Final = len(CLASSES)
_DENSE: Final = 5  # with one change in so many pixels, or more, counting pixels is faster than counting runs (measured)

_KEYS: Final = {"classes", "rows", "columns", "matrix"}


def count_pairs(truth: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> Matrix:
    """How many pixels of one picture have each pair of labels.

    Args:
        truth: uint8 (height, width), 0..20 and 255 for void, which is not counted.
        prediction: uint8 of the same shape; 0..20 wherever the truth is not void.

    Returns:
        int64 (21, 21), rows truth, columns prediction; matrices of several pictures add up.

    Raises:
        BadInput: the shapes differ, or a value is not a label; the message says which and names no file.
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
    """Counts of the pairs of bytes at the same place of two vectors, int64 (256, 256).

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
    """Raise BadInput for the first value that is not a label, from counts of all pairs of bytes."""
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


def write_matrix(path: Path, matrix: Matrix) -> None:
    """Write a confusion matrix as JSON with the classes' names, as the evidence of a result."""
    document = {"classes": list(CLASSES), "rows": "truth", "columns": "prediction", "matrix": matrix.tolist()}
    write_json(path, document)


def read_matrix(path: Path) -> Matrix:
    """Read what `write_matrix` wrote.

    Raises:
        BadInput: it is missing, or not a confusion matrix of VOC's classes.
    """
    document, name = read_json(path), one_line(path)
    if not isinstance(document, dict) or document.keys() != _KEYS:
        raise BadInput(f"{name} is not a confusion matrix: it must have exactly {', '.join(sorted(_KEYS))}")
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
                raise BadInput(f"{name}: the row of {label} has {str(value)[:40]}, which is not a count of pixels")
    if sum(map(sum, rows)) >= 1 << 63:
        raise BadInput(f"{name} counts more pixels than there can be")
    return np.array(rows, dtype=np.int64)
