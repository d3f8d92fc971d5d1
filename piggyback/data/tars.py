"""Reading archives, and the folders they unpack to, that nobody has vouched for.

Nothing is extracted.  An archive is read as a stream, its members are matched by name with what is wanted, and
links, devices, names that leave the archive and files too large for what they should be are refused, each with
one line for whoever wants to report it.
"""

import lzma
import os
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Final

from piggyback.shell.errors import one_line

DAMAGED: Final = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError)
"""What reading a damaged archive raises."""


Refuse = Callable[[str], object]
"""Takes one line about something that was left out."""


def open_stream(file: IO[bytes]) -> tarfile.TarFile:
    """A tar to be read once from front to end, compressed or not, whatever its name says."""
    return tarfile.open(fileobj=file, mode="r|*", bufsize=1 << 20)


def iterate_members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members one by one, forgotten after use: 1.3 million of them would fill a gigabyte."""
    while (member := tar.next()) is not None:
        yield member
        tar.members.clear()  # type: ignore[attr-defined]  # typeshed leaves this public attribute out


def check_end(tar: tarfile.TarFile) -> None:
    """After the last member: see whether the archive was cut between two of them, which `tarfile` passes over.

    Raises:
        EOFError: it was; a whole one ends with blocks of zeros.
    """
    if tar.fileobj is None or tar.fileobj.tell() < tar.offset + tarfile.BLOCKSIZE:
        raise EOFError("it ends early")


def read_content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """The bytes of a plain file in an archive.

    Raises:
        EOFError: the archive ends before them.
    """
    file = tar.extractfile(member)
    data = file.read(member.size) if file is not None else b""
    if len(data) != member.size:
        raise EOFError(f"{member.name} ends early")
    return data


def find_member_fault(member: tarfile.TarInfo) -> str | None:
    """Why a member is refused, or None."""
    if member.issym() or member.islnk():
        return "is a link"
    if not member.isreg():
        return "is not a plain file"
    place = PurePosixPath(member.name)
    if place.is_absolute() or ".." in place.parts:
        return "leaves the archive"
    return None


def read_plain_file(path: Path, *, largest: int, refuse: Refuse) -> bytes | None:
    """The bytes of a file in a folder of unpacked data; None where there is none, or none that is wanted.

    Args:
        path: of the file.
        largest: bytes that it may have.
        refuse: told about links, devices, files that are too large and files that cannot be read.
    """
    try:
        facts = os.lstat(path)
        if not stat.S_ISREG(facts.st_mode):  # a pipe would block, a link may lead anywhere
            refuse(f"{one_line(path)} is not a plain file")
        elif facts.st_size > largest:
            refuse(f"{one_line(path)} has {facts.st_size:,} bytes, too many for what it should be")
        else:
            return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as fault:
        refuse(f"cannot read {one_line(path)}: {fault.strerror}")
    return None
