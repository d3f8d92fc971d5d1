"""Work on many results at once, in as many processes as there are processors."""

import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, Final, TypeVar

LEAST: Final = 400
"""Items for each process, at least: fewer are done sooner here."""

MOST_PROCESSES: Final = 8
CHUNKS: Final = 4  # for each process, so that all end at about the same time
LOOK_EVERY_S: Final = 1.0

Item = TypeVar("Item")
Made = TypeVar("Made")

_work: Callable[[int], Any]


def spread(work: Callable[[Item], Made], items: Sequence[Item]) -> list[Made]:
    """Results of `work` for each item, in order.

    The processes are forks: they see `work` and `items` without a copy, and only the results come back, pickled.
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
    context, given = get_context("fork"), (do_chunk, os.getpid())
    with ProcessPoolExecutor(processes, context, initializer=_begin, initargs=given) as pool:
        return [one for made in pool.map(_do, chunks) for one in made]


def _begin(work: Callable[[int], Any], parent: int) -> None:
    global _work  # noqa: PLW0603 - a worker's own, inherited by the fork, where a task's function would be pickled
    _work = work
    gc.freeze()  # what the parent made stays; looking through it for garbage, page by page, would copy it all
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted, and ends the workers
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process when its parent is gone: a parent killed without warning would leave its forks waiting."""
    while os.getppid() == parent:
        time.sleep(LOOK_EVERY_S)
    os._exit(1)


def _do(place: int) -> Any:
    return _work(place)
