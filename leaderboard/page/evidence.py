"""Evidence files of a result, put beside its page and read for charts."""

import errno
import math
import os
import shutil
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic_core import from_json

from leaderboard.store.candidates import LIMITS
from leaderboard.store.confusion import read_confusion
from leaderboard.store.reading import StoredResult
from piggyback.shell.errors import Fault
from piggyback.shell.files import read_file

TITLES: Final = {
    "result.json": "the record itself",
    "recipe.json": "what the run was started with",
    "metrics.jsonl": "training, epoch by epoch",
    "sparsity.json": "weights switched off, layer by layer",
    "confusion.json": "pixels by true and predicted class",
    "log.txt": "excerpt of the log",
    "sheet.png": "overlay sheet",
    "predictions.npz": "predictions, picture by picture",
}
"""The only names that a page carries along, and what each is."""

COPY_LIMIT: Final = 4 << 20  # bytes; larger files come along as hard links only
LONGEST_LOG: Final = 16_000  # characters shown, from the end
MOST_LAYERS: Final = 400  # drawn
CHANGED: Final = "is no longer what was checked"
_NUMBERS: Final = {int, float}
_NO_LINKS: Final = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.EACCES)


@dataclass(frozen=True, kw_only=True)
class EvidenceFile:
    """A file beside a result.

    Attributes:
        name: one of `TITLES`.
        size: in bytes.
        here: whether it is beside the page.
    """

    name: str
    title: str
    size: int
    here: bool


class Layer(NamedTuple):
    """A layer, with the fraction of its weights that a mask switches off."""

    name: str
    zeros: float
    weights: int


class ClassScore(NamedTuple):
    """A class and its intersection over union, a fraction; None if it neither occurs nor is predicted."""

    name: str
    iou: float | None


def carry(stored: StoredResult, *, into: str) -> tuple[EvidenceFile, ...]:
    """Put a result's evidence files beside its page, as hard links where the disk can, else as copies of small ones.

    Links and special files are left out.

    Args:
        stored: whose files.
        into: folder of the page.

    Returns:
        The files that exist, in the order of `TITLES`.
    """
    names = {"result.json", *stored.files}
    carried = []
    source = str(stored.folder)
    for name, title in TITLES.items():
        if name not in names:
            continue
        try:
            found = os.lstat(f"{source}/{name}")
        except FileNotFoundError:
            continue
        if stat.S_ISREG(found.st_mode):
            here = _place(f"{source}/{name}", f"{into}/{name}", size=found.st_size)
            carried.append(EvidenceFile(name=name, title=title, size=found.st_size, here=here))
    return tuple(carried)


def _place(source: str, target: str, *, size: int) -> bool:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as fault:
        if fault.errno not in _NO_LINKS:
            raise
    else:
        return True
    if size > COPY_LIMIT:
        return False
    shutil.copyfile(source, target, follow_symlinks=False)
    return True


def read_epochs(folder: Path) -> list[dict[str, float]]:
    """The epochs of ``metrics.jsonl``; raises `Fault`.

    The store's check has read the file strictly; doing so again would take half of a page's time.
    """
    data = _read(folder, "metrics.jsonl")
    rows = _load(b"[" + b",".join(data.splitlines()) + b"]", "metrics.jsonl")
    if not all(_NUMBERS.issuperset(map(type, row.values())) for row in rows):
        raise Fault("changed", CHANGED, file="metrics.jsonl")
    return rows


def read_layers(folder: Path) -> tuple[Layer, ...]:
    """The layers of ``sparsity.json``, in network order, at most `MOST_LAYERS`; raises `Fault`."""
    document = _load(_read(folder, "sparsity.json"), "sparsity.json")
    try:
        layers = [Layer(str(one["name"]), float(one["zeros"]), int(one["weights"])) for one in document[0]["layers"]]
    except (KeyError, TypeError, ValueError, OverflowError):
        raise Fault("changed", CHANGED, file="sparsity.json") from None
    if len(layers) > MOST_LAYERS:
        raise Fault("too-large", f"has {len(layers):,} layers; at most {MOST_LAYERS} are drawn")
    return tuple(layers)


def read_class_scores(folder: Path) -> tuple[ClassScore, ...]:
    """Intersection over union per class of ``confusion.json``: hits over truth and prediction; raises `Fault`."""
    matrix = read_confusion(_read(folder, "confusion.json"), classes=None)  # the store's check knows the classes
    predicted = [sum(column) for column in zip(*matrix.rows, strict=True)]
    scores = []
    for place, (name, row) in enumerate(zip(matrix.classes, matrix.rows, strict=True)):
        union = sum(row) + predicted[place] - row[place]
        scores.append(ClassScore(name, row[place] / union if union else None))
    return tuple(scores)


def read_log(folder: Path) -> str:
    """The end of ``log.txt``; raises `Fault`."""
    text = _read(folder, "log.txt").decode("utf-8", errors="replace")
    return text if len(text) <= LONGEST_LOG else f"...\n{text[-LONGEST_LOG:]}"


def read_sides(folder: Path) -> tuple[int, int]:
    """Width and height of ``sheet.png`` from its first chunk, IHDR; raises `Fault`.

    The store's check has examined it; decoding the picture is left to the reader's browser.
    """
    head = _read(folder, "sheet.png")[:24]
    return int.from_bytes(head[16:20]), int.from_bytes(head[20:24])


def mean_class_scores(runs: Sequence[Sequence[ClassScore]]) -> tuple[ClassScore, ...]:
    """Mean of each class over the runs that have it."""
    scores = []
    for column in zip(*runs, strict=True):
        known = [one.iou for one in column if one.iou is not None]
        scores.append(ClassScore(column[0].name, math.fsum(known) / len(known) if known else None))
    return tuple(scores)


def _read(folder: Path, name: str) -> bytes:
    return read_file(f"{folder}/{name}", limit=LIMITS[name], follow=False, name=name)


def _load(data: bytes, name: str) -> list[dict[str, Any]]:
    """Parse JSON that passed the check into a list of objects; a single object becomes a list."""
    try:
        found = from_json(data)  # a fifth of json.loads' time
    except ValueError:
        raise Fault("changed", CHANGED, file=name) from None
    rows = found if isinstance(found, list) else [found]
    if not all(isinstance(row, dict) for row in rows):
        raise Fault("changed", CHANGED, file=name)
    return rows
