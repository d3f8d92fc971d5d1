"""Packing in progress: pieces decoded in threads and written at their places; what is done is noted for the next run.

A piece is one picture, or one label map.  Packed files hold them one after the other, so each place is known before
any is decoded.  All work happens in ``<folder>/.partial``, from where finished files are moved.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from piggyback.data.writers import Writers
from piggyback.shell.arrays import Form, read_array
from piggyback.shell.console import progress_bar
from piggyback.shell.errors import BadInput, Fault, one_line
from piggyback.shell.files import atomic_file, write_json
from piggyback.shell.strict_json import read_json

VERSION: Final = 2
"""Of what is left in a folder of unfinished work; that of another version is begun again."""

NOTED_EVERY: Final = 1000
"""Pieces between two notes of progress: what a kill loses."""

K = TypeVar("K", bound=str)  # which of the packed files: a split, a kind of picture

Decode = Callable[[], NDArray[np.uint8]]
"""Gives the bytes of a piece, or raises BadInput, whose message names the file that they were to come from."""


@dataclass(frozen=True, eq=False)
class PlannedFile:
    """A packed file to be made: its name, and the bytes of each of its pieces, int64 (n)."""

    name: str
    lengths: NDArray[np.int64]

    @property
    def size(self) -> int:
        return int(self.lengths.sum())


class Packing(Generic[K]):
    """Packed files while they are being made.

    A context manager.  Leaving it by an exception, including an interrupt, notes what is done so that the next run
    continues; a kill loses at most the last `NOTED_EVERY` pieces.

    Args:
        folder: that the files belong to; only one process may pack into it.
        files: files to make; a piece is identified by the key of its file and its position there.
        state: JSON that says what is packed; unfinished work with another state is deleted.
        writes: False to decode and check only.

    Attributes:
        faults: of pieces that were found and cannot be used.

    Raises:
        BadInput: the disk has too little room.
    """

    def __init__(self, folder: Path, *, files: Mapping[K, PlannedFile], state: object, writes: bool = True) -> None:
        self.folder, self.files, self.state, self.writes = folder, files, state, writes
        self.faults: dict[tuple[K, int], str] = {}
        self._offsets = {key: np.cumsum(file.lengths) - file.lengths for key, file in files.items()}
        self._done = {key: np.zeros(len(file.lengths), dtype=np.bool_) for key, file in files.items()}
        self._open_files: dict[K, int] = {}
        self._held = ExitStack()
        self._writers = Writers(self._settle)
        self._since_note = 0

    def __enter__(self) -> Self:
        try:
            if self.writes:
                self._open()
        except BaseException:
            self._held.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._held:
            self._writers.close()
            self.note()

    @property
    def done(self) -> int:
        """Number of pieces packed or checked so far, including those of earlier runs."""
        return int(sum(done.sum() for done in self._done.values()))

    def wanted(self) -> list[tuple[K, int]]:
        """The pieces that are neither packed nor known to be faulty, in order."""
        left = [(key, place) for key, done in self._done.items() for place in np.flatnonzero(~done).tolist()]
        return [piece for piece in left if piece not in self.faults]

    def fill(self, pieces: Iterable[tuple[tuple[K, int], Decode]], *, title: str) -> None:
        """Pack pieces in the background, a bounded number at a time, and wait for the last."""
        with progress_bar() as bar:
            shown = bar.add_task(title, total=sum(map(len, self._done.values())), completed=self.done)
            for piece, decode in pieces:
                self.add(piece, decode)
                bar.advance(shown)
            self._writers.drain()

    def add(self, piece: tuple[K, int], decode: Decode) -> None:
        """Decode and write one piece, in the background."""
        self._writers.add(piece, partial(self._store, piece, decode))
        if self._since_note >= NOTED_EVERY:
            self.note()

    def note(self) -> None:
        """Flush packed data to the disk, then the list of what is packed, in this order."""
        for key, file in self._open_files.items():
            os.fsync(file)
            with atomic_file(self._done_file(key)) as noted:
                np.save(noted, self._done[key], allow_pickle=False)
        self._since_note = 0

    def path(self, key: K) -> Path:
        """Path of a packed file before `finish`."""
        return partial_folder(self.folder) / self.files[key].name

    def finish(self, indices: Mapping[str, NDArray[np.void]]) -> None:
        """Move the files to their places, and write indices, by name, beside them; the caller writes the manifest."""
        self.note()
        self._held.close()
        for name, index in indices.items():
            with atomic_file(self.folder / name) as file:
                np.save(file, index, allow_pickle=False)
        for key, planned in self.files.items():
            self.path(key).replace(self.folder / planned.name)
        shutil.rmtree(partial_folder(self.folder))

    def _store(self, piece: tuple[K, int], decode: Decode) -> str | None:
        """Write a piece; returns its fault, or None."""
        key, place = piece
        try:
            data = decode()
        except BadInput as fault:
            return str(fault)
        if self.writes:
            length = int(self.files[key].lengths[place])
            if data.nbytes != length:  # it would be written over its neighbour
                raise ValueError(f"piece {place} of {self.path(key)} has {data.nbytes} bytes, {length} were planned")
            _write_at(self._open_files[key], data, offset=int(self._offsets[key][place]))
        return None

    def _settle(self, piece: tuple[K, int], fault: str | None) -> None:
        key, place = piece
        if fault is not None:
            self.faults[piece] = fault
        self._done[key][place] = fault is None
        self._since_note += 1

    def _open(self) -> None:
        """Open the packed files at their full size, and continue an earlier run's work."""
        begin(self.folder, state=self.state)
        _refuse_full_disk(self.folder, size=sum(planned.size for planned in self.files.values()))
        for key, planned in self.files.items():
            self._done[key] = self._load_done(key)
            self._open_files[key] = _open_sized(self.path(key), size=planned.size)
            self._held.callback(self._close, key)

    def _close(self, key: K) -> None:
        os.close(self._open_files.pop(key))

    def _done_file(self, key: K) -> Path:
        return self.path(key).with_suffix(".done.npy")

    def _load_done(self, key: K) -> NDArray[np.bool_]:
        """Flags of the pieces that an earlier run packed; all False if files are missing, damaged or of other sizes."""
        nothing = self._done[key]
        try:
            done = read_array(self._done_file(key), form=Form(nothing.dtype, nothing.shape))
            return done.copy() if self.path(key).lstat().st_size == self.files[key].size else nothing
        except (OSError, Fault):
            return nothing


def partial_folder(folder: Path) -> Path:
    """Where a folder is packed before it is finished."""
    return folder / ".partial"


def begin(folder: Path, *, state: object) -> None:
    """Keep what an earlier run left of the same work, and delete what is left of any other.

    Args:
        folder: that is packed into.
        state: JSON that says what is packed.
    """
    begun = partial_folder(folder)
    path = begun / "state.json"
    state = {"version": VERSION, "packs": state}
    if begun.is_symlink():  # another folder's files would be written or deleted
        begun.unlink()
    try:
        if path.is_file() and read_json(path) == state:
            return
    except BadInput:
        pass  # damaged: the work is begun again
    if begun.exists():
        shutil.rmtree(begun)
    write_json(path, state)


def _open_sized(path: Path, *, size: int) -> int:
    """Open a file for reading and writing at its full size, sparse where nothing is written; returns its descriptor."""
    if path.is_symlink():  # never write through one
        path.unlink()
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    os.ftruncate(file, size)
    return file


def _write_at(file: int, data: NDArray[np.uint8], *, offset: int) -> None:
    """Write all of `data`; a nearly full disk writes in parts before it fails."""
    left = np.ascontiguousarray(data).data.cast("B")
    while left:
        written = os.pwrite(file, left, offset)
        left, offset = left[written:], offset + written


def _refuse_full_disk(folder: Path, *, size: int) -> None:
    """Raise BadInput if the disk has no room for `size` bytes, counting what existing sparse files occupy."""
    missing = size - sum(path.stat().st_blocks * 512 for path in partial_folder(folder).iterdir())
    free = shutil.disk_usage(folder).free
    if missing > free:
        room = f"{missing / 2**20:,.1f} MiB more, but only {free / 2**20:,.1f} are free"
        raise BadInput(f"{one_line(folder)} needs {room}")
