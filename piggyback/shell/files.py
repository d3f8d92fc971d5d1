"""Files, written atomically and read only if they are regular and no larger than expected."""

import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from piggyback.shell.errors import Fault, one_line

CHUNK: Final = 1 << 20
_AGAIN: Final = (errno.ESTALE, errno.EINTR)  # NFS says ESTALE of a file that is replaced while it is opened


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that takes its name only if the block succeeds.

    The bytes are written to a temporary file beside `path`, flushed to the disk and renamed, so that no
    reader and no crash ever sees a part of it.  If the block raises, nothing is left behind.  A link at
    `path` is replaced, not followed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Random and not the process's number, which two machines of a cluster or two threads can share.
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as fault:  # a full disk names no file, and the temporary one means nothing to a user
        if fault.errno is None or fault.filename not in (None, str(temporary)):
            raise
        raise OSError(fault.errno, fault.strerror, str(path)) from fault
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_file(path) as file:
        file.write(data)


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON atomically; NaN and infinity are errors."""
    write_bytes(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def read_file(path: Path | str, *, limit: int, follow: bool = True, name: str | None = None) -> bytes:
    """Bytes of a regular file; a pipe or device is refused without waiting for it.

    Args:
        path: of the file.
        limit: in bytes.
        follow: read through a link; otherwise a link is a fault.
        name: the file's name for messages; empty if the caller names it, the path by default.

    Raises:
        Fault: ``unreadable``, ``not-a-file``, ``too-large`` or ``link``.
    """
    name = one_line(path) if name is None else name
    try:
        try:
            return _read(path, limit=limit, follow=follow, name=name)
        except OSError as fault:
            if fault.errno not in _AGAIN:
                raise
            return _read(path, limit=limit, follow=follow, name=name)
    except OSError as fault:
        if fault.errno == errno.ELOOP and not follow:
            raise Fault("link", "is a link, where the file itself must be", file=name) from None
        raise Fault("unreadable", f"cannot be read: {fault.strerror}", file=name) from None


def _read(path: Path | str, *, limit: int, follow: bool, name: str) -> bytes:
    number, size = _open_regular(path, follow=follow, name=name)
    try:
        if size > limit:
            raise Fault("too-large", f"has {size:,} bytes; at most {limit:,} are read", file=name)
        data = os.read(number, size + 1)  # a buffer of the whole limit takes longer to get than to fill
        while len(data) != size and (more := os.read(number, limit + 1 - len(data))):
            data += more  # it came in parts, or is being written to
    finally:
        os.close(number)
    if len(data) > limit:
        raise Fault("too-large", f"has more than {limit:,} bytes", file=name)
    return data


def _open_regular(path: Path | str, *, follow: bool = True, name: str) -> tuple[int, int]:
    """Descriptor and size in bytes of a regular file."""
    # Without O_NONBLOCK, opening a pipe would wait for a writer.
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    there = os.fstat(number)
    if stat.S_ISREG(there.st_mode):
        return number, there.st_size
    os.close(number)
    found = "a folder" if stat.S_ISDIR(there.st_mode) else "a pipe or a device"
    raise Fault("not-a-file", f"is {found}, where a file must be", file=name)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, since flushing a file keeps its bytes but not its name."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def sha256_of(path: Path, *, progress: Callable[[int], None] | None = None) -> str:
    """Hex digest of a file; `progress` is called with the number of bytes of each piece read."""
    digest = hashlib.sha256()
    number, _ = _open_regular(path, name=one_line(path))
    with os.fdopen(number, "rb") as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
            if progress is not None:
                progress(len(piece))
    return digest.hexdigest()
