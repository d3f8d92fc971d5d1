"""Predictions of one task as a file, and the submission file of all of them."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from decathlon.challenge.scoring import MEMBER
from decathlon.tasks import TASKS, find_task
from piggyback.shell.arrays import TEXT, Form, parse_arrays
from piggyback.shell.errors import BadInput, Fault
from piggyback.shell.files import atomic_file, read_file, write_bytes

_IDS: Final = Form(np.dtype(np.int64), (None,))
_FORMS: Final = {"task": TEXT, "image_ids": _IDS, "category_ids": _IDS}
_MAX_BYTES: Final = 64 << 20  # of a predictions file; 50,000 pictures take 0.8 MB
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the first date a zip can hold: no clock gets into the bytes

Ids = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """A network's answers for one task's pictures.

    Attributes:
        task: one of the ten names.
        image_ids: int64 [n], each once.
        category_ids: int64 [n], the category of each, of the same task.

    Raises:
        UnknownName: there is no such task.
        BadInput: shapes, types or ids are wrong.
    """

    task: str
    image_ids: Ids
    category_ids: Ids

    def __post_init__(self) -> None:
        ids = find_task(self.task).category_ids  # a task's pictures and categories share one range
        for name, array in (("image_ids", self.image_ids), ("category_ids", self.category_ids)):
            if array.dtype != np.int64 or array.ndim != 1:
                found = f"{array.dtype} {array.shape}"
                raise BadInput(f"predictions for {self.task}: {name} must be int64 [n], not {found}")
            outside = array[(array < ids.start) | (array >= ids.stop)]
            if len(outside):
                raise BadInput(f"predictions for {self.task}: {name} has {outside[0]}, which is not an id of that task")
        if len(self.image_ids) != len(self.category_ids):
            found = f"{len(self.image_ids)} images and {len(self.category_ids)} categories"
            raise BadInput(f"predictions for {self.task} have {found}; give one category for each image")
        twice = _first_duplicate(self.image_ids)
        if twice is not None:
            raise BadInput(f"predictions for {self.task} have image id {twice} twice")

    def save(self, path: Path) -> None:
        """Write them as ``.npz``, whole or not at all; the same predictions give the same bytes."""
        with atomic_file(path) as file:
            np.savez(file, task=np.array(self.task), image_ids=self.image_ids, category_ids=self.category_ids)

    @classmethod
    def load(cls, path: Path) -> "Predictions":
        """Read and validate what `save` wrote; nothing is unpickled.

        Raises:
            BadInput: it is missing, damaged, or not predictions.
        """
        data = read_file(path, limit=_MAX_BYTES)
        try:
            arrays = parse_arrays(data, forms=_FORMS, limit=_MAX_BYTES, name=str(path))
        except Fault as fault:
            raise BadInput(f"{fault}; run the evaluation again") from None
        try:
            return cls(task=str(arrays["task"]), image_ids=arrays["image_ids"], category_ids=arrays["category_ids"])
        except BadInput as fault:
            raise BadInput(f"{path}: {fault}") from None


def check_complete(
    predictions: Mapping[str, Predictions], expected: Mapping[str, Ids], *, partial: bool = False
) -> str | None:
    """Check predictions against the pictures there are.

    Args:
        predictions: by task.
        expected: by task the image ids of the test part, int64 [n].
        partial: let tasks and pictures be missing.

    Returns:
        With `partial`, one line that says what is missing, else None; None as well where nothing is.

    Raises:
        BadInput: a task or a picture is unknown, or missing without `partial`; the message names it.
    """
    missing = [f"no predictions for {name}" for name in TASKS if name not in predictions]
    for name, given in predictions.items():
        if given.task != name:
            raise BadInput(f"the predictions for {name} are those for {given.task}")
        if name not in expected:
            raise BadInput(f"there are predictions for {name}, but the data has no test part of it")
        unknown = np.setdiff1d(given.image_ids, expected[name])
        if len(unknown):
            raise BadInput(f"predictions for {name} have {len(unknown)} unknown image ids, first {unknown[0]}")
        absent = np.setdiff1d(expected[name], given.image_ids)
        if len(absent):
            missing.append(f"{name} lacks {len(absent)} of {len(expected[name])} pictures, first {absent[0]}")
    if missing and not partial:
        raise BadInput(f"the submission is not complete: {'; '.join(missing)}. Run these, or pass --partial")
    return f"partial submission: {'; '.join(missing)}" if missing else None


def submission_entries(predictions: Mapping[str, Predictions]) -> list[dict[str, int]]:
    """The flat list of all tasks' entries, sorted by image id.

    Raises:
        BadInput: there are none.
    """
    pairs = sorted(
        pair
        for given in predictions.values()
        for pair in zip(given.image_ids.tolist(), given.category_ids.tolist(), strict=True)
    )
    if not pairs:
        raise BadInput("there are no predictions to submit")
    return [{"image_id": image, "category_id": category} for image, category in pairs]


def write_submission(out: Path, entries: Sequence[Mapping[str, int]]) -> Path:
    """Write the list as compact JSON and beside it the zip that the challenge takes.

    Args:
        out: the JSON file, such as ``runs/results.json``; the zip is ``runs/results.zip`` and holds it under
            the name ``results.json``.
        entries: as `submission_entries` makes them.

    Returns:
        The zip's path.  The same entries give the same bytes of both.

    Raises:
        BadInput: `out` is a folder, or does not end with .json.
    """
    if out.suffix != ".json" or out.is_dir():
        raise BadInput(f"the submission is written to a .json file, not to {out}; the zip appears beside it")
    text = json.dumps(list(entries), separators=(",", ":"), allow_nan=False).encode()
    write_bytes(out, text)
    member = zipfile.ZipInfo(MEMBER, date_time=_EPOCH)
    member.compress_type = zipfile.ZIP_DEFLATED
    member.create_system = 3  # unix everywhere, so that the bytes do not tell the system
    member.external_attr = 0o644 << 16
    packed = out.with_suffix(".zip")
    with atomic_file(packed) as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr(member, text)
    return packed


def _first_duplicate(ids: Ids) -> int | None:
    values, counts = np.unique(ids, return_counts=True)
    return int(values[counts > 1][0]) if (counts > 1).any() else None
