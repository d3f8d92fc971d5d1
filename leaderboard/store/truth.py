"""Labels of pictures, for recounting the right answers that a record states.

They come from the store's owner, who puts them into ``STORE/truth``, or from a zip or folder of one
``<task>_test.json`` per task in COCO's format, such as ``labels_test.zip`` of github.com/srebuffi/residual_adapters.
"""

import io
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from leaderboard.boards.board import Answers, Board
from piggyback.shell.errors import Fault, ResultError, reading, shown
from piggyback.shell.files import read_file
from piggyback.shell.strict_json import LARGEST, is_count, parse_json

MAX_BYTES: Final = 64 << 20  # the largest official file that we know has 10 MB, of 48,238 pictures
MAX_VALUES: Final = 4_000_000
SUFFIX: Final = "_test.json"

Ids = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """Labels of one split of one task.

    Attributes:
        ids: of the pictures, int64 [n], ascending, each once.
        labels: category id of each, int64 [n].
        categories: of the task, whether or not a picture shows them; None if unknown.
        official: whether the pictures are those of the official release; None if their ids follow no rule.
    """

    ids: Ids
    labels: Ids
    categories: frozenset[int] | None
    official: bool | None


TruthKey = tuple[str, str, str]
"""Benchmark, task and split."""

Truths = Mapping[TruthKey, Truth]


def truth_name(board: Board, *, task: str, split: str) -> str:
    """Name of a file of labels in ``STORE/truth``."""
    return f"{board.name}-{task}-{split}.json"


def find_key(name: str, boards: Iterable[Board]) -> tuple[Board, str, str] | None:
    """Board, task and split that a file of labels is named after; None if there are none such."""
    for board in boards:
        whole, begin = name.removesuffix(".json"), f"{board.name}-"
        if not isinstance(board.evidence, Answers) or whole == name or not whole.startswith(begin):
            continue
        rest = whole.removeprefix(begin)
        for split in board.splits or (rest.rpartition("-")[2],):
            task = rest.removesuffix(f"-{split}")
            if task and task != rest and board.has_task(task):
                return board, task, split
    return None


def make_truth(ids: object, labels: object, *, board: Board, task: str, split: str, categories: object = None) -> Truth:
    """Check and sort labels.

    Args:
        ids: list of the pictures' ids.
        labels: list of as many category ids.
        board, task, split: whose they are.
        categories: list of the ids of all categories; None if unknown.

    Raises:
        Fault: ``bad-truth``.
    """
    rule = board.find_ids(task)
    known = range(LARGEST) if rule is None else rule.known
    lists = [ids, labels, *([] if categories is None else [categories])]
    for values in lists:
        if not isinstance(values, list) or not all(type(one) is int and one in known for one in values):
            raise Fault("bad-truth", f"must hold lists of ids of {task}, from {known.start} to {known.stop - 1}")
    pictures, chosen = (np.array(values, dtype=np.int64) for values in (ids, labels))
    if not len(pictures) or len(pictures) != len(chosen) or len(np.unique(pictures)) != len(pictures):
        raise Fault("bad-truth", "must give every picture once, with one label, and at least one picture")
    order = np.argsort(pictures)
    pictures, chosen = pictures[order], chosen[order]
    named = None if categories is None else frozenset(cast(list[int], categories))
    if named is not None and not named.issuperset(chosen.tolist()):
        raise Fault("bad-truth", "has a label that is not among its categories")
    official = None if rule is None or split not in rule.official else _are(pictures, rule.official[split])
    return Truth(ids=pictures, labels=chosen, categories=named, official=official)


def _are(pictures: Ids, official: range) -> bool:
    """Whether sorted ids, each once, are those of the release: their number and both ends say so."""
    return len(pictures) == len(official) and (int(pictures[0]), int(pictures[-1])) == (official[0], official[-1])


def read_truth(path: Path, *, board: Board, task: str, split: str) -> Truth:
    """Read a file of ``STORE/truth``: ``{"ids": [...], "labels": [...]}``.

    Raises:
        Fault: it is not such a file.
    """
    document = parse_json(read_file(path, limit=MAX_BYTES, follow=False, name=""), values=MAX_VALUES)
    if not isinstance(document, dict) or document.keys() != {"ids", "labels"}:
        raise Fault("bad-truth", "must be an object of exactly two lists, ids and labels")
    return make_truth(document["ids"], document["labels"], board=board, task=task, split=split)


def read_labels(path: Path, *, boards: Iterable[Board]) -> Truths:
    """Read test labels from a zip of ``<task>_test.json``, or from a folder of such files.

    Args:
        path: of the zip or folder.
        boards: whose tasks the files may be named after; only those whose ids follow a rule.

    Raises:
        ResultError: there are none, or a file is damaged, too large or contradicts itself.
    """
    owners = {
        task: board
        for board in boards
        if isinstance(board.evidence, Answers)
        for task in board.names
        if board.find_ids(task) is not None
    }
    found: dict[TruthKey, Truth] = {}
    for name, data in _folder_files(path) if path.is_dir() else _zip_files(path):
        task, place = name.removesuffix(SUFFIX), f"{shown(path)}: {shown(name)}"
        if task not in owners:
            known = ", ".join(owners) or "none"
            raise ResultError(f"{place} is named after no task whose pictures are known; such tasks: {known}")
        key = (owners[task].name, task, "test")
        if key in found:
            raise ResultError(f"{place} is there twice")
        try:
            found[key] = _parse_annotations(data, board=owners[task], task=task)
        except Fault as fault:
            raise ResultError(f"{place} {fault.message}", kind=fault.kind) from None
    if not found:
        raise ResultError(f"{shown(path)} holds no labels: no file there is called <task>{SUFFIX}, as dtd{SUFFIX}")
    return found


def _parse_annotations(data: bytes, *, board: Board, task: str) -> Truth:
    """Read an annotation file: images, one annotation for each, categories (cocodataset.org, "data format")."""
    document = parse_json(data, values=MAX_VALUES)
    if not isinstance(document, dict) or "annotations" not in document:
        raise Fault("bad-truth", "has no annotations; give the organisers' files of labels, such as labels_test.zip")
    images = _column(document, "images", "id")
    pictures = _column(document, "annotations", "image_id")
    if len(images) != len(pictures) or set(images) != set(pictures):
        raise Fault("bad-truth", f"has {len(pictures)} annotations that do not fit its {len(images)} images")
    labels = _column(document, "annotations", "category_id")
    categories = _column(document, "categories", "id")
    return make_truth(pictures, labels, board=board, task=task, split="test", categories=categories)


def _column(document: Mapping[str, Any], table: str, key: str) -> list[int]:
    records = document.get(table)
    if not isinstance(records, list):
        raise Fault("bad-truth", f"must have a list of {table}")
    values = [record.get(key) if isinstance(record, dict) else None for record in records]
    if not all(is_count(value) for value in values):
        raise Fault("bad-truth", f"must have a whole number as {key} in each of its {table}")
    return cast(list[int], values)


def _folder_files(path: Path) -> Iterator[tuple[str, bytes]]:
    for file in sorted(path.glob(f"[!.]*{SUFFIX}")):
        try:
            yield file.name, read_file(file, limit=MAX_BYTES, name=shown(file))
        except Fault as fault:
            raise ResultError(str(fault), kind=fault.kind) from None


def _zip_files(path: Path) -> Iterator[tuple[str, bytes]]:
    place = shown(path)
    try:
        data = io.BytesIO(read_file(path, limit=MAX_BYTES, name=place))
        with reading(place, what="zip of labels", advice="get it again"), zipfile.ZipFile(data) as archive:
            for member in archive.infolist():
                name = PurePosixPath(member.filename).name
                if not name.endswith(SUFFIX) or name.startswith("."):
                    continue
                if member.file_size > MAX_BYTES:  # read() stops there, whatever the zip says
                    raise ResultError(f"{place}: {shown(name)} unpacks to more than {MAX_BYTES >> 20} MiB")
                with archive.open(member) as file:
                    yield name, file.read(MAX_BYTES)
    except Fault as fault:
        raise ResultError(str(fault), kind=fault.kind) from None
