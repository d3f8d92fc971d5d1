"""A pool of threads that decode and write, with a bounded number of pieces waiting."""

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Generic, TypeVar

K = TypeVar("K")  # what a piece of work is known by
WAITING: Final = 32
"""Pictures per thread that may wait to be decoded: what bounds the memory."""


class Writers(Generic[K]):
    """Threads that decode and write; the outcome of each piece of work is reported in the caller's thread, in order.

    Args:
        settle: called with the key of a piece of work and a description of the fault that ended it, or None.
    """

    def __init__(self, settle: Callable[[K, str | None], None]) -> None:
        self.settle = settle
        self.threads = os.cpu_count() or 1
        self.pool = ThreadPoolExecutor(self.threads, thread_name_prefix="decode")
        self.running: deque[tuple[K, Future[str | None]]] = deque()

    def add(self, key: K, work: Callable[[], str | None]) -> None:
        """Begin a piece of work; waits for earlier ones if too many are in progress."""
        self.running.append((key, self.pool.submit(work)))
        while len(self.running) > WAITING * self.threads:
            self._settle_one()

    def drain(self) -> None:
        while self.running:
            self._settle_one()

    def close(self) -> None:
        self.pool.shutdown(wait=True)
        self.drain()

    def _settle_one(self) -> None:
        key, future = self.running.popleft()
        self.settle(key, future.result())
