"""Packed pictures with one label each: the splits of a classification task, opened as memory maps.

<folder>/<split>.u8            decoded RGB pixels, one picture after the other, rows of (w, 3) bytes
<folder>/<split>.index.npy     one record of `INDEX` per picture
<folder>/<split>.whole64.u8    every picture resized to 64 x 64, made on first use
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from piggyback.data.packed import PackedPictures, map_bytes, open_index, set_offsets
from piggyback.shell.console import notice, progress_bar
from piggyback.shell.errors import BadInput, one_line
from piggyback.shell.files import atomic_file

INDEX: Final = np.dtype([("image_id", "<i8"), ("label", "<i4"), ("offset", "<i8"), ("height", "<i4"), ("width", "<i4")])
"""Of a picture: its id, its label (-1 where that is not public), where its bytes begin, and its size."""

CHANNELS: Final = 3
RESIZED_AT_ONCE: Final = 512


@dataclass(frozen=True)
class Part:
    """Pixels of one packed file: `pixels` is uint8 (bytes), with `count` pictures from position `first` on."""

    folder: Path
    split: str
    pixels: NDArray[np.uint8]
    first: int
    count: int


@dataclass(frozen=True, kw_only=True)
class PackedSplit(PackedPictures):
    """n pictures with their labels; pixels stay on disk until they are read.

    Attributes:
        split: train, val, test, or several joined: ``train+val``.
        index: n records of `INDEX`; offsets count within each picture's part.
        parts: the packed files; one, or two after `join`.
        category_ids: int64 (classes), in the order of the labels.
        fingerprint: hex sha256 over the task's packed data, all splits.
    """

    task: str
    split: str
    parts: tuple[Part, ...]
    category_ids: NDArray[np.int64]

    @property
    def classes(self) -> int:
        return len(self.category_ids)

    @property
    def image_ids(self) -> NDArray[np.int64]:
        """Int64 (n)."""
        return self.index["image_id"].astype(np.int64)

    @property
    def labels(self) -> NDArray[np.int64]:
        """Positions in `category_ids`, int64 (n); -1 where labels are not public."""
        return self.index["label"].astype(np.int64)

    def picture(self, place: int) -> NDArray[np.uint8]:
        """One picture, uint8 (height, width, 3), RGB; a read-only view, not a copy.

        Raises:
            IndexError: there is no such picture.
        """
        _, _, offset, height, width = self.index[place].tolist()
        part = next(part for part in reversed(self.parts) if part.first <= place % len(self))
        return part.pixels[offset : offset + height * width * CHANNELS].reshape(height, width, CHANNELS)


def pixel_file(folder: Path, split: str) -> Path:
    return folder / f"{split}.u8"


def index_file(folder: Path, split: str) -> Path:
    return folder / f"{split}.index.npy"


def build_index(
    *,
    image_ids: NDArray[np.int64],
    labels: NDArray[np.int32],
    heights: NDArray[np.int32],
    widths: NDArray[np.int32],
) -> NDArray[np.void]:
    """n records of `INDEX` for consecutive pictures; every argument has n numbers."""
    index = np.zeros(len(image_ids), dtype=INDEX)
    index["image_id"], index["label"] = image_ids, labels
    index["height"], index["width"] = heights, widths
    set_offsets(index, step=CHANNELS)
    return index


def open_labelled_index(folder: Path, split: str, *, count: int, classes: int) -> NDArray[np.void]:
    """Open a split's index and compare it with its pixels.

    Raises:
        BadInput: they do not match; the message names the first fault.
    """
    path = index_file(folder, split)
    files = {pixel_file(folder, split): CHANNELS}
    index = open_index(path, kind=INDEX, count=count, step=CHANNELS, files=files)
    if index["label"].min() < -1 or index["label"].max() >= classes:
        raise BadInput(f"{one_line(path)} has a label that is not one of its {classes} categories")
    return index


def open_part(folder: Path, split: str, *, count: int) -> Part:
    """Map the pixels of a split's `count` pictures."""
    return Part(folder, split, map_bytes(pixel_file(folder, split)), 0, count)


def join(first: PackedSplit, second: PackedSplit) -> PackedSplit:
    """The pictures of both, one after the other, as for training on train+val.

    Raises:
        ValueError: they belong to different tasks or packs.
    """
    if (first.task, first.fingerprint) != (second.task, second.fingerprint):
        names = f"{first.task} {first.split} with {second.task} {second.split}"
        raise ValueError(f"cannot join {names}: they are from different packs")
    moved = tuple(replace(part, first=part.first + len(first)) for part in second.parts)
    return replace(
        first,
        split=f"{first.split}+{second.split}",
        index=np.concatenate([first.index, second.index]),
        parts=first.parts + moved,
    )


def whole(split: PackedSplit, *, size: int) -> PackedSplit:
    """Every picture of a split resized to `size` x `size`, uncropped, so that its aspect ratio is lost.

    Bilinear with antialiasing, as Pillow resizes.  The result is stored beside the pack and found there the
    next time; if that folder cannot be written, it is kept in memory.
    """
    index = split.index.copy()
    index["height"] = index["width"] = size
    parts = []
    for part in split.parts:
        index["offset"][part.first : part.first + part.count] = np.arange(part.count) * size * size * CHANNELS
        parts.append(replace(part, pixels=_whole_pixels(split, part, size=size)))
    return replace(split, index=index, parts=tuple(parts))


def _whole_pixels(split: PackedSplit, part: Part, *, size: int) -> NDArray[np.uint8]:
    path = part.folder / f"{part.split}.whole{size}.u8"
    if not path.is_file() or path.stat().st_size != part.count * size * size * CHANNELS:
        pieces = _resized(split, part, size=size)
        if not os.access(part.folder, os.W_OK):
            notice(f"{part.folder} cannot be written: {part.split} of {split.task} at {size} px is kept in memory")
            return np.concatenate([piece.reshape(-1) for piece in pieces])
        with atomic_file(path) as file:
            for piece in pieces:
                file.write(piece.tobytes())
    return map_bytes(path)


def _resized(split: PackedSplit, part: Part, *, size: int) -> Iterator[NDArray[np.uint8]]:
    """Pieces of uint8 (m, size, size, 3), in the part's order."""

    def resize(place: int) -> NDArray[np.uint8]:
        picture = Image.fromarray(split.picture(place))
        return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR))

    with progress_bar() as bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        shown = bar.add_task(f"{split.task} {part.split} at {size} px", total=part.count)
        for start in range(part.first, part.first + part.count, RESIZED_AT_ONCE):
            stop = min(start + RESIZED_AT_ONCE, part.first + part.count)
            yield np.stack(list(pool.map(resize, range(start, stop))))
            bar.advance(shown, stop - start)
