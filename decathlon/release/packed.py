"""Packed splits: what `prepare` leaves behind, opened as memory maps.

<root>/<task>/task.json             written last: a task with it is finished
<root>/<task>/<split>.u8            decoded RGB pixels, one picture after the other, rows of (w, 3) bytes
<root>/<task>/<split>.index.npy     one record of `INDEX` per picture, in the order of the annotations
<root>/<task>/<split>.whole64.u8    every picture resized to 64 x 64, made on first use
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from decathlon.tasks import SPLITS, Split
from piggyback.shell.console import notice, progress_bar
from piggyback.shell.errors import BadInput
from piggyback.shell.files import atomic_file, write_json
from piggyback.shell.strict_json import read_json

VERSION: Final = 1
INDEX: Final = np.dtype([("image_id", "<i8"), ("label", "<i4"), ("offset", "<i8"), ("height", "<i4"), ("width", "<i4")])
RESIZED_AT_ONCE: Final = 512


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What ``task.json`` says.

    Attributes:
        task: name.
        category_ids, category_names: in the order of the labels.
        counts: pictures of each split.
        official: counts, id ranges and class names are those of the official release.
        folder_mismatches: classes whose folder number is not the category's place.
        fingerprint: hex sha256 over index and pixels of train, val and test.
        annotations: hex sha256 of each split's annotation file.
        source: where the pictures were read from.
        refused: what was left out of that place, such as links.
    """

    task: str
    category_ids: tuple[int, ...]
    category_names: tuple[str, ...]
    counts: dict[str, int]
    official: bool
    folder_mismatches: int
    fingerprint: str
    annotations: dict[str, str]
    source: str
    refused: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """The pixels of one packed file: `pixels` is uint8 (bytes), `count` pictures from place `first` on."""

    folder: Path
    split: Split
    pixels: NDArray[np.uint8]
    first: int
    count: int


@dataclass(frozen=True, kw_only=True)
class PackedSplit:
    """n pictures with their labels; pixels stay on disk until looked at.

    Attributes:
        task: name.
        split: train, val, test, or several joined: ``train+val``.
        index: n records of `INDEX`; an offset counts within the picture's own part.
        parts: the packed files; one, or two after `join`.
        category_ids: int64 (classes), in the order of the labels.
        official: the task is the official release's.
        fingerprint: hex sha256 over the task's packed data, all splits.
    """

    task: str
    split: str
    index: NDArray[np.void]
    parts: tuple[Part, ...]
    category_ids: NDArray[np.int64]
    official: bool
    fingerprint: str

    def __len__(self) -> int:
        return len(self.index)

    @property
    def classes(self) -> int:
        """How many categories the task has."""
        return len(self.category_ids)

    @property
    def image_ids(self) -> NDArray[np.int64]:
        """The pictures' ids, int64 (n)."""
        return self.index["image_id"].astype(np.int64)

    @property
    def labels(self) -> NDArray[np.int64]:
        """Places in `category_ids`, int64 (n); -1 throughout test."""
        return self.index["label"].astype(np.int64)

    @property
    def heights(self) -> NDArray[np.int64]:
        """Rows of each picture, int64 (n)."""
        return self.index["height"].astype(np.int64)

    @property
    def widths(self) -> NDArray[np.int64]:
        """Columns of each picture, int64 (n)."""
        return self.index["width"].astype(np.int64)

    def picture(self, place: int) -> NDArray[np.uint8]:
        """One picture, uint8 (height, width, 3), RGB, read-only, not copied.

        Raises:
            IndexError: there is no such picture.
        """
        _, _, offset, height, width = self.index[place].tolist()
        part = next(part for part in reversed(self.parts) if part.first <= place % len(self))
        return part.pixels[offset : offset + height * width * 3].reshape(height, width, 3)


def task_folder(root: Path, task: str) -> Path:
    """Where a task's packed files are."""
    return root / task


def pixel_file(folder: Path, split: Split) -> Path:
    """The packed pixels of a split."""
    return folder / f"{split}.u8"


def index_file(folder: Path, split: Split) -> Path:
    """The index of a split."""
    return folder / f"{split}.index.npy"


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Write ``task.json``, which makes the task finished."""
    value = {"version": VERSION, **vars(manifest)}
    write_json(task_folder(root, manifest.task) / "task.json", value)


def read_manifest(root: Path, task: str) -> Manifest | None:
    """What ``task.json`` says, or None where the task is not finished.

    Raises:
        BadInput: the file is damaged or of another version.
    """
    path = task_folder(root, task) / "task.json"
    if not path.is_file():
        return None
    value = read_json(path)
    advice = f"delete {path.parent} and run `piggyback decathlon prepare` again"
    if not isinstance(value, dict) or value.get("version") != VERSION or value.get("task") != task:
        raise BadInput(f"{path} is not a version {VERSION} description of {task}: {advice}")
    try:
        fields = cast(dict[str, Any], value)
        return Manifest(
            task=task,
            category_ids=tuple(int(number) for number in fields["category_ids"]),
            category_names=tuple(str(name) for name in fields["category_names"]),
            counts={split: int(fields["counts"][split]) for split in SPLITS},
            official=bool(fields["official"]),
            folder_mismatches=int(fields["folder_mismatches"]),
            fingerprint=str(fields["fingerprint"]),
            annotations={split: str(fields["annotations"][split]) for split in SPLITS},
            source=str(fields["source"]),
            refused=tuple(str(line) for line in fields["refused"]),
        )
    except (KeyError, TypeError, ValueError) as fault:
        raise BadInput(f"{path} is damaged ({fault!r}): {advice}") from None


def open_split(root: Path, task: str, split: Split) -> PackedSplit:
    """Open a split that `prepare` has packed.

    Raises:
        BadInput: it is not there, or its files disagree; the message has the command that makes it.
    """
    manifest = read_manifest(root, task)
    folder = task_folder(root, task)
    if manifest is None:
        command = f"piggyback decathlon prepare --source FOLDER --out {root} --tasks {task}"
        raise BadInput(f"{task} is not packed in {root}: there is no {folder / 'task.json'}. Run `{command}`")
    fault = find_fault(folder, split, count=manifest.counts[split], classes=len(manifest.category_ids))
    if fault is not None:
        command = f"piggyback decathlon prepare --source FOLDER --out {root} --tasks {task}"
        raise BadInput(f"{fault}. Run `{command}` to pack it again")
    index = np.load(index_file(folder, split), allow_pickle=False)
    pixels = _map(pixel_file(folder, split))
    return PackedSplit(
        task=task,
        split=split,
        index=index,
        parts=(Part(folder, split, pixels, 0, len(index)),),
        category_ids=np.array(manifest.category_ids, dtype=np.int64),
        official=manifest.official,
        fingerprint=manifest.fingerprint,
    )


def find_fault(folder: Path, split: Split, *, count: int, classes: int) -> str | None:
    """What is wrong with a split's files, in words, or None; contents of the pixels are not read."""
    path = index_file(folder, split)
    try:
        index = np.load(path, allow_pickle=False)
        size = pixel_file(folder, split).stat().st_size
    except (OSError, ValueError, EOFError) as fault:
        return f"cannot read {path} and its pixels ({fault})"
    if index.dtype != INDEX or index.shape != (count,) or count == 0:
        return f"{path} is not an index of {count} pictures"
    sizes = index["height"].astype(np.int64) * index["width"] * 3
    starts = np.cumsum(sizes) - sizes
    if sizes.min() <= 0 or not np.array_equal(starts, index["offset"]):
        return f"{path} has offsets that do not follow from the sizes"
    if index["label"].min() < -1 or index["label"].max() >= classes:
        return f"{path} has a label that is no place among {classes} categories"
    if size != sizes.sum():
        return f"{pixel_file(folder, split)} has {size:,} bytes, not the {sizes.sum():,} of its index"
    return None


def join(first: PackedSplit, second: PackedSplit) -> PackedSplit:
    """The pictures of both, one after the other, as for training on train+val.

    Raises:
        ValueError: they are of different tasks or different packs.
    """
    if (first.task, first.fingerprint) != (second.task, second.fingerprint):
        raise ValueError(f"cannot join {first.task} {first.split} with {second.task} {second.split}: not one pack")
    moved = tuple(replace(part, first=part.first + len(first)) for part in second.parts)
    return replace(
        first,
        split=f"{first.split}+{second.split}",
        index=np.concatenate([first.index, second.index]),
        parts=first.parts + moved,
    )


def whole(split: PackedSplit, *, size: int) -> PackedSplit:
    """Every picture of a split squeezed to `size` x `size`: all of it is seen, its aspect is not kept.

    Bilinear with antialiasing, as Pillow resizes.  The result is kept beside the pack and found there the
    next time; where that folder cannot be written it is held in memory.
    """
    index = split.index.copy()
    index["height"] = index["width"] = size
    parts = []
    for part in split.parts:
        index["offset"][part.first : part.first + part.count] = np.arange(part.count) * size * size * 3
        parts.append(replace(part, pixels=_whole_pixels(split, part, size=size)))
    return replace(split, index=index, parts=tuple(parts))


def _whole_pixels(split: PackedSplit, part: Part, *, size: int) -> NDArray[np.uint8]:
    path = part.folder / f"{part.split}.whole{size}.u8"
    if not path.is_file() or path.stat().st_size != part.count * size * size * 3:
        pieces = _resized(split, part, size=size)
        if not os.access(part.folder, os.W_OK):
            notice(f"{part.folder} cannot be written: {part.split} of {split.task} at {size} px is kept in memory")
            return np.concatenate([piece.reshape(-1) for piece in pieces])
        with atomic_file(path) as file:
            for piece in pieces:
                file.write(piece.tobytes())
    return _map(path)


def _resized(split: PackedSplit, part: Part, *, size: int) -> Iterator[NDArray[np.uint8]]:
    """Pieces of uint8 (m, size, size, 3), in the order of the part."""

    def resize(place: int) -> NDArray[np.uint8]:
        picture = Image.fromarray(split.picture(place))
        return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR))

    with progress_bar() as bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        shown = bar.add_task(f"{split.task} {part.split} at {size} px", total=part.count)
        for start in range(part.first, part.first + part.count, RESIZED_AT_ONCE):
            stop = min(start + RESIZED_AT_ONCE, part.first + part.count)
            yield np.stack(list(pool.map(resize, range(start, stop))))
            bar.advance(shown, stop - start)


def _map(path: Path) -> NDArray[np.uint8]:
    # The base-class view: slicing np.memmap itself costs microseconds per picture.
    return np.asarray(np.memmap(path, dtype=np.uint8, mode="r")).view(np.ndarray)
