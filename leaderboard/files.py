"""Files of strangers read within bounds, and files written whole or not at all."""

import errno
import os
import stat
import uuid
from pathlib import Path
from typing import Final

from leaderboard.faults import Fault

_STALE: Final = (errno.ESTALE, errno.EINTR)
"""NFS answers ESTALE when a file is replaced while it is opened: asking again finds the new one."""


def read_file(path: Path | str, *, limit: int) -> bytes:
    """The bytes of an ordinary file; links are not followed, and no pipe or device is waited for.

    Args:
        path: of the file.
        limit: in bytes.

    Raises:
        Fault: ``link``, ``not-a-file``, ``too-large`` or ``unreadable``.
    """
    try:
        return _read(path, limit)
    except OSError as fault:
        if fault.errno == errno.ELOOP:
            raise Fault("link", "is a link; a store holds files themselves") from None
        if fault.errno not in _STALE:
            raise Fault("unreadable", f"cannot be read: {fault.strerror}") from None
    try:
        return _read(path, limit)
    except OSError as fault:
        raise Fault("unreadable", f"cannot be read: {fault.strerror}") from None


def _read(path: Path | str, limit: int) -> bytes:
    number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        there = os.fstat(number)
        if not stat.S_ISREG(there.st_mode):
            raise Fault("not-a-file", "is a folder, a pipe or a device, where a file must be")
        if there.st_size > limit:
            raise Fault("too-large", f"has {there.st_size:,} bytes; at most {limit:,} are read")
        data = os.read(number, there.st_size + 1)  # a buffer of the whole limit takes longer to get than to fill
        while len(data) != there.st_size and (more := os.read(number, limit + 1 - len(data))):
            data += more  # it came in parts, or is being written to
    finally:
        os.close(number)
    if len(data) > limit:
        raise Fault("too-large", f"has more than {limit:,} bytes")
    return data


def write_file(path: Path, data: bytes) -> None:
    """Write a file that others see whole or not at all; its folder must be there."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Ask the system to keep the names in a folder, not only the files' bytes."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
