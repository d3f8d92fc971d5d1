"""The release's annotation files, read strictly into arrays.

Each task has ``<task>_train.json``, ``<task>_val.json`` and ``<task>_test_stripped.json`` in COCO's form.
They are not read through pycocotools: that library builds an index of Python objects, keeps the last of two entries
with one id, takes any type for an id and prints while it works.  Here a file is either exactly what it must be or
refused with the place of its first fault, and 1.2 million entries become arrays.

A label comes from the JSON only.  The number of a class folder is *not* the category: the release numbers
folders in one order of names and categories in another (20 of 100 classes differ in aircraft).
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from decathlon.tasks import SPLITS, Split, Task, find_task
from piggyback.shell.errors import BadInput
from piggyback.shell.strict_json import parse_json

LONGEST_SIDE: Final = 4096
"""Pixels.  The release's pictures have at most 422; the bound keeps a hostile size from filling the disk."""

MAX_VALUES: Final = 60_000_000  # imagenet12's train has some 20 million
UNKNOWN: Final = -1
"""The label of every test picture."""


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """One split of one task; n pictures in the order of the file.

    Attributes:
        image_ids: int64 (n), all different.
        labels: int32 (n), places of the categories in ascending order of their ids; -1 throughout test.
        widths, heights: int32 (n), pixels.
        file_names: n relative paths ``data/<task>/...``, all different.
        category_ids: int64 (classes), ascending.
        category_names: in the order of `category_ids`, all different.
    """

    task: str
    split: Split
    image_ids: NDArray[np.int64]
    labels: NDArray[np.int32]
    widths: NDArray[np.int32]
    heights: NDArray[np.int32]
    file_names: tuple[str, ...]
    category_ids: NDArray[np.int64]
    category_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.file_names)

    @property
    def classes(self) -> int:
        """The number of categories that the file declares."""
        return len(self.category_names)


def annotation_file(task: str, split: Split) -> str:
    """The official name of a split's file; that of test comes without its labels."""
    return f"{task}_{'test_stripped' if split == 'test' else split}.json"


def parse_annotations(data: bytes, *, task: str, split: Split, name: str) -> Annotations:
    """Read one annotation file.

    Args:
        data: the file's bytes, untrusted.
        task: that it must be of; ids and paths are checked against it.
        split: for test, labels are not looked at even when the file has them.
        name: of the file, for messages.

    Raises:
        BadInput: with the first fault found.
        UnknownName: there is no such task.
    """
    known = find_task(task)
    document = parse_json(data, name=name, values=MAX_VALUES)
    if not isinstance(document, dict):
        raise BadInput(f"{name} must hold one JSON object with images and categories")
    images = _rows(document, "images", name=name)
    category_ids, category_names = _categories(_rows(document, "categories", name=name), task=known, name=name)
    image_ids = _integers(images, "id", bounds=known.category_ids, name=f"images of {name}")
    _refuse_twice(image_ids, what="image id", name=name)
    if split == "test":
        labels = np.full(len(image_ids), UNKNOWN, dtype=np.int32)
    else:
        annotations = _rows(document, "annotations", name=name)
        labels = _labels(annotations, image_ids=image_ids, category_ids=category_ids, task=known, name=name)
    sides = range(1, LONGEST_SIDE + 1)
    return Annotations(
        task=task,
        split=split,
        image_ids=image_ids,
        labels=labels,
        widths=_integers(images, "width", bounds=sides, name=f"images of {name}").astype(np.int32),
        heights=_integers(images, "height", bounds=sides, name=f"images of {name}").astype(np.int32),
        file_names=_file_names(images, task=task, name=name),
        category_ids=category_ids,
        category_names=category_names,
    )


def read_annotations(path: Path, *, task: str, split: Split) -> Annotations:
    """Read one annotation file from disk; see `parse_annotations`."""
    try:
        data = path.read_bytes()
    except OSError as fault:
        raise BadInput(f"cannot read {path}: {fault.strerror}") from None
    return parse_annotations(data, task=task, split=split, name=str(path))


def check_together(splits: Mapping[Split, Annotations]) -> None:
    """Check a task's splits against one another.

    Raises:
        BadInput: two splits declare different categories, or share an image id or a file.
    """
    found = [splits[split] for split in SPLITS if split in splits]
    for one in found[1:]:
        first = found[0]
        same_ids = np.array_equal(one.category_ids, first.category_ids)
        if not same_ids or one.category_names != first.category_names:
            raise BadInput(f"{one.task}: {one.split} and {first.split} declare different categories")
    joined = np.concatenate([one.image_ids for one in found])
    _refuse_twice(joined, what="image id", name=f"{found[0].task}'s splits together")
    names = [file_name for one in found for file_name in one.file_names]
    if len(set(names)) < len(names):
        raise BadInput(f"{found[0].task}: two splits list the same picture file")


def is_official(splits: Mapping[Split, Annotations]) -> bool:
    """Whether counts, id ranges and class names of all three splits agree with the official release."""
    if set(splits) != set(SPLITS):
        return False
    task = find_task(splits["train"].task)
    for split, count in zip(SPLITS, task.pictures, strict=True):
        first = task.first_image_id(split)
        if not np.array_equal(np.sort(splits[split].image_ids), np.arange(first, first + count)):
            return False
    train = splits["train"]
    names = hashlib.sha256("\n".join(train.category_names).encode()).hexdigest()
    expected = np.arange(task.classes) + task.category_ids.start
    return np.array_equal(train.category_ids, expected) and names == task.names_sha256


def folder_mismatches(train: Annotations) -> int:
    """The number of classes with a train picture in a folder whose number is not the category's place, from 1 on."""
    numbers = np.array([_folder_number(name) for name in train.file_names])
    differ = (numbers >= 0) & (numbers != train.labels + 1)
    return len(np.unique(train.labels[differ]))


def _folder_number(file_name: str) -> int:
    folder = file_name.rsplit("/", 2)[-2]
    return int(folder) if folder.isascii() and folder.isdigit() and len(folder) < 10 else -1


def _rows(document: dict[str, Any], key: str, *, name: str) -> list[Any]:
    rows = document.get(key)
    if not isinstance(rows, list) or not rows:
        raise BadInput(f"{name} must have a list {key!r} that is not empty")
    return rows


def _column(rows: Sequence[Any], key: str, kind: type, *, name: str) -> list[Any]:
    """The values under `key`; the type of each is exactly `kind`, so a bool is no int."""
    try:
        values = [row[key] for row in rows]
    except (KeyError, TypeError, IndexError):
        place = next(i for i, row in enumerate(rows) if not isinstance(row, dict) or key not in row)
        raise BadInput(f"{name}: entry {place} has no {key!r}") from None
    if set(map(type, values)) != {kind}:
        place = next(i for i, value in enumerate(values) if type(value) is not kind)
        raise BadInput(f"{name}: {key!r} of entry {place} must be {kind.__name__}, not {str(values[place])[:60]!r}")
    return values


def _integers(rows: Sequence[Any], key: str, *, bounds: range, name: str) -> NDArray[np.int64]:
    values = cast(list[int], _column(rows, key, int, name=name))
    if min(values) < bounds.start or max(values) >= bounds.stop:
        place = next(i for i, value in enumerate(values) if value not in bounds)
        limits = f"{bounds.start} to {bounds.stop - 1}"
        raise BadInput(f"{name}: {key!r} of entry {place} is {str(values[place])[:40]}, but must lie in {limits}")
    return np.array(values, dtype=np.int64)


def _refuse_twice(ids: NDArray[np.int64], *, what: str, name: str) -> None:
    ordered = np.sort(ids)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(twice):
        raise BadInput(f"{name}: {what} {twice[0]} is there twice")


def _categories(rows: Sequence[Any], *, task: Task, name: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    ids = _integers(rows, "id", bounds=task.category_ids, name=f"categories of {name}")
    _refuse_twice(ids, what="category id", name=name)
    names = cast(list[str], _column(rows, "name", str, name=f"categories of {name}"))
    if len(set(names)) < len(names):
        raise BadInput(f"{name}: two categories have one name")
    if not all(map(str.isprintable, names)):
        raise BadInput(f"{name}: the name of a category has characters that cannot be printed")
    order = np.argsort(ids)
    return ids[order], tuple(names[place] for place in order)


def _labels(
    rows: Sequence[Any],
    *,
    image_ids: NDArray[np.int64],
    category_ids: NDArray[np.int64],
    task: Task,
    name: str,
) -> NDArray[np.int32]:
    """The label of each picture; every picture must have exactly one annotation."""
    where = f"annotations of {name}"
    annotated = _integers(rows, "image_id", bounds=task.category_ids, name=where)
    categories = _integers(rows, "category_id", bounds=task.category_ids, name=where)
    _refuse_twice(annotated, what="the annotation of image", name=name)
    unknown = np.setdiff1d(annotated, image_ids)
    if len(unknown):
        raise BadInput(f"{name}: an annotation is of image {unknown[0]}, which the file does not list")
    missing = np.setdiff1d(image_ids, annotated)
    if len(missing):
        raise BadInput(f"{name}: image {missing[0]} has no annotation ({len(missing)} in all)")
    places = np.searchsorted(category_ids, categories).clip(max=len(category_ids) - 1)
    strange = categories[category_ids[places] != categories]
    if len(strange):
        raise BadInput(f"{name}: an annotation has category {strange[0]}, which the file does not declare")
    order = np.argsort(annotated)
    return places[order[np.searchsorted(annotated[order], image_ids)]].astype(np.int32)


def _file_names(rows: Sequence[Any], *, task: str, name: str) -> tuple[str, ...]:
    names = cast(list[str], _column(rows, "file_name", str, name=f"images of {name}"))
    plain = re.compile(rf"data/{re.escape(task)}(?:/(?!\.{{1,2}}(?:/|\Z))[^/\\\x00-\x1f\ud800-\udfff]+)+")
    for file_name in names:
        if plain.fullmatch(file_name) is None:
            raise BadInput(f"{name}: file name {file_name[:80]!r} must be a plain path below data/{task}/")
    if len(set(names)) < len(names):
        raise BadInput(f"{name}: two images name the same file")
    return tuple(names)
