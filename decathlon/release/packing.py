"""Packing in progress: decode pictures in threads, write each at its place, note what is done."""

import io
import os
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from decathlon.release.annotations import Annotations
from decathlon.release.packed import INDEX, VERSION, index_file, pixel_file
from decathlon.tasks import SPLITS, Split
from piggyback.data.picture_formats import FORMATS, UNREADABLE
from piggyback.data.writers import Writers, load_done, open_sized, refuse_full_disk, save_done, write_at
from piggyback.shell.errors import BadInput
from piggyback.shell.files import atomic_file, write_json
from piggyback.shell.lock import hold
from piggyback.shell.strict_json import read_json

NOTED_EVERY: Final = 2000
"""Pictures between two notes of progress: what a kill loses."""


@dataclass(frozen=True)
class Fault:
    """Why a picture that was found cannot be used."""

    split: Split
    text: str


@dataclass(frozen=True)
class Place:
    """Where one picture belongs."""

    split: Split
    number: int
    offset: int
    height: int
    width: int


class Packing:
    """The packed files of one task while they are being made, in ``<folder>/.partial``.

    A context manager.  Leaving it by an exception, an interrupt among them, notes what is done so that the
    next one continues; a kill loses at most the last `NOTED_EVERY` pictures.

    Args:
        folder: the task's, made where it is missing.
        splits: what is to be packed.
        digests: of the annotation files; progress made with other ones is thrown away.

    Attributes:
        done: pictures packed so far, those of earlier runs included.
        faults: file name to fault, of pictures found and not usable.

    Raises:
        BadInput: the disk has not enough room, or another process packs this task.
    """

    def __init__(self, folder: Path, *, splits: Mapping[Split, Annotations], digests: Mapping[Split, str]) -> None:
        self.folder, self.splits, self.digests = folder, splits, digests
        self.partial = folder / ".partial"
        self.faults: dict[str, Fault] = {}
        self._indices = {split: build_index(splits[split]) for split in SPLITS}
        self._names = {
            name: (split, number) for split in SPLITS for number, name in enumerate(splits[split].file_names)
        }
        self._files: dict[Split, int] = {}
        self._done: dict[Split, NDArray[np.bool_]] = {}
        self._writers = Writers(self._settle)
        self._since_note = 0
        self._held = ExitStack()
        self.done = 0

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._held.enter_context(hold(self.folder, work="packing into"))
        try:
            self._open()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._writers.close()
            if self._files:
                self.note()
        finally:
            self._close()

    def wanted(self, split: Split | None = None) -> list[str]:
        """File names of the pictures that are not packed yet."""
        chosen = SPLITS if split is None else (split,)
        return [self.splits[one].file_names[number] for one in chosen for number in np.flatnonzero(~self._done[one])]

    def add(self, name: str, data: bytes) -> None:
        """Decode one picture and write its pixels, in the background; bounded in what it holds."""
        split, number = self._names[name]
        _, _, offset, height, width = self._indices[split][number].tolist()
        place = Place(split, number, offset, height, width)
        self._writers.add((name, place), partial(write_picture, self._files[split], place, data))
        if self._since_note >= NOTED_EVERY:
            self.note()

    def drain(self) -> None:
        """Wait for every picture added."""
        self._writers.drain()

    def note(self) -> None:
        """Put pixels on the disk, then the list of those that are there, in this order."""
        for split, file in self._files.items():
            os.fsync(file)
            save_done(self.partial / f"{split}.done.npy", self._done[split])
        self._since_note = 0

    def finish(self) -> None:
        """Move everything to its final place; the manifest, which makes the task finished, is the caller's."""
        for split in SPLITS:
            os.fsync(self._files[split])
            with atomic_file(index_file(self.folder, split)) as index:
                np.save(index, self._indices[split], allow_pickle=False)
            pixel_file(self.partial, split).replace(pixel_file(self.folder, split))
        self._close_files()
        shutil.rmtree(self.partial)

    def _settle(self, key: tuple[str, Place], text: str | None) -> None:
        name, place = key
        if text is not None:
            self.faults[name] = Fault(place.split, text)
            return
        self._done[place.split][place.number] = True
        self.done += 1
        self._since_note += 1

    def _open(self) -> None:
        """Open the packed files at their full size, and take over what an earlier run has done."""
        state: dict[str, Any] = {"version": VERSION, "annotations": dict(self.digests)}
        path = self.partial / "state.json"
        try:
            continues = path.is_file() and read_json(path) == state
        except BadInput:
            continues = False
        if not continues and self.partial.exists():
            shutil.rmtree(self.partial)
        self.partial.mkdir(parents=True, exist_ok=True)
        sizes = {split: _bytes(self._indices[split]) for split in SPLITS}
        refuse_full_disk(self.partial, size=sum(sizes.values()))
        for split in SPLITS:
            self._done[split] = self._earlier(split, size=sizes[split])
            self._files[split] = open_sized(pixel_file(self.partial, split), size=sizes[split])
        self.done = int(sum(done.sum() for done in self._done.values()))
        write_json(path, state)

    def _earlier(self, split: Split, *, size: int) -> NDArray[np.bool_]:
        """Which pictures an earlier run has packed; none where its files do not fit."""
        shape = (len(self.splits[split]),)
        pixels = pixel_file(self.partial, split)
        if not pixels.is_file() or pixels.stat().st_size != size:
            return np.zeros(shape, dtype=np.bool_)
        return load_done(self.partial / f"{split}.done.npy", shape=shape)

    def _close_files(self) -> None:
        for file in self._files.values():
            os.close(file)
        self._files = {}

    def _close(self) -> None:
        self._close_files()
        self._held.close()


def build_index(annotations: Annotations) -> NDArray[np.void]:
    """One record of `INDEX` per picture, in the order of the annotations."""
    index = np.zeros(len(annotations), dtype=INDEX)
    index["image_id"] = annotations.image_ids
    index["label"] = annotations.labels
    index["height"], index["width"] = annotations.heights, annotations.widths
    sizes = index["height"].astype(np.int64) * index["width"] * 3
    index["offset"] = np.cumsum(sizes) - sizes
    return index


def decode(data: bytes, *, height: int, width: int) -> bytes | str:
    """RGB bytes of a picture of that size, or in words why there are none.

    The size is compared before anything is decoded, so a picture cannot claim more memory than expected.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            if picture.size != (width, height):
                return f"is {picture.width} x {picture.height}, the annotations say {width} x {height}"
            return picture.convert("RGB").tobytes()
    except UnidentifiedImageError:
        return "is no JPEG or PNG picture"
    except UNREADABLE as fault:
        return f"cannot be decoded: {fault}"


def write_picture(file: int, place: Place, data: bytes) -> str | None:
    """Decode a picture and write it at its offset; the fault in words, or None."""
    pixels = decode(data, height=place.height, width=place.width)
    if isinstance(pixels, str):
        return pixels
    write_at(file, pixels, offset=place.offset)
    return None


def _bytes(index: NDArray[np.void]) -> int:
    return int((index["height"].astype(np.int64) * index["width"] * 3).sum())
