"""What the `prepare` of every benchmark does alike: pack what is not packed yet, and report what became of it.

A benchmark says where its pictures are, what belongs to them and what makes them official.  What is packed already is
left alone; what is packed from other lists, or damaged, is packed again; one process at a time packs into a folder.
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
    """What became of one thing to be packed: a task, a split.

    Attributes:
        official: it is the official release's, and all of it is there.
        problems: what kept it from being packed; empty where it was.
        fresh: it was packed by this call and not found finished.
    """

    official: bool = False
    problems: tuple[str, ...] = ()
    fresh: bool = True

    @property
    def state(self) -> str:
        """In a word or two, for a table."""
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
    """The outcome of a folder that is packed already, or of packing it.

    Args:
        folder: to pack into, made where it is missing; one that stays empty is removed.
        manifest: the file that makes it finished.
        finished: gives the outcome where the folder has what is wanted; else raises BadInput, which says why not.
        pack: packs, and writes the manifest last.
        stale: the packed files that are deleted before it is packed again.

    Raises:
        BadInput: another process packs into the folder.
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
    """Make the folder that packed folders go into; what the system refuses in the block becomes one line.

    Raises:
        BadInput: it is a file, or it cannot be written.
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
    """Keep a folder to this process while the block packs into it."""
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
    """One line per kind of fault: how many files, and the first few by name.

    Args:
        what: the files are.
        count: how many there should be.
        missing: names of those that were not found.
        faulty: what is wrong with the others, in words that name the file.
        listed: where their names are from.
        searched: the places that were looked at.
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
    """The first few of the lines about what was left out of a source, each once, and one that counts the others."""
    lines = list(dict.fromkeys(lines))
    more = len(lines) - NAMED
    return (*lines[:NAMED], *([f"and {more} more left out"] if more > 0 else []))


def show_outcomes(title: str, *columns: str, rows: list[tuple[str, ...]], notes: Mapping[str, Sequence[str]]) -> None:
    """Print a table for a person, and below it the lines about each row, by its name."""
    table(title, *columns, "official", "state", rows=rows)
    for name, lines in notes.items():
        for line in lines:
            out.print(f"{name}: {line}", markup=False, soft_wrap=True)
