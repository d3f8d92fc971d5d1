"""Copies of runs, made in a corner of the store and renamed into place when they are complete."""

import os
import re
import shutil
import uuid
from pathlib import Path
from typing import Final

from leaderboard.store.candidates import EVIDENCE, LIMITS, RECORD
from leaderboard.store.folders import STAGED
from piggyback.shell.errors import Fault, ResultError, shown
from piggyback.shell.files import read_file, sync_folder

TEST_RECORD: Final = "test-result.json"
LOG: Final = "log.txt"
SITE_MARKER: Final = "piggyback-site.txt"
"""The file by which a folder is known as a page of ours, which holds copies of results."""

DEPTH: Final = 5
"""How many levels below a folder runs are looked for."""

HEAD: Final = 8 << 10
TAIL: Final = 24 << 10
"""Bytes of the beginning and of the end of a log that are kept."""

_ESCAPES: Final = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|[@-Z\\-_])")
"""Control sequences of terminals, ECMA-48 section 5.4."""


def find_runs(folder: Path, *, without: Path | None = None) -> list[Path]:
    """Find the run folders in a folder, or itself: those with a ``result.json``, by name; links are not followed.

    Args:
        folder: to look in, at most `DEPTH` levels deep.
        without: a folder to skip, such as the store.

    Raises:
        ResultError: the folder cannot be read.
    """
    found: list[Path] = []
    rest = [(folder, 0)]
    while rest:
        place, depth = rest.pop()
        if without is not None and place.resolve() == without.resolve():
            continue
        try:
            with os.scandir(place) as listed:
                entries = sorted(listed, key=lambda entry: entry.name, reverse=True)
        except OSError as fault:
            raise ResultError(f"cannot read {shown(place)}: {fault.strerror}") from None
        if any(entry.name == SITE_MARKER for entry in entries):
            continue
        if any(entry.name == RECORD for entry in entries):
            found.append(place)
        elif depth < DEPTH:
            rest += [
                (Path(entry.path), depth + 1)
                for entry in entries
                if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")
            ]
    return found


def find_log(run_folder: Path) -> Path | None:
    """Find a run's log: ``log.txt`` in its folder, or a sweep's ``jobs/<run>/log.txt`` some levels above."""
    if (run_folder / LOG).exists():
        return run_folder / LOG
    above = run_folder.resolve()
    places = (parent / "jobs" / above.name / LOG for parent in list(above.parents)[:4])
    return next((place for place in places if place.is_file()), None)


def find_records(run_folder: Path) -> list[str]:
    """The records of a run.

    Raises:
        ResultError: it has none.
    """
    if not (run_folder / RECORD).exists():
        raise ResultError(f"{shown(run_folder)} is not a finished run: it has no {RECORD}")
    return [RECORD, TEST_RECORD] if (run_folder / TEST_RECORD).exists() else [RECORD]


def stage(store: Path, run_folder: Path, *, record: str, log: Path | None) -> Path:
    """Copy one record of a run and its evidence into a new folder in ``STORE/.staged``.

    Raises:
        ResultError: a file cannot be read, is a link or too large.
    """
    folder = store / STAGED / uuid.uuid4().hex
    folder.mkdir(parents=True)
    try:
        for name in (RECORD, *EVIDENCE):
            source = run_folder / (record if name == RECORD else name)
            if name == LOG:
                _copy_log(log or source, folder / LOG)
            elif os.path.lexists(source):
                _write(folder / name, _read(source, limit=LIMITS[name]))
        sync_folder(folder)
    except BaseException:
        remove(folder)
        raise
    return folder


def _read(path: Path, *, limit: int) -> bytes:
    try:
        return read_file(path, limit=limit, follow=False, name=shown(path))
    except Fault as fault:
        raise ResultError(str(fault), kind=fault.kind) from None


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _copy_log(path: Path, target: Path) -> None:
    """Keep the beginning and the end of a log, if there is one."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(HEAD + TAIL if size <= HEAD + TAIL else HEAD)
            file.seek(max(len(head), size - TAIL))
            tail = file.read(TAIL)
    except FileNotFoundError:
        return
    except OSError as fault:
        raise ResultError(f"cannot read {shown(path)}: {fault.strerror}") from None
    left_out = size - len(head) - len(tail)
    gap = f"\n[... {left_out:,} bytes are left out here ...]\n" if left_out > 0 else ""
    _write(target, (plain(head) + gap + plain(tail)).encode())


def plain(data: bytes) -> str:
    """The text as a terminal would show it, without colours and characters that do not print."""
    text = _ESCAPES.sub("", data.decode(errors="replace")).replace("\r\n", "\n").replace("\r", "\n")
    return "".join(one if one.isprintable() or one in "\n\t" else "\N{REPLACEMENT CHARACTER}" for one in text)


def move_into_place(staged: Path, target: Path) -> bool:
    """Rename a staged folder; returns False if the place is taken, perhaps by a process at the same time."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        staged.rename(target)
    except OSError as fault:
        # A full folder is not replaced.  NFS can report an error for a rename that it did, when its first answer was
        # lost: then the place is taken, by ourselves.
        if (target / RECORD).exists():
            return False
        raise ResultError(f"cannot write {shown(target)}: {fault.strerror}") from None
    sync_folder(target.parent)
    return True


def remove(staged: Path) -> None:
    """Remove a staged folder, if it is still there."""
    shutil.rmtree(staged, ignore_errors=True)
