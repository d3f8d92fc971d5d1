"""Reading of a store: a folder of result files, one folder per result, written atomically and never changed.

    STORE/<benchmark>/<task>/<method>/seed<seed>-<run key>-<attempt key>/result.json, and the evidence beside it
    STORE/truth/<benchmark>-<task>-<split>.json    labels, if the store's owner puts them there

A result is made in ``STORE/.staged`` and renamed into place: any number of processes on any number of machines can add
to one store, without locks.  There is no index: 10,000 results are read in seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from leaderboard.boards.board import Board
from leaderboard.boards.installed import find_boards
from leaderboard.result import Result, parse_result
from leaderboard.store.candidates import LIMITS, RECORD, Candidate
from leaderboard.store.checks import check_candidate
from leaderboard.store.folders import survey
from leaderboard.store.processes import spread
from leaderboard.store.truth import Truths
from piggyback.shell.errors import Fault, ResultError, shown
from piggyback.shell.files import read_file


@dataclass(frozen=True, kw_only=True)
class StoredResult:
    """A result of a store that passed every check.

    Attributes:
        root: the store.
        place: folder of the result below the root, with ``/``; letters, digits, dot, dash and underscore only.
        run: key of the run; the same for every attempt at it.
        result: the record.
        files: names of the known evidence files beside it.
    """

    root: Path
    place: str
    run: str
    result: Result
    files: tuple[str, ...]

    @property
    def folder(self) -> Path:
        return self.root / self.place


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A fault of a store.

    Attributes:
        place: path below the root, as it may be shown: escaped, shortened.
        kind: a word for the kind of fault, such as ``not-json``.
        message: what is wrong, what was found, what to do; one line.
    """

    place: str
    kind: str
    message: str


def read_store(root: Path, *, labels: Truths | None = None) -> tuple[list[StoredResult], list[Finding]]:
    """Read and check a store.

    Of several attempts at a run that agree in every number, the first by place is returned; if they do not agree, none
    is, and each is a finding.

    Args:
        root: the store.
        labels: further labels to recount right pictures with, beside those in ``STORE/truth``.

    Returns:
        The results without any finding, and all findings, both in the order of their places.

    Raises:
        ResultError: there is no such folder.
    """
    if not root.is_dir():
        raise ResultError(f"{shown(root)} is no store: there is no such folder; `piggyback leaderboard add` makes one")
    boards = find_boards().boards
    seen = survey(root, boards=tuple(boards.values()))
    spoilt = {place.rpartition("/")[0] for place, _ in seen.faults} | {place for place, _ in seen.faults}
    results: list[StoredResult] = []
    findings = list(seen.faults)
    truths = {**seen.truths, **(labels or {})}

    def judge(one: tuple[str, tuple[str, ...]]) -> tuple[StoredResult | None, list[tuple[str, str, str]]]:
        return judge_result(root, place=one[0], files=one[1], boards=boards, truths=truths)

    for (place, _), (stored, faults) in zip(seen.results, spread(judge, seen.results), strict=True):
        findings.extend((place, Fault(kind, message, file=file)) for kind, message, file in faults)
        if stored is not None and place not in spoilt:
            results.append(stored)
    agreed, disputes = settle(results)
    findings.extend(disputes)
    described = [describe(place, fault) for place, fault in findings]
    return agreed, sorted(described, key=lambda one: (one.place, one.kind, one.message))


def judge_result(
    root: Path, *, place: str, files: tuple[str, ...], boards: Mapping[str, Board], truths: Truths
) -> tuple[StoredResult | None, list[tuple[str, str, str]]]:
    """Check a result; returns it, or the kind, message and file of each of its faults."""
    try:
        candidate = take(root / place, place=place, files=files, boards=boards, truths=truths)
    except Fault as fault:
        return None, [(fault.kind, fault.message, fault.file)]
    faults = [(fault.kind, fault.message, fault.file) for fault in check_candidate(candidate)]
    if faults:
        return None, faults
    return StoredResult(root=root, place=place, run=candidate.run, result=candidate.result, files=files), []


def describe(place: str, fault: Fault) -> Finding:
    """The finding for a fault, escaped and shortened."""
    where = f"{place}/{fault.file}" if fault.file else place
    return Finding(place=shown(where, longest=300), kind=fault.kind, message=shown(fault.message, longest=400))


def take(folder: Path, *, place: str, files: tuple[str, ...], boards: Mapping[str, Board], truths: Truths) -> Candidate:
    """Read a result's record, for the checks.

    Raises:
        Fault: it cannot be read or is not a record.
    """
    try:
        data = read_file(f"{folder}/{RECORD}", limit=LIMITS[RECORD], follow=False, name=RECORD)
        result = parse_result(data, name=RECORD)
    except ResultError as fault:
        raise Fault(fault.kind, str(fault), file=RECORD) from None
    board = boards.get(result.benchmark)
    return Candidate(folder=folder, place=place, data=data, result=result, files=files, board=board, truths=truths)


def settle(results: list[StoredResult]) -> tuple[list[StoredResult], list[tuple[str, Fault]]]:
    """Keep one result per run; results that claim one run with different numbers are faults."""
    claims: dict[str, list[StoredResult]] = {}
    for one in results:
        claims.setdefault(one.run, []).append(one)
    agreed: list[StoredResult] = []
    disputes: list[tuple[str, Fault]] = []
    for run, claimed in claims.items():
        if all(numbers(one.result) == numbers(claimed[0].result) for one in claimed[1:]):
            agreed.append(claimed[0])
        else:
            message = f"claims the run {run} as {len(claimed) - 1} more do, with other numbers; keep one of them"
            disputes.extend((one.place, Fault("duplicate-run", message)) for one in claimed)
    return agreed, disputes


def numbers(result: Result) -> tuple[object, ...]:
    """Properties in which two attempts at a run must agree: all that is shown, but not where, when and how long."""
    return (
        *(result.metrics, result.counts, result.bits, result.parameter_ratio, result.official_data, result.origin),
        *(result.fingerprints, result.citation, result.table, result.label, result.link, result.note),
    )
