"""Stores: a folder of result files, one folder per result, written whole and never changed.

    STORE/<benchmark>/<task>/<method>/seed<seed>-<run key>-<attempt key>/result.json, and the evidence beside it
    STORE/truth/decathlon-<task>-<split>.json    labels, where the store's owner puts them there

A result is made in ``STORE/.staged`` and renamed into place: any number of processes on any number of machines can add
to one store, without locks.  There is no index: 10,000 results are read in seconds.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from leaderboard.faults import Fault, shown
from leaderboard.files import read_file
from leaderboard.result import Result, ResultError, parse_result
from leaderboard.store.candidates import LIMITS, RECORD, Candidate, attempt_key, find_place, run_key
from leaderboard.store.checks import check_candidate
from leaderboard.store.folders import TRUTH, Survey, look_at_result, look_at_truth, survey
from leaderboard.store.spreading import spread
from leaderboard.store.staging import TEST_RECORD, find_records, move_into_place, remove, stage
from leaderboard.store.truth import Truths

__all__ = ["Finding", "StoredResult", "add_run", "attempt_key", "read_store", "run_key"]

SAME_IN_BOTH: Final = ("benchmark", "task", "task_version", "method", "recipe", "seed", "trained_on", "fingerprints")
"""What a run's two records, of val and of test, say alike."""


@dataclass(frozen=True, kw_only=True)
class StoredResult:
    """A result of a store that passed every check.

    Attributes:
        root: the store.
        place: folder of the result below the root, with ``/``; letters, digits, dot, dash and underscore only.
        run: key of the run; the same for every attempt at it.
        result: the record.
        files: names of the evidence files that lie beside it, of those that are known.
    """

    root: Path
    place: str
    run: str
    result: Result
    files: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Where it lies."""
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

    Of several attempts at a run that agree in every number, the first by place is given; where they do not agree, none
    is, and each is a finding.

    Args:
        root: the store.
        labels: more labels to count right pictures with, beside those in ``STORE/truth``.

    Returns:
        The results without any finding, in the order of their places, and all findings, in the order of theirs.

    Raises:
        ResultError: there is no such folder.
    """
    if not root.is_dir():
        raise ResultError(f"{shown(root)} is no store: there is no such folder; `piggyback leaderboard add` makes one")
    seen = survey(root)
    spoilt = {place.rpartition("/")[0] for place, _ in seen.faults} | {place for place, _ in seen.faults}
    results: list[StoredResult] = []
    findings = list(seen.faults)
    truths = {**seen.truths, **(labels or {})}

    def judge(one: tuple[str, tuple[str, ...]]) -> tuple[StoredResult | None, list[tuple[str, str, str]]]:
        return judge_result(root, place=one[0], files=one[1], truths=truths)

    for (place, _), (stored, faults) in zip(seen.results, spread(judge, seen.results), strict=True):
        findings.extend((place, Fault(kind, message, file=file)) for kind, message, file in faults)
        if stored is not None and place not in spoilt:
            results.append(stored)
    agreed, disputes = settle(results)
    findings.extend(disputes)
    told = [describe(place, fault) for place, fault in findings]
    return agreed, sorted(told, key=lambda one: (one.place, one.kind, one.message))


def judge_result(
    root: Path, *, place: str, files: tuple[str, ...], truths: Truths
) -> tuple[StoredResult | None, list[tuple[str, str, str]]]:
    """A result, or the kind, message and file of each of its faults."""
    try:
        candidate = take(root / place, place=place, files=files, truths=truths)
    except Fault as fault:
        return None, [(fault.kind, fault.message, fault.file)]
    faults = [(fault.kind, fault.message, fault.file) for fault in check_candidate(candidate)]
    if faults:
        return None, faults
    return StoredResult(root=root, place=place, run=candidate.run, result=candidate.result, files=files), []


def describe(place: str, fault: Fault) -> Finding:
    """A fault as it may be shown."""
    where = f"{place}/{fault.file}" if fault.file else place
    return Finding(place=shown(where, longest=300), kind=fault.kind, message=shown(fault.message, longest=400))


def take(folder: Path, *, place: str, files: tuple[str, ...], truths: Truths) -> Candidate:
    """Read a result's record, for the checks.

    Raises:
        Fault: it cannot be read or is none.
    """
    try:
        data = read_file(f"{folder}/{RECORD}", limit=LIMITS[RECORD])
        result = parse_result(data, name=RECORD)
    except ResultError as fault:
        raise Fault(fault.kind, str(fault), file=RECORD) from None
    except Fault as fault:
        raise Fault(fault.kind, fault.message, file=RECORD) from None
    return Candidate(folder=folder, place=place, data=data, result=result, files=files, truths=truths)


def settle(results: list[StoredResult]) -> tuple[list[StoredResult], list[tuple[str, Fault]]]:
    """One result per run; those of runs that several results claim with other numbers are faults."""
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
    """What two attempts at a run must agree in: all that is shown, not where, when and how long."""
    return (
        *(result.metrics, result.counts, result.bits, result.parameter_ratio, result.official_data, result.origin),
        *(result.fingerprints, result.citation, result.table, result.label, result.link, result.note),
    )


def add_run(store: Path, run_folder: Path, *, log: Path | None = None) -> list[StoredResult]:
    """Put a finished run into a store; the same run again changes nothing.

    Args:
        store: is made where it is not there.
        run_folder: with ``result.json``, perhaps ``test-result.json`` (the same run on the test part, which becomes a
            result of its own), and the evidence files that are known.
        log: what the run printed; an excerpt is kept.  ``log.txt`` of the run's folder when not given.

    Returns:
        The stored results, whether they are new or were there.

    Raises:
        ResultError: the run has no result, or the store would not show it: nothing is added then.
    """
    return [one for one, _ in put_run(store, run_folder, log=log)]


def put_run(store: Path, run_folder: Path, *, log: Path | None = None) -> list[tuple[StoredResult, bool]]:
    """As `add_run`; says of each result whether it is new."""
    truths = read_truths(store)
    staged: list[Path] = []
    try:
        candidates = []
        for record in find_records(run_folder):
            staged.append(stage(store, run_folder, record=record, log=log))
            candidates.append(look(staged[-1], truths=truths, name=f"{shown(run_folder)}/{record} is not added"))
        refuse_strangers([candidate.result for candidate in candidates], run_folder)
        return [settle_down(store, one, truths=truths) for one in candidates]
    finally:
        for folder in staged:
            remove(folder)


def read_truths(store: Path) -> Truths:
    """The labels in a store that can be read."""
    found = Survey(root=store)
    if (store / TRUTH).is_dir():
        look_at_truth(found)
    return found.truths


def look(folder: Path, *, truths: Truths, name: str) -> Candidate:
    """Check one result's folder as `read_store` does, except for where it lies.

    Args:
        folder: of the result.
        truths: labels.
        name: beginning of the message.

    Raises:
        ResultError: it has faults; the message tells the first.
    """
    seen = Survey(root=folder.parent)
    look_at_result(seen, folder.name)
    faults = [Fault(fault.kind, f"{place} {fault}") for place, fault in seen.faults]
    try:
        if not faults:
            _, files = seen.results[0]
            found = take(folder, place="", files=files, truths=truths)
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
    """A run's second record must be of the same run, on the test part.

    Raises:
        ResultError: it is not.
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


def settle_down(store: Path, candidate: Candidate, *, truths: Truths) -> tuple[StoredResult, bool]:
    """Rename a staged result into place, or find that it is there.

    Raises:
        ResultError: what is there is damaged, or another result.
    """
    target = store / candidate.place
    new = not target.exists() and move_into_place(candidate.folder, target)
    there = candidate if new else look(target, truths=truths, name=f"{shown(target)} is there, but damaged")
    if there.data != candidate.data:
        raise ResultError(f"{shown(target)} is taken by another result; `piggyback leaderboard check` tells which")
    stored = StoredResult(root=store, place=there.place, run=there.run, result=there.result, files=there.files)
    return stored, new
