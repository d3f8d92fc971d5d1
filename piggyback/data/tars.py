"""Untrusted archives, and the folders that they unpack to.

Nothing is extracted.  An archive is read as a stream and its members are matched by name with those wanted, so no
name in it can reach the disk.  Links, devices, names that leave the archive and files larger than they should be are
refused, each with one line for a report.
"""

import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Final, Self

from piggyback.shell.errors import BadInput, Fault, one_line, reading, shown
from piggyback.shell.files import read_file

LARGEST_NAME: Final = 1 << 20
"""Bytes of a header for long names.  tarfile reads it into memory whole, and a megabyte of gzip can hold a gigabyte."""

Refuse = Callable[[str], object]
"""Takes one line about something that was left out."""

_NAMES: Final = frozenset(
    (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
)


class _Member(tarfile.TarInfo):
    """A header that is checked before the data it announces are read."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        found = super().frombuf(buf, encoding, errors)
        if found.type in _NAMES and found.size > LARGEST_NAME:
            raise tarfile.ReadError(f"a name in it has {found.size:,} bytes")
        return found


@contextmanager
def reading_archive(path: Path) -> Iterator[None]:
    """Turn any exception of a reader of a damaged archive into a `Fault`."""
    with reading(path, what="tar archive", advice="fetch it again"):
        yield


def check_source(folder: Path, *, expected: str) -> None:
    """Refuse a source that is not a folder.

    Args:
        folder: as the user gave it.
        expected: what it should hold, in words.

    Raises:
        BadInput: it is a file, or does not exist.
    """
    if folder.is_file():
        parent = one_line(folder.absolute().parent)
        raise BadInput(f"{one_line(folder)} is a file: give the folder it lies in, {parent}")
    if not folder.is_dir():
        raise BadInput(f"there is no folder {one_line(folder)}: give the one with {expected}")


def open_stream(file: IO[bytes]) -> tarfile.TarFile:
    """Open a tar for one pass from front to end, compressed or not, whatever its name."""
    return tarfile.open(fileobj=file, mode="r|*", bufsize=1 << 20, tarinfo=_Member)


def iterate_members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the members and forget each after use: 1.3 million of them would fill a gigabyte."""
    while (member := tar.next()) is not None:
        yield member
        tar.members.clear()  # type: ignore[attr-defined]  # typeshed leaves this public attribute out


def iterate_files(tar: tarfile.TarFile, *, name: str, refuse: Refuse) -> Iterator[tarfile.TarInfo]:
    """Yield the members that are plain files, skipping folders.

    Args:
        tar: open as a stream.
        name: the archive's name for messages, on one line.
        refuse: called with a line about each link, device and name that leaves the archive.
    """
    for member in iterate_members(tar):
        if member.isdir():
            continue
        fault = find_member_fault(member)
        if fault is None:
            yield member
        else:
            refuse(f"{name}: {shown(member.name, longest=80)} {fault}")


def check_end(tar: tarfile.TarFile) -> None:
    """Refuse an archive cut between two members, which `tarfile` does not notice; to be called after the last member.

    Raises:
        EOFError: the archive was cut; a whole one ends with blocks of zeros.
    """
    if tar.fileobj is None or tar.fileobj.tell() < tar.offset + tarfile.BLOCKSIZE:
        raise EOFError("it ends early")


def read_content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """Bytes of a plain file in an archive.

    Raises:
        EOFError: the archive ends before them.
    """
    file = tar.extractfile(member)
    data = file.read(member.size) if file is not None else b""
    if len(data) != member.size:
        raise EOFError(f"{member.name} ends early")
    return data


def read_wanted(
    tar: tarfile.TarFile, member: tarfile.TarInfo, *, name: str, largest: int, refuse: Refuse
) -> bytes | None:
    """Bytes of a plain file in an archive; None if there are too many.

    Args:
        tar: open as a stream, at that member.
        member: the file.
        name: the archive's name for messages, on one line.
        largest: bytes that it may have.
        refuse: called with a line about a file that has more.

    Raises:
        EOFError: the archive ends before them.
    """
    if member.size > largest:
        size = f"{member.size:,} bytes, more than such a file may have"
        refuse(f"{name}: {shown(member.name, longest=80)} has {size}")
        return None
    return read_content(tar, member)


def find_member_fault(member: tarfile.TarInfo) -> str | None:
    """Describe why a member is not a plain file in its archive; None if it is."""
    if member.issym() or member.islnk():
        return "is a link"
    if not member.isreg():
        return "is not a plain file"
    place = PurePosixPath(member.name)
    if place.is_absolute() or ".." in place.parts:
        return "leaves the archive"
    return None


def read_plain_file(path: Path, *, largest: int, refuse: Refuse) -> bytes | None:
    """Bytes of a file in a folder of unpacked data; None if it is missing or refused.

    Args:
        path: of the file.
        largest: bytes that it may have.
        refuse: called with a line about a link, a device, or a file that is too large or cannot be read.
    """
    if not os.path.lexists(path):
        return None
    try:
        return read_file(path, limit=largest, follow=False)
    except Fault as fault:
        refuse(str(fault))
    return None
