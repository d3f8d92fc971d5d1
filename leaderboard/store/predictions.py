"""Predictions of pictures: ``predictions.npz`` read as untrusted, and counted against labels."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from leaderboard.store.truth import Truth
from piggyback.shell.arrays import TEXT, Form, parse_arrays
from piggyback.shell.errors import Fault

MAX_UNPACKED: Final = 4 << 20  # bytes; the largest that we know, of 97,000 pictures, takes 1.6 MB
_IDS: Final = Form(np.dtype(np.int64), (None,))
_FORMS: Final = {"task": TEXT, "image_ids": _IDS, "category_ids": _IDS}


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """The category that a network chose for each picture of one task.

    Attributes:
        task: as the file says.
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
    try:
        arrays = parse_arrays(data, forms=_FORMS, limit=MAX_UNPACKED)
    except Fault as fault:
        kind = fault.kind if fault.kind == "zip-bomb" else "bad-predictions"
        raise Fault(kind, str(fault)) from None
    image_ids, category_ids = arrays["image_ids"], arrays["category_ids"]
    if len(image_ids) != len(category_ids) or not len(image_ids):
        raise Fault("bad-predictions", f"has {len(image_ids)} pictures and {len(category_ids)} categories")
    return Predictions(task=str(arrays["task"]), image_ids=image_ids, category_ids=category_ids)


def count_right(predictions: Predictions, truth: Truth) -> int:
    """Number of pictures of a split with the right category; all must be predicted, each once."""
    order = np.argsort(predictions.image_ids)
    places = order[np.searchsorted(predictions.image_ids, truth.ids, sorter=order)]
    return int((predictions.category_ids[places] == truth.labels).sum())
