"""Files that are either whole or not there, and JSON read strictly."""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from piggyback.shell.errors import BadInput, one_line

CHUNK: Final = 1 << 20
LOCK: Final = ".lock"


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that takes its name only when the block ends well.

    The bytes are written to a temporary file beside `path`, flushed to the disk and renamed, so that no
    reader and no crash ever sees a part of it.  When the block raises, nothing is left behind.
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


@contextmanager
def hold(folder: Path, *, work: str) -> Iterator[None]:
    """Keep other processes away from a folder while the block runs; the lock ends with the process, whatever ends it.

    Args:
        folder: gets a file ``.lock``, which stays.
        work: what is done, for the message: "at work on".

    Raises:
        BadInput: another process has it.
    """
    with (folder / LOCK).open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(f"another process is {work} {one_line(folder)}: wait until it ends, or end it") from None
        except OSError as fault:  # a file system without locks
            from piggyback.shell.console import notice  # here, as rich is not for everyone who writes a file

            notice(f"note: {one_line(folder)} cannot be locked ({fault.strerror}); start no second process for it")
        yield


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with atomic_file(path) as file:
        file.write(data)


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON, whole or not at all; NaN and infinity are errors."""
    write_bytes(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def sha256_of(path: Path, *, progress: Callable[[int], None] | None = None) -> str:
    """Hex digest of a file; `progress` gets the number of bytes of each piece read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
            if progress is not None:
                progress(len(piece))
    return digest.hexdigest()


def parse_json(data: bytes, *, name: str) -> object:
    """Parse JSON from an untrusted source.

    Stricter than ``json.loads``: a key may stand only once in an object, and NaN or Infinity, which are
    not JSON, are refused.

    Args:
        data: UTF-8 text.
        name: of the file, for messages.

    Raises:
        BadInput: with one line that names the file and the fault.
    """

    def no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found: dict[str, object] = {}
        for key, value in pairs:
            if key in found:
                raise BadInput(f"{name} has the key {key[:80]!r} twice in one object")
            found[key] = value
        return found

    def no_constants(text: str) -> object:
        raise BadInput(f"{name} has {text}, which is not JSON")

    try:
        return json.loads(data, object_pairs_hook=no_duplicates, parse_constant=no_constants)
    except json.JSONDecodeError as fault:
        raise BadInput(f"{name} is not JSON: {fault.msg} at line {fault.lineno}, column {fault.colno}") from None
    except UnicodeDecodeError:
        raise BadInput(f"{name} is not JSON: it is not UTF-8 text") from None
    except RecursionError:
        raise BadInput(f"{name} is nested too deeply to be what it should be") from None
    except ValueError:  # Python refuses to convert integers of thousands of digits
        raise BadInput(f"{name} has a number of thousands of digits") from None


def read_json(path: Path) -> object:
    """Read a JSON file strictly.

    Raises:
        BadInput: it is missing, unreadable or not JSON.
    """
    try:
        data = path.read_bytes()
    except OSError as fault:
        raise BadInput(f"cannot read {one_line(path)}: {fault.strerror}") from None
    return parse_json(data, name=one_line(path))
