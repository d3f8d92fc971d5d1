"""Work on many results at once, in as many processes as there are processors."""

import gc
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, Final, TypeVar

LEAST: Final = 400
"""Items for each process, at least: fewer are done sooner here."""

MOST_PROCESSES: Final = 8
CHUNKS: Final = 4  # for each process, so that all end at about the same time

Item = TypeVar("Item")
Made = TypeVar("Made")

_work: Callable[[int], Any]


def spread(work: Callable[[Item], Made], items: Sequence[Item]) -> list[Made]:
    """What `work` makes of each item, in order.

    The processes are forks: they see `work` and `items` without a copy, and only what is made comes back, pickled.
    They share nothing else, so `work` may write files and must not change values.

    Args:
        work: called once for each item.
        items: any number; few are done in this process.
    """
    processes = min(MOST_PROCESSES, len(os.sched_getaffinity(0)), len(items) // LEAST)
    if processes < 2:
        return [work(one) for one in items]
    size = -(-len(items) // (CHUNKS * processes))

    def do_chunk(place: int) -> list[Made]:
        return [work(one) for one in items[place * size : (place + 1) * size]]

    chunks = range(-(-len(items) // size))
    with ProcessPoolExecutor(processes, get_context("fork"), initializer=_begin, initargs=(do_chunk,)) as pool:
        return [one for made in pool.map(_do, chunks) for one in made]


def _begin(work: Callable[[int], Any]) -> None:
    global _work  # noqa: PLW0603 - a worker's own, inherited by the fork, where a task's function would be pickled
    _work = work
    gc.freeze()  # what the parent made stays; looking through it for garbage, page by page, would copy it all
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted, and ends the workers


def _do(place: int) -> Any:
    return _work(place)
