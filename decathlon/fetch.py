"""`piggyback decathlon fetch`: get the official archives, continue broken downloads, check every byte.

pooch, which downloads smaller things elsewhere in this project, starts over after a break; these archives
are large enough to want HTTP ranges, so the transfer is done here, with the standard library.  The digest
decides in the end: it protects against plain http and against a file that changed between two attempts.
"""

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import urlsplit

from decathlon.archives import ARCHIVES, Archive, find_archive
from piggyback.console import notice, out, print_json, progress_bar, table
from piggyback.errors import BadInput, PiggybackError
from piggyback.files import CHUNK, sha256_of

if TYPE_CHECKING:
    from decathlon.options import FetchOptions

TIMEOUT: Final = 60.0
"""Seconds without a byte before a connection counts as lost."""

ATTEMPTS: Final = 4
"""Connections in a row that bring nothing before a download is given up."""

PAUSE: Final = 2.0
"""Seconds before the second attempt; doubled for each further one."""

State = Literal["fetched", "was there", "by hand", "failed"]
Progress = Callable[[int], None]
"""Takes the number of bytes that are there so far."""


class _LostError(Exception):
    """A connection broke or the server has a passing fault: worth another attempt."""


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What became of one archive; `message` is for those that are not there now."""

    archive: Archive
    path: Path
    state: State
    message: str = ""


def run(options: "FetchOptions") -> int:
    """Do what the command line asks; 1 where an archive that was asked for is not there in the end."""
    results = fetch(options.out, archives=options.archives, url=options.url)
    if options.json:
        found = {
            one.archive.name: {"state": one.state, "path": str(one.path), "message": one.message} for one in results
        }
        print_json({"archives": found})
    else:
        rows: list[tuple[str, ...]] = [(one.archive.name, f"{one.archive.size:,}", one.state) for one in results]
        table(f"Official archives in {options.out}", "archive", "bytes", "state", rows=rows)
        for one in results:
            if one.message:
                out.print(one.message, markup=False)
    wanted = {"failed", "by hand"} if options.archives else {"failed"}
    return 1 if any(one.state in wanted for one in results) else 0


def fetch(folder: Path, *, archives: Sequence[str] = (), url: str | None = None) -> list[Fetched]:
    """Bring archives into a folder; one that fails does not stop the others.

    Args:
        folder: made where it is missing.
        archives: short or file names; all three when empty.
        url: a folder on another server to get them from, such as a mirror of your own.

    Raises:
        UnknownName: there is no such archive.
        BadInput: `url` is not of http or https, or the folder cannot be made.
    """
    chosen = [find_archive(name) for name in dict.fromkeys(archives)] or list(ARCHIVES.values())
    if url is not None and urlsplit(url).scheme not in ("http", "https"):
        raise BadInput(f"{url} is no address of http or https")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise BadInput(f"cannot make {folder}: {fault.strerror}") from None
    return [fetch_archive(archive, folder, url=url) for archive in chosen]


def fetch_archive(archive: Archive, folder: Path, *, url: str | None = None) -> Fetched:
    """Bring one archive into a folder, unless it is there already with the right size and digest."""
    path = folder / archive.name
    try:
        if path.exists():
            with _shown(archive) as progress:
                check(archive, path, progress=progress)
            return Fetched(archive=archive, path=path, state="was there")
        if archive.page is not None and url is None:
            return Fetched(archive=archive, path=path, state="by hand", message=by_hand(archive, path))
        address = (url.rstrip("/") + "/" if url else archive.folder) + archive.name
        with _shown(archive) as progress:
            download(address, path, size=archive.size, sha256=archive.sha256, progress=progress)
    except PiggybackError as fault:
        return Fetched(archive=archive, path=path, state="failed", message=f"{fault}\n{by_hand(archive, path)}")
    except OSError as fault:  # a full disk, a folder without write permission
        message = f"cannot write {path}: {fault.strerror or fault}\n{by_hand(archive, path)}"
        return Fetched(archive=archive, path=path, state="failed", message=message)
    return Fetched(archive=archive, path=path, state="fetched")


def by_hand(archive: Archive, path: Path) -> str:
    """How to get an archive without this program."""
    login = f" after logging in at {archive.page} (accept ImageNet's terms there)" if archive.page else ""
    return (
        f"By hand: download {archive.folder}{archive.name}{login}, put it at {path} "
        f"({archive.size:,} bytes, sha256 {archive.sha256}) and run the same command again to check it."
    )


def check(archive: Archive, path: Path, *, progress: Progress) -> None:
    """Check size and digest of a file that is there.

    Raises:
        BadInput: it is not the archive; it is left where it is, as this program did not make it.
    """
    size = path.stat().st_size
    if not path.is_file() or size != archive.size:
        raise BadInput(f"{path} has {size:,} bytes, not {archive.size:,}: it is not {archive.name}; move it away")
    seen = 0

    def add(count: int) -> None:
        nonlocal seen
        seen += count
        progress(seen)

    if sha256_of(path, progress=add) != archive.sha256:
        raise BadInput(f"{path} has another sha256 than {archive.name}: it is damaged or another file; move it away")


def download(address: str, path: Path, *, size: int, sha256: str, progress: Progress) -> None:
    """Download a file of known size and digest; what is there already in ``<path>.part`` is continued.

    Raises:
        BadInput: the server does not have it or sends something else, the digest is wrong (the part is
            deleted then), or no connection lasts (the part is kept for the next call).
    """
    part = path.with_name(path.name + ".part")
    failures = 0
    while (there := part.stat().st_size if part.exists() else 0) != size:
        if there > size:
            part.unlink()
            continue
        try:
            _transfer(address, part, there=there, size=size, progress=progress)
        except _LostError as lost:
            gained = part.exists() and part.stat().st_size > there
            failures = 1 if gained else failures + 1
            if failures == ATTEMPTS:
                kept = part.stat().st_size if part.exists() else 0
                rest = f" {kept:,} of {size:,} bytes are in {part}; the same command continues there" if kept else ""
                raise BadInput(f"cannot download {address}: {lost}.{rest}") from None
            notice(f"{path.name}: {lost}; trying again")
            time.sleep(PAUSE * 2 ** (failures - 1))
    found = sha256_of(part)
    if found != sha256:
        part.unlink()
        raise BadInput(f"{address} has sha256 {found}, expected {sha256}: the download was deleted")
    part.replace(path)


def _transfer(address: str, part: Path, *, there: int, size: int, progress: Progress) -> None:
    """One connection: append to `part` what the server has from byte `there` on.

    Raises:
        _LostError: it broke off.
        BadInput: the server does not have the file, or one of another size.
    """
    headers = {"User-Agent": "piggyback-bench", "Accept-Encoding": "identity"}
    if there:
        headers["Range"] = f"bytes={there}-"
    try:
        with _opener().open(urllib.request.Request(address, headers=headers), timeout=TIMEOUT) as answer:
            start = _start(answer.status, answer.headers.get("Content-Range"), there=there)
            promised = answer.headers.get("Content-Length")
            if promised is not None and promised.isdigit() and start + int(promised) != size:
                raise BadInput(f"{address} has {start + int(promised):,} bytes, expected {size:,}: not the archive")
            with part.open("r+b" if start else "wb") as file:
                file.seek(start)
                file.truncate()
                _copy(answer.read1, file.write, start=start, size=size, progress=progress)
    except urllib.error.HTTPError as fault:
        if fault.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink(missing_ok=True)  # ours is longer than theirs
            raise _LostError("the server's file is shorter than what is there; starting over") from None
        if fault.code >= 500 or fault.code == http.HTTPStatus.TOO_MANY_REQUESTS:
            raise _LostError(f"the server answered {fault.code} {fault.reason}") from None
        raise BadInput(f"cannot download {address}: the server answered {fault.code} {fault.reason}") from None
    except urllib.error.URLError as fault:
        raise _LostError(str(fault.reason)) from None
    except (http.client.HTTPException, ConnectionError, TimeoutError) as fault:
        raise _LostError(str(fault) or type(fault).__name__) from None


def _start(status: int, content_range: str | None, *, there: int) -> int:
    """The byte that an answer begins at; a server that ignores ranges begins at 0 again."""
    if status != http.HTTPStatus.PARTIAL_CONTENT:
        return 0
    if content_range is None or not content_range.startswith(f"bytes {there}-"):
        raise BadInput(f"the server answered byte {there} with {content_range!r}: it cannot continue a download")
    return there


def _copy(
    read: Callable[[int], bytes], write: Callable[[bytes], int], *, start: int, size: int, progress: Progress
) -> None:
    position = start
    while piece := read(CHUNK):
        position += len(piece)
        if position > size:
            raise BadInput(f"the server sends more than the archive's {size:,} bytes")
        write(piece)
        progress(position)
    if position < size:
        raise _LostError(f"the connection closed after {position:,} of {size:,} bytes")


def _opener() -> urllib.request.OpenerDirector:
    """One that knows http and https only: urllib's own would also follow file: and ftp: addresses."""
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


@contextmanager
def _shown(archive: Archive) -> Iterator[Progress]:
    """A progress bar in MiB for the bytes of one archive."""
    with progress_bar() as bar:
        shown = bar.add_task(f"{archive.name}, MiB", total=archive.size / 2**20)
        yield lambda count: bar.update(shown, completed=count / 2**20)
