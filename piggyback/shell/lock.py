"""The lock of a folder: one process works on it at a time."""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from piggyback.shell.errors import BadInput, one_line

LOCK: Final = ".lock"


@contextmanager
def hold(folder: Path, *, work: str) -> Iterator[None]:
    """Lock a folder while the block runs; the lock ends with the process, however it ends.

    Args:
        folder: gets an empty file ``.lock``, which stays.
        work: what is done, for the message: "at work on".

    Raises:
        BadInput: another process has the lock, or ``.lock`` is a link or not a file.
    """
    number = _open_lock(folder / LOCK)
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(f"another process is {work} {one_line(folder)}: wait until it ends, or end it") from None
        except OSError as fault:  # a file system without locks
            from piggyback.shell.console import notice  # start-up time: rich is only needed for this rare notice

            notice(f"note: {one_line(folder)} cannot be locked ({fault.strerror}); do not start a second process on it")
        yield
    finally:
        os.close(number)


def _open_lock(path: Path) -> int:
    """Open the lock's file, made if it is missing; links are not followed, and the file's content is left alone."""
    # Not truncated: a name as plain as this one can already be somebody's file.
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        number = os.open(path, flags, 0o666)
    except OSError as fault:
        if fault.errno != errno.ELOOP:
            raise
        raise BadInput(f"{one_line(path)} is a link, and a lock is never opened through one: remove it") from None
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise BadInput(f"{one_line(path)} must be a file, but is a pipe or a device: remove it")
    return number
