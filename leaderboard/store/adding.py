"""Addition of runs to a store: copied into a corner of it, checked there, and renamed into place."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from leaderboard.boards.board import Board
from leaderboard.boards.installed import find_boards
from leaderboard.result import Result
from leaderboard.store.candidates import RECORD, Candidate, find_place
from leaderboard.store.checks import check_candidate
from leaderboard.store.folders import TRUTH, Survey, look_at_result, look_at_truth
from leaderboard.store.reading import StoredResult, take
from leaderboard.store.staging import TEST_RECORD, find_records, move_into_place, remove, stage
from leaderboard.store.truth import Truths
from piggyback.shell.errors import Fault, ResultError, shown

SAME_IN_BOTH: Final = ("benchmark", "task", "task_version", "method", "recipe", "seed", "trained_on", "fingerprints")
"""Fields that are the same in a run's two records, of val and of test."""


def add_run(store: Path, run_folder: Path, *, log: Path | None = None) -> list[StoredResult]:
    """Put a finished run into a store; adding the same run again changes nothing.

    Args:
        store: made if it is missing.
        run_folder: with ``result.json``, perhaps ``test-result.json`` (the same run on the test part, which becomes a
            result of its own), and the known evidence files.
        log: the run's output; an excerpt is kept.  By default ``log.txt`` of the run's folder.

    Returns:
        The stored results, whether new or stored before.

    Raises:
        ResultError: the run has no result, or the store would not show it: nothing is added then.
    """
    return [one for one, _ in put_run(store, run_folder, log=log)]


def put_run(store: Path, run_folder: Path, *, log: Path | None = None) -> list[tuple[StoredResult, bool]]:
    """As `add_run`; says for each result whether it is new."""
    boards = find_boards().boards
    truths = read_truths(store, boards=boards.values())
    staged: list[Path] = []
    try:
        candidates = []
        for record in find_records(run_folder):
            staged.append(stage(store, run_folder, record=record, log=log))
            name = f"{shown(run_folder)}/{record} is not added"
            candidates.append(look(staged[-1], boards=boards, truths=truths, name=name))
        refuse_strangers([candidate.result for candidate in candidates], run_folder)
        return [settle_down(store, one, boards=boards, truths=truths) for one in candidates]
    finally:
        for folder in staged:
            remove(folder)


def read_truths(store: Path, *, boards: Iterable[Board]) -> Truths:
    """The labels in a store that can be read."""
    found = Survey(root=store, boards=tuple(boards))
    if (store / TRUTH).is_dir():
        look_at_truth(found)
    return found.truths


def look(folder: Path, *, boards: Mapping[str, Board], truths: Truths, name: str) -> Candidate:
    """Check one result's folder as `read_store` does, except for its place.

    Args:
        folder: of the result.
        boards: of known benchmarks.
        truths: labels.
        name: beginning of the message.

    Raises:
        ResultError: it has faults; the message names the first.
    """
    seen = Survey(root=folder.parent)
    look_at_result(seen, folder.name)
    faults = [Fault(fault.kind, f"{place} {fault.message}") for place, fault in seen.faults]
    try:
        if not faults:
            _, files = seen.results[0]
            found = take(folder, place="", files=files, boards=boards, truths=truths)
            candidate = replace(found, place=find_place(found.result, found.data))
            faults = list(check_candidate(candidate))
    except Fault as fault:
        faults = [fault]
    if faults:
        first, more = faults[0], f" ({len(faults) - 1} more)" if len(faults) > 1 else ""
        where = f", {first.file}" if first.file not in ("", RECORD) else ""
        raise ResultError(f"{name}{where}: {shown(first.message, longest=400)}{more}", kind=first.kind)
    return candidate


def refuse_strangers(results: list[Result], run_folder: Path) -> None:
    """Refuse a second record that is not the same run's on the test part.

    Raises:
        ResultError: it is another run's.
    """
    if len(results) == 1:
        return
    first, second = results
    differing = [key for key in SAME_IN_BOTH if getattr(first, key) != getattr(second, key)]
    if first.split == "test" or second.split != "test":
        differing.append("split")
    if differing:
        names = f"{TEST_RECORD} is not of the run of {RECORD}: they differ in {', '.join(differing)}"
        raise ResultError(f"{shown(run_folder)} is not added: {names}")


def settle_down(
    store: Path, candidate: Candidate, *, boards: Mapping[str, Board], truths: Truths
) -> tuple[StoredResult, bool]:
    """Rename a staged result into place, or find that it is stored already.

    Raises:
        ResultError: what is there is damaged, or another result.
    """
    target = store / candidate.place
    new = not target.exists() and move_into_place(candidate.folder, target)
    damaged = f"{shown(target)} is there, but damaged"
    there = candidate if new else look(target, boards=boards, truths=truths, name=damaged)
    if there.data != candidate.data:
        raise ResultError(f"{shown(target)} is taken by another result; `piggyback leaderboard check` tells which")
    stored = StoredResult(root=store, place=there.place, run=there.run, result=there.result, files=there.files)
    return stored, new
