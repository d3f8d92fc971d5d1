"""Packing in progress: decode pictures and label maps in threads, write each at its place, note what is done."""

import io
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from piggyback.data.picture_formats import FORMATS, UNREADABLE
from piggyback.data.writers import Writers, load_done, open_sized, refuse_full_disk, save_done, write_at
from piggyback.shell.errors import BadInput, one_line
from piggyback.shell.files import atomic_file, write_json
from piggyback.shell.strict_json import read_json
from segmentation.release.label_files import read_label_map
from segmentation.release.mat_files import read_mat
from segmentation.release.packed import INDEX, VERSION, build_index, index_file, label_file, picture_file
from segmentation.release.sources import Found, Key, Kind

MODES: Final = ("RGB", "L")  # Pillow cuts 16-bit values and inverts some CMYK when it converts them
LARGEST_SIDE: Final = 1 << 13
"""Rows or columns of one picture; VOC's have at most 500."""

NOTED_EVERY: Final = 1000
"""Files between two notes of progress: what a kill loses."""

Size = tuple[int, int]
"""Height and width."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be packed.

    Attributes:
        folder: the split's.
        ids: of its pictures.
        labelled: label maps belong to it.
        sizes: height and width of each picture; one that is missing or unreadable is not in it, and then
            everything else is only checked and nothing is written.
    """

    folder: Path
    ids: tuple[str, ...]
    labelled: bool
    sizes: Mapping[str, Size]

    @property
    def complete(self) -> bool:
        """Whether every picture has a size."""
        return len(self.sizes) == len(self.ids)


class Packing:
    """The packed files of one split while they are being made, in ``<folder>/.partial``.

    A context manager.  Leaving it by an exception, an interrupt among them, notes what is done so that the next
    one continues; a kill loses at most the last `NOTED_EVERY` files.

    Args:
        plan: what is to be packed.

    Attributes:
        done: files packed or checked so far, those of earlier runs included.
        faults: of files found and not usable, in words that name the file.

    Raises:
        BadInput: the disk has not enough room.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.partial = partial_folder(plan.folder)
        self.faults: dict[Key, str] = {}
        self.done = 0
        self._kinds = kinds(labelled=plan.labelled)
        self._numbers = {one: number for number, one in enumerate(plan.ids)}
        self._done = np.zeros((len(plan.ids), len(self._kinds)), dtype=np.bool_)
        self._index = np.zeros(0, dtype=INDEX)
        self._files: dict[Kind, int] = {}
        self._writers = Writers(self._settle)
        self._since_note = 0

    def __enter__(self) -> Self:
        if self.plan.complete:
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
            self.note()
        finally:
            self._close()

    def wanted(self) -> list[Key]:
        """Files that are neither packed nor checked yet, picture and label map in turn."""
        keys = ((number, column) for number, column in np.argwhere(~self._done).tolist())
        return [(self._kinds[column], self.plan.ids[number]) for number, column in keys]

    def add(self, found: Found) -> None:
        """Decode one file and write its pixels, in the background; bounded in what it holds."""
        self._writers.add(found.key, partial(self._store, found))
        if self._since_note >= NOTED_EVERY:
            self.note()

    def drain(self) -> None:
        """Wait for every file added."""
        self._writers.drain()

    def note(self) -> None:
        """Put pixels on the disk, then the list of those that are there, in this order."""
        for file in self._files.values():
            os.fsync(file)
        if self._files:
            save_done(self.partial / "done.npy", self._done)
        self._since_note = 0

    def _store(self, found: Found) -> str | None:
        """Decode a file, compare its size with the picture's, write it; the fault in words, or None."""
        kind, one = found.key
        try:
            pixels = decode(found)
        except BadInput as fault:
            return str(fault)
        size = self.plan.sizes.get(one)
        height, width = pixels.shape[:2]
        if size is not None and size != (height, width):
            return f"{found.name} is {width} x {height}, its picture {size[1]} x {size[0]}"
        if kind in self._files:
            offset = int(self._index["offset"][self._numbers[one]])
            write_at(self._files[kind], pixels.tobytes(), offset=offset * (3 if kind == "picture" else 1))
        return None

    def _settle(self, key: Key, text: str | None) -> None:
        kind, one = key
        if text is not None:
            self.faults[kind, one] = text
        self._done[self._numbers[one], self._kinds.index(kind)] = text is None
        self.done += 1
        self._since_note += 1

    def _open(self) -> None:
        """Open the packed files at their full size, and take over what an earlier run has done."""
        sizes = np.array([self.plan.sizes[one] for one in self.plan.ids], dtype=np.int64)
        self._index = build_index(sizes[:, 0], sizes[:, 1])
        pixels = int(sizes.prod(axis=1).sum())
        self.partial.mkdir(parents=True, exist_ok=True)
        refuse_full_disk(self.partial, size=pixels * (4 if self.plan.labelled else 3))
        self._done = self._earlier(pixels)
        self.done = int(self._done.sum())
        for kind in self._kinds:
            size = pixels * (3 if kind == "picture" else 1)
            self._files[kind] = open_sized(_file(self.partial, kind), size=size)
        with atomic_file(index_file(self.partial)) as file:
            np.save(file, self._index, allow_pickle=False)

    def _earlier(self, pixels: int) -> NDArray[np.bool_]:
        """Which files an earlier run has packed; none where its files do not fit."""
        try:
            same = np.array_equal(np.load(index_file(self.partial), allow_pickle=False), self._index)
            sizes = [_file(self.partial, kind).stat().st_size for kind in self._kinds]
        except (OSError, ValueError, EOFError):
            same, sizes = False, []
        if not same or sizes != [pixels * (3 if kind == "picture" else 1) for kind in self._kinds]:
            return np.zeros_like(self._done)
        return load_done(self.partial / "done.npy", shape=self._done.shape)

    def _close(self) -> None:
        for file in self._files.values():
            os.close(file)
        self._files = {}


def kinds(*, labelled: bool) -> tuple[Kind, ...]:
    """What belongs to a picture of a split."""
    return ("picture", "labels") if labelled else ("picture",)


def partial_folder(folder: Path) -> Path:
    """Where a split is packed before it is finished."""
    return folder / ".partial"


def continues(folder: Path, *, state: object) -> bool:
    """Whether an earlier run was stopped while packing the same; what it left of anything else is deleted.

    Args:
        folder: the split's.
        state: JSON that says what is packed: its ids, for one.
    """
    begun = partial_folder(folder)
    path = begun / "state.json"
    state = {"version": VERSION, "packs": state}
    try:
        same = path.is_file() and read_json(path) == state
    except BadInput:
        same = False
    if not same:
        if begun.exists():
            shutil.rmtree(begun)
        write_json(path, state)
    return same


def measured(folder: Path, *, ids: tuple[str, ...]) -> dict[str, Size]:
    """The sizes that an earlier run noted for these ids; nothing where it did not come to that."""
    try:
        index = np.load(index_file(partial_folder(folder)), allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return {}
    if index.dtype != INDEX or index.shape != (len(ids),):
        return {}
    return dict(zip(ids, zip(index["height"].tolist(), index["width"].tolist(), strict=True), strict=True))


def measure(pictures: Iterable[Found], *, faults: dict[Key, str]) -> Iterator[tuple[str, Size]]:
    """Height and width of each picture by its header alone; one without goes to `faults`, in words."""
    for found in pictures:
        try:
            with _opened(found) as picture:
                size = picture.height, picture.width
        except BadInput as fault:
            faults[found.key] = str(fault)
            continue
        yield found.key[1], size


def decode(found: Found) -> NDArray[np.uint8]:
    """A picture, uint8 (h, w, 3), RGB; or a label map, uint8 (h, w), of 0..20 and 255.

    Raises:
        BadInput: it is none, or damaged; the message names the file.
    """
    if found.key[0] == "picture":
        with _opened(found) as picture:
            return np.asarray(picture.convert("RGB"))
    read = read_mat if found.suffix == ".mat" else read_label_map
    return read(found.data, name=found.name)


@contextmanager
def _opened(found: Found) -> Iterator[Image.Image]:
    """The picture with its size checked; nothing is decoded before the block asks for it."""
    try:
        with Image.open(io.BytesIO(found.data), formats=FORMATS) as picture:
            if picture.mode not in MODES:
                raise BadInput(f"{found.name} is a picture of mode {picture.mode}; 8-bit RGB or grey is expected")
            if max(picture.size) > LARGEST_SIDE:
                raise BadInput(f"{found.name} claims {picture.width:,} x {picture.height:,} pixels, too many")
            yield picture
    except UnidentifiedImageError:
        raise BadInput(f"{found.name} is no JPEG or PNG picture") from None
    except UNREADABLE as fault:
        raise BadInput(f"{found.name} cannot be decoded ({one_line(fault)})") from None


def _file(folder: Path, kind: Kind) -> Path:
    return picture_file(folder) if kind == "picture" else label_file(folder)
