"""Mean IoU and VOC's other three numbers, from a confusion matrix.

One matrix is summed over all pictures and divided once, in float64: the mean of pictures' own IoUs is another
quantity.  Definitions as in ``score.py`` of github.com/shelhamer/fcn.berkeleyvision.org.
"""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from piggyback.shell import console
from piggyback.shell.errors import BadInput
from piggyback.shell.files import write_bytes
from segmentation.metric.confusion import Matrix
from segmentation.voc import CLASSES


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
        """Names of the classes that are in neither truth nor prediction, and so in no mean."""
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
    """The four numbers and those per class, from a matrix summed over all pictures.

    Raises:
        BadInput: no pixel was scored.
        ValueError: the matrix is not int64 (21, 21) of counts.
    """
    if matrix.dtype != np.int64 or matrix.shape != (len(CLASSES), len(CLASSES)) or (matrix < 0).any():
        raise ValueError(
            f"a confusion matrix is int64 ({len(CLASSES)}, {len(CLASSES)}) of counts, not {matrix.dtype} {matrix.shape}"
        )
    total = int(matrix.sum())
    if not total:
        raise BadInput(f"nothing to score: {pictures} pictures, and every pixel of the truth is void")
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
    """Warn when every predicted pixel is background; on VOC such predictions have a mean IoU of some 3.5 %."""
    total = int(matrix.sum())
    if not total or total != int(matrix[:, 0].sum()):
        return False
    console.notice(
        "every predicted pixel is background: the network found no object, or the predictions were not written "
        "as palette indices"
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
            f"{len(CLASSES) - len(scores.absent)} of {len(CLASSES)} classes: {which}"
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
