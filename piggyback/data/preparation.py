"""Preparation of packed folders, for the `prepare` of every benchmark: pack what is missing and report each outcome.

A benchmark says where its pictures are, what belongs to them and what makes them official.  What is packed already is
left alone; what was packed from other lists, or is damaged, is packed again.  Only one process packs into a folder.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from piggyback.shell.console import notice, out, table
from piggyback.shell.errors import BadInput, one_line, refusal
from piggyback.shell.lock import LOCK, hold

NAMED: Final = 3
"""How many files a message names before it only counts."""

R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Outcome of packing one task or split.

    Attributes:
        official: it is the complete official release.
        problems: why it could not be packed; empty if it was.
        fresh: it was packed by this call, not found finished.
    """

    official: bool = False
    problems: tuple[str, ...] = ()
    fresh: bool = True

    @property
    def state(self) -> str:
        """One or two words for a table."""
        if self.problems:
            return "problems"
        return "packed" if self.fresh else "was packed"

    @property
    def cells(self) -> tuple[str, str]:
        """The last two columns of a table."""
        return "yes" if self.official else "no", self.state


def pack_unless_finished(
    folder: Path,
    *,
    manifest: Path,
    finished: Callable[[], R],
    pack: Callable[[], R],
    stale: Callable[[], Iterable[Path]],
) -> R:
    """Pack a folder unless it is finished, and return the outcome.

    Args:
        folder: folder to pack into, made if it is missing; removed again if it stays empty.
        manifest: file whose presence says that the folder is finished.
        finished: returns the outcome if the folder has what is wanted; else raises BadInput with the reason.
        pack: packs, and writes the manifest last.
        stale: packed files to delete before packing again.

    Raises:
        BadInput: another process is packing into the folder.
    """
    if manifest.exists():
        with suppress(BadInput):  # nothing is to be written, so the folder need not be held, nor be writable
            return finished()
    with _held(folder):
        if manifest.exists():  # still, or another process has finished meanwhile
            try:
                return finished()
            except BadInput as fault:
                notice(f"{folder.name}: {fault}; packing it again")
            manifest.unlink()  # first: without it the folder is unfinished, whatever else is left
            for path in stale():
                path.unlink(missing_ok=True)
        return pack()


@contextmanager
def packing_below(out: Path) -> Iterator[None]:
    """Make the parent of packed folders; an OSError in the block becomes a one-line message.

    Raises:
        BadInput: it is a file, or cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise BadInput(f"{one_line(out)} is a file: give a folder to pack into, new or not")
    try:
        out.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as fault:
        raise BadInput(f"cannot prepare {one_line(out)}: {refusal(fault)}") from None


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Lock a folder for this process while the block packs into it."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with hold(folder, work="packing into"):
            for left in folder.glob(".*.tmp"):  # of a process that was killed while it wrote
                if not left.is_dir():
                    left.unlink(missing_ok=True)
            yield
    finally:
        if {path.name for path in folder.iterdir()} <= {LOCK} and not folder.is_symlink():
            shutil.rmtree(folder)


def find_problems(
    what: str, *, count: int, missing: Sequence[str], faulty: Sequence[str], listed: str, searched: str
) -> list[str]:
    """One line per kind of fault: how many files, and the names of the first few.

    Args:
        what: a noun for the files.
        count: how many there should be.
        missing: names of those that were not found.
        faulty: what is wrong with the others; each text names its file.
        listed: source of their names.
        searched: places that were searched.
    """
    problems = []
    if missing:
        which = f"{len(missing)} of the {count} {what} listed in {listed} are missing"
        problems.append(f"{which} in {searched}: {name_first(missing, joint=', ')}")
    if faulty:
        problems.append(f"{len(faulty)} of the {count} {what} are unusable: {name_first(faulty, joint='; ')}")
    return problems


def name_first(texts: Sequence[str], *, joint: str) -> str:
    """The first few texts on one line, and how many more there are."""
    more = len(texts) - NAMED
    return joint.join(texts[:NAMED]) + (f"{joint}and {more} more" if more > 0 else "")


def keep_first(lines: Sequence[str]) -> tuple[str, ...]:
    """The first few different lines about what was left out of a source, and one that counts the rest."""
    lines = list(dict.fromkeys(lines))
    more = len(lines) - NAMED
    return (*lines[:NAMED], *([f"and {more} more left out"] if more > 0 else []))


def show_outcomes(title: str, *columns: str, rows: list[tuple[str, ...]], notes: Mapping[str, Sequence[str]]) -> None:
    """Print a table, and below it the lines about each row, by its name."""
    table(title, *columns, "official", "state", rows=rows)
    for name, lines in notes.items():
        for line in lines:
            out.print(f"{name}: {line}", markup=False, soft_wrap=True)
