"""Folders of a store: their contents, and what must not be in them."""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from leaderboard.boards.board import Answers, Board
from leaderboard.store.candidates import LIMITS, NAME, RECORD
from leaderboard.store.truth import Truth, TruthKey, find_key, read_truth
from piggyback.shell.errors import Fault

DEPTH: Final = 4  # benchmark, task, method, result
STAGED: Final = ".staged"
"""Folder of what is being added; it is renamed into place when it is whole."""

TRUTH: Final = "truth"
LEFT_OVER_S: Final = 86_400.0


@dataclass(kw_only=True)
class Survey:
    """The contents of a store's folders.

    Attributes:
        root: the store.
        boards: whose pictures may have labels there.
        results: place and known files of every result, in the order of the places.
        faults: place and fault of what must not be there.
        truths: labels by benchmark, task and split.
    """

    root: Path
    boards: Sequence[Board] = ()
    results: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    faults: list[tuple[str, Fault]] = field(default_factory=list)
    truths: dict[TruthKey, Truth] = field(default_factory=dict)

    def note(self, place: str, kind: str, message: str) -> None:
        """Add a fault."""
        self.faults.append((place, Fault(kind, message)))

    def entries(self, place: str) -> Iterator[os.DirEntry[str]]:
        """Contents of a folder, sorted by name; links are noted as faults and left out."""
        try:
            with os.scandir(self.root / place) as listed:
                found = sorted(listed, key=lambda entry: entry.name)
        except OSError as fault:
            self.note(place, "unreadable", f"cannot be read: {fault.strerror}")
            return
        for entry in found:
            if entry.is_symlink():
                self.note(join(place, entry.name), "link", "is a link; a store holds files and folders themselves")
            else:
                yield entry


def join(place: str, name: str) -> str:
    return f"{place}/{name}" if place else name


def survey(root: Path, *, boards: Sequence[Board]) -> Survey:
    """List the folders of a store; only labels are read."""
    found = Survey(root=root, boards=boards)
    look_below(found, "", depth=0)
    return found


def look_below(found: Survey, place: str, *, depth: int) -> None:
    """Note the contents of a folder of benchmarks, tasks, methods or results."""
    for entry in found.entries(place):
        below, folder = join(place, entry.name), entry.is_dir(follow_symlinks=False)
        if not depth and folder and entry.name == STAGED:
            look_at_staged(found)
        elif not depth and folder and entry.name == TRUTH:
            look_at_truth(found)
        elif not folder:
            found.note(below, "unknown-file", "is a file where only folders are; take it out of the store")
        elif not NAME.fullmatch(entry.name):
            found.note(below, "bad-name", "is no name of a folder of ours; take it out of the store")
        elif depth < DEPTH - 1:
            look_below(found, below, depth=depth + 1)
        else:
            look_at_result(found, below)


def look_at_result(found: Survey, place: str) -> None:
    """Note the files of one result."""
    names = []
    for entry in found.entries(place):
        if entry.name not in LIMITS:
            found.note(join(place, entry.name), "unknown-file", f"is none of {', '.join(LIMITS)}")
        else:
            names.append(entry.name)
    if RECORD not in names:
        found.note(place, "no-result", f"has no {RECORD}")
    else:
        found.results.append((place, tuple(name for name in LIMITS if name in names and name != RECORD)))


def look_at_staged(found: Survey) -> None:
    """Note folders that killed processes left while they added runs; new ones may be in progress."""
    for entry in found.entries(STAGED):
        try:
            age = time.time() - entry.stat(follow_symlinks=False).st_mtime
        except FileNotFoundError:  # it was just renamed into place
            continue
        if age > LEFT_OVER_S:
            found.note(join(STAGED, entry.name), "left-over", "was left more than a day ago by a process that ended")


def look_at_truth(found: Survey) -> None:
    """Read the labels that the store's owner put there."""
    for entry in found.entries(TRUTH):
        place, named = join(TRUTH, entry.name), find_key(entry.name, found.boards)
        if named is None:
            known = ", ".join(board.name for board in found.boards if isinstance(board.evidence, Answers)) or "none"
            message = (
                f"is not called <benchmark>-<task>-<split>.json, of a benchmark whose pictures are judged: {known}"
            )
            found.note(place, "unknown-file", message)
            continue
        board, task, split = named
        try:
            truth = read_truth(found.root / place, board=board, task=task, split=split)
        except Fault as fault:
            found.faults.append((place, fault))
        else:
            found.truths[board.name, task, split] = truth
