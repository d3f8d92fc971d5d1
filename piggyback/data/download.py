"""Archives downloaded into a folder: resumed after a break, checked by digest, with instructions for placing by hand.

The benchmarks' `fetch` verbs are built on this.  pooch cannot resume a download, and archives as large as these need
HTTP ranges, so the transfer is done here, with the standard library.  In the end the digest decides: it protects
against plain http and against a file that changed between two attempts.
"""

import hashlib
import http.client
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from piggyback.shell.console import notice, out, print_json, progress_bar, table
from piggyback.shell.errors import BadInput, PiggybackError, UnknownName
from piggyback.shell.files import CHUNK

TIMEOUT: Final = 60.0
"""Seconds without a byte before a connection counts as lost."""

ATTEMPTS: Final = 4
"""Connections in a row that bring nothing before a download is given up."""

PAUSE: Final = 2.0
"""Seconds before the second attempt; doubled for each further one."""

ADDRESS: Final = re.compile(r"https?://[!-~]+")
"""What may be asked of a server: anything but visible ASCII has to be percent-encoded."""

Algorithm = Literal["sha256", "md5"]
State = Literal["fetched", "was there", "by hand", "failed"]
Progress = Callable[[int, int | None], None]
"""Takes the number of bytes so far, and of the whole file where it is known."""


@dataclass(frozen=True, kw_only=True)
class Archive:
    """One file to download.

    Attributes:
        short: its name on the command line.
        folder: address of its folder, ending in a slash.
        digest: hexadecimal, in lowercase letters.
        algorithm: of the digest.
        holds: its content, in words.
        size: bytes, or None where no source states them; then the digest alone decides.
        page: where to log in for it; None if no login is needed.
    """

    name: str
    short: str
    folder: str
    digest: str
    algorithm: Algorithm = "sha256"
    holds: str
    size: int | None = None
    page: str | None = None


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """Outcome for one archive; `message` says why it is missing."""

    archive: Archive
    path: Path
    state: State
    message: str = ""


class _LostError(Exception):
    """A broken connection or a passing fault of the server: worth another attempt."""


def find_archive(name: str, *, archives: Mapping[str, Archive]) -> Archive:
    """The archive of that short name or file name; `archives` is by short name.

    Raises:
        UnknownName: suggests the nearest one.
    """
    for archive in archives.values():
        if name in (archive.short, archive.name):
            return archive
    raise UnknownName(name, known=archives, kind="archive")


def fetch_and_report(
    folder: Path, *, archives: Mapping[str, Archive], names: Sequence[str] = (), url: str | None = None, json: bool
) -> int:
    """`fetch`, then its report as a table or as JSON.

    Returns:
        The exit code; 1 where an archive failed, or one that was asked for by name must be placed by hand.
    """
    results = fetch(folder, archives=archives, names=names, url=url)
    if json:
        found = {
            one.archive.name: {"state": one.state, "path": str(one.path), "message": one.message} for one in results
        }
        print_json({"archives": found})
    else:
        rows: list[tuple[str, ...]] = [(one.archive.name, _size_in_words(one.archive), one.state) for one in results]
        table(f"Official archives in {folder}", "archive", "bytes", "state", rows=rows)
        for one in results:
            if one.message:
                out.print(one.message, markup=False, soft_wrap=True)
    wanted = {"failed", "by hand"} if names else {"failed"}
    return 1 if any(one.state in wanted for one in results) else 0


def fetch(
    folder: Path, *, archives: Mapping[str, Archive], names: Sequence[str] = (), url: str | None = None
) -> list[Fetched]:
    """Download archives into a folder; one that fails does not stop the others.

    Args:
        folder: made where it is missing.
        archives: all there are, by short name.
        names: short or file names of those wanted; all when empty.
        url: a folder on another server to get them from, such as a mirror of your own.

    Raises:
        UnknownName: there is no such archive.
        BadInput: `url` is not of http or https, or the folder cannot be made.
    """
    named = [find_archive(name, archives=archives) for name in names]
    chosen = list({archive.short: archive for archive in named or archives.values()}.values())
    if url is not None and not ADDRESS.fullmatch(url):
        raise BadInput(f"{url} is not an http or https address; characters other than ASCII must be percent-encoded")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise BadInput(f"cannot make {folder}: {fault.strerror}") from None
    return [fetch_archive(archive, folder=folder, url=url) for archive in chosen]


def fetch_archive(archive: Archive, *, folder: Path, url: str | None = None) -> Fetched:
    """Download one archive into a folder, unless it is there already with the right size and digest."""
    path = folder / archive.name
    try:
        if path.exists():
            with _shown(archive) as progress:
                check(archive, path=path, progress=progress)
            return Fetched(archive=archive, path=path, state="was there")
        if archive.page is not None and url is None:
            return Fetched(archive=archive, path=path, state="by hand", message=by_hand(archive, path=path))
        address = (url.rstrip("/") + "/" if url else archive.folder) + archive.name
        with _shown(archive) as progress:
            download(archive, path=path, address=address, progress=progress)
    except PiggybackError as fault:
        message = f"{fault}\n{by_hand(archive, path=path)}"
    except OSError as fault:  # a full disk, a folder without write permission, a file that cannot be read
        message = (
            f"cannot read or write {fault.filename or path}: {fault.strerror or fault}\n{by_hand(archive, path=path)}"
        )
    else:
        return Fetched(archive=archive, path=path, state="fetched")
    return Fetched(archive=archive, path=path, state="failed", message=message)


def by_hand(archive: Archive, *, path: Path) -> str:
    """Instructions for getting an archive without this program."""
    login = f" after logging in at {archive.page} (and accepting the terms there)" if archive.page else ""
    return (
        f"By hand: download {archive.folder}{archive.name}{login}, put it at {path} "
        f"({describe(archive)}) and run the same command again to check it."
    )


def describe(archive: Archive) -> str:
    return f"{_size_in_words(archive)} bytes, {archive.algorithm} {archive.digest}"


def digest_of(path: Path, *, algorithm: Algorithm, progress: Callable[[int], None] | None = None) -> str:
    """Hex digest of a file; `progress` is called with the number of bytes read so far."""
    # Python built for FIPS refuses md5, unless it guards against damage only and not against forgery.
    digest = hashlib.new(algorithm, usedforsecurity=algorithm != "md5")
    seen = 0
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
            seen += len(piece)
            if progress is not None:
                progress(seen)
    return digest.hexdigest()


def check(archive: Archive, *, path: Path, progress: Progress) -> None:
    """Check size and digest of an existing file.

    Raises:
        BadInput: it is not the archive; it is left in place, since this program did not make it.
    """
    if not path.is_file():
        raise BadInput(f"{path} is not a file, so it cannot be {archive.name}; move it away")
    size = path.stat().st_size
    if archive.size is not None and size != archive.size:
        raise BadInput(f"{path} has {size:,} bytes, not {archive.size:,}: it is not {archive.name}; move it away")
    found = digest_of(path, algorithm=archive.algorithm, progress=lambda seen: progress(seen, size))
    if found != archive.digest:
        raise BadInput(
            f"{path} has another {archive.algorithm} than {archive.name} ({found}, expected {archive.digest}): "
            "it is damaged or another file; move it away"
        )


def download(archive: Archive, *, path: Path, address: str, progress: Progress) -> None:
    """Download an archive, continuing ``<path>.part`` if there is one.

    Raises:
        BadInput: the server does not have it or sends something else, the digest is wrong (the part is deleted
            then), or connections keep breaking (the part is kept for the next call).
    """
    part = path.with_name(path.name + ".part")
    if part.is_symlink():  # never write through one
        part.unlink()
    if not _is_complete(archive, part):
        _transfer_all(address, part, size=archive.size, progress=progress)
    found = digest_of(part, algorithm=archive.algorithm)
    if found != archive.digest:
        part.unlink()
        raise BadInput(
            f"{address} has {archive.algorithm} {found}, expected {archive.digest}: the download was deleted"
        )
    part.replace(path)


def _is_complete(archive: Archive, part: Path) -> bool:
    """Whether an earlier call got every byte; a file that is too long is not the archive's, and is deleted."""
    if not part.exists():
        return False
    if archive.size is None:  # a server asked for bytes behind the end would only say that there are none
        return digest_of(part, algorithm=archive.algorithm) == archive.digest
    there = part.stat().st_size
    if there > archive.size:
        part.unlink()
    return there == archive.size


def _transfer_all(address: str, part: Path, *, size: int | None, progress: Progress) -> None:
    """Connect until `part` has all bytes, or until several connections in a row bring nothing.

    Raises:
        BadInput: connections keep breaking, or the server does not have the file.
    """
    failures = 0
    while True:
        there = part.stat().st_size if part.exists() else 0
        try:
            return _transfer(address, part, there=there, size=size, progress=progress)
        except _LostError as lost:
            kept = part.stat().st_size if part.exists() else 0
            failures = 1 if kept > there else failures + 1
            if failures == ATTEMPTS:
                whole = f" of {size:,}" if size is not None else ""
                rest = f" {kept:,}{whole} bytes are in {part}; the same command continues there" if kept else ""
                raise BadInput(f"cannot download {address}: {lost}.{rest}") from None
            notice(f"{part.name.removesuffix('.part')}: {lost}; trying again")
            time.sleep(PAUSE * 2 ** (failures - 1))


def _transfer(address: str, part: Path, *, there: int, size: int | None, progress: Progress) -> None:
    """One connection: append to `part` what the server has from byte `there` on.

    Raises:
        _LostError: it broke.
        BadInput: the server does not have the file, or has one of another size.
    """
    headers = {"User-Agent": "piggyback-bench", "Accept-Encoding": "identity"}
    if there:
        headers["Range"] = f"bytes={there}-"
    try:
        with _opener().open(urllib.request.Request(address, headers=headers), timeout=TIMEOUT) as answer:
            start = _start(answer.status, answer.headers.get("Content-Range"), there=there)
            length = answer.headers.get("Content-Length")
            promised = start + int(length) if length is not None and length.isdigit() else None
            if promised is not None and size is not None and promised != size:
                raise BadInput(f"{address} has {promised:,} bytes, expected {size:,}: not the archive")
            with part.open("r+b" if start else "wb") as file:
                file.seek(start)
                file.truncate()
                _copy(answer.read1, file.write, start=start, size=promised if size is None else size, progress=progress)
    except urllib.error.HTTPError as fault:
        if fault.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink(missing_ok=True)  # ours is longer than theirs
            raise _LostError("the server's file is shorter than what is there; starting over") from None
        if fault.code >= 500 or fault.code == http.HTTPStatus.TOO_MANY_REQUESTS:
            raise _LostError(f"the server answered {fault.code} {fault.reason}") from None
        raise BadInput(f"cannot download {address}: the server answered {fault.code} {fault.reason}") from None
    except urllib.error.URLError as fault:
        raise _LostError(str(fault.reason)) from None
    except http.client.InvalidURL as fault:
        raise BadInput(f"cannot download {address}: {fault}") from None
    except (http.client.HTTPException, ssl.SSLError, ConnectionError, TimeoutError) as fault:
        raise _LostError(str(fault) or type(fault).__name__) from None
    except ValueError as fault:  # urllib's for a bracket that is not closed, or a host's name that DNS cannot have
        raise BadInput(f"cannot download {address}: {fault}") from None


def _start(status: int, content_range: str | None, *, there: int) -> int:
    """The byte at which an answer begins; a server that ignores ranges begins at 0 again."""
    if status != http.HTTPStatus.PARTIAL_CONTENT:
        return 0
    if content_range is None or not content_range.startswith(f"bytes {there}-"):
        raise BadInput(f"the server answered byte {there} with {content_range!r}: it cannot continue a download")
    return there


def _copy(
    read: Callable[[int], bytes],
    write: Callable[[bytes], int],
    *,
    start: int,
    size: int | None,
    progress: Progress,
) -> None:
    """Copy until the end; without a size, a closed connection counts as the end of the file."""
    position = start
    while True:
        try:
            piece = read(CHUNK)
        except OSError as fault:  # the network's; what goes wrong in writing is no reason to try again
            raise _LostError(fault.strerror or str(fault)) from None
        if not piece:
            break
        position += len(piece)
        if size is not None and position > size:
            raise BadInput(f"the server sends more than the archive's {size:,} bytes")
        write(piece)
        progress(position, size)
    if size is not None and position < size:
        raise _LostError(f"the connection closed after {position:,} of {size:,} bytes")


def _opener() -> urllib.request.OpenerDirector:
    """An opener for http and https only; urllib's own would also follow file: and ftp: addresses."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _size_in_words(archive: Archive) -> str:
    return "unknown" if archive.size is None else f"{archive.size:,}"


@contextmanager
def _shown(archive: Archive) -> Iterator[Progress]:
    """A progress bar in MiB for one archive."""
    with progress_bar() as bar:
        shown = bar.add_task(f"{archive.name}, MiB", total=None if archive.size is None else archive.size / 2**20)

        def move(count: int, total: int | None) -> None:
            bar.update(shown, completed=count / 2**20, total=None if total is None else total / 2**20)

        yield move
