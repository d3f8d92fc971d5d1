"""Pixels packed into files of known size in the background: what the packing of both benchmarks has in common.

Threads decode pictures and write each at its own place; a list of what is done is kept, so that the next run goes on.
"""

import os
import shutil
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from piggyback.shell.errors import BadInput, one_line
from piggyback.shell.files import atomic_file

K = TypeVar("K")  # what a piece of work is known by
WAITING = 32
"""Pictures per thread that may wait to be decoded: what bounds the memory."""


class Writers(Generic[K]):
    """Threads that decode and write; what came of each piece of work is told in the caller's thread, in order.

    Args:
        settle: told the key of a piece of work, and in words why it came to nothing, or None.
    """

    def __init__(self, settle: Callable[[K, str | None], None]) -> None:
        self.settle = settle
        self.threads = os.cpu_count() or 1
        self.pool = ThreadPoolExecutor(self.threads, thread_name_prefix="decode")
        self.running: deque[tuple[K, Future[str | None]]] = deque()

    def add(self, key: K, work: Callable[[], str | None]) -> None:
        """Begin a piece of work; waits for earlier ones where too many are under way."""
        self.running.append((key, self.pool.submit(work)))
        while len(self.running) > WAITING * self.threads:
            self._settle_one()

    def drain(self) -> None:
        """Wait for everything added."""
        while self.running:
            self._settle_one()

    def close(self) -> None:
        """Wait for everything, and end the threads."""
        self.pool.shutdown(wait=True)
        self.drain()

    def _settle_one(self) -> None:
        key, future = self.running.popleft()
        self.settle(key, future.result())


def open_sized(path: Path, *, size: int) -> int:
    """Open a file for reading and writing at its full size, sparse where nothing is written; its descriptor."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    os.ftruncate(file, size)
    return file


def write_at(file: int, data: bytes, *, offset: int) -> None:
    """Write all of `data`; a nearly full disk writes in parts before it fails."""
    written = 0
    while written < len(data):
        written += os.pwrite(file, data[written:], offset + written)


def save_done(path: Path, done: NDArray[np.bool_]) -> None:
    """Note which pictures are on the disk."""
    with atomic_file(path) as file:
        np.save(file, done, allow_pickle=False)


def load_done(path: Path, *, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Which pictures an earlier run has packed; none where its list is missing, damaged or of other pictures."""
    nothing = np.zeros(shape, dtype=np.bool_)
    try:
        done = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return nothing
    return done if done.dtype == nothing.dtype and done.shape == shape else nothing


def refuse_full_disk(folder: Path, *, size: int) -> None:
    """Raise BadInput where `folder` is to hold `size` bytes and the disk has not the room; sparse files take less."""
    missing = size - sum(path.stat().st_blocks * 512 for path in folder.iterdir())
    free = shutil.disk_usage(folder).free
    if missing > free:
        room = f"{missing / 2**20:,.1f} MiB more, but only {free / 2**20:,.1f} are free"
        raise BadInput(f"{one_line(folder.parent)} needs {room}")
