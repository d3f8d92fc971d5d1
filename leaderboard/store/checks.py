"""Checks of a record by itself; each is a small function that yields the faults it finds.

`leaderboard.store.evidence` has the checks of the files beside it.  Without a board for the benchmark, only the checks
that need none are made.
"""

import re
from collections.abc import Callable, Iterator
from typing import Final

from leaderboard.boards.board import Confusion
from leaderboard.store.candidates import Candidate, find_place
from leaderboard.store.evidence import check_files
from piggyback.shell.errors import Fault, shown

LONGEST: Final = 1_000  # characters of a text
_METRIC: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}(\+[0-9a-f]{64})?")
_ROUNDING: Final = 1e-9
_FORMULA: Final = ("=", "+", "-", "@")
"""Beginnings that a spreadsheet takes for a formula (owasp.org/www-community/attacks/CSV_Injection)."""

_PLAIN: Final = bytes(byte for byte in b"\n" + bytes(range(32, 127)) if byte not in b"<>\\")
_FORMULAS: Final = tuple(f'"{mark}'.encode() for mark in _FORMULA)


def check_place(candidate: Candidate) -> Iterator[Fault]:
    """The folder is where the record belongs."""
    expected = find_place(candidate.result, candidate.data, run=candidate.run)
    if candidate.place != expected:
        yield Fault("wrong-place", f"belongs in {expected}, by what it says")


def check_values(candidate: Candidate) -> Iterator[Fault]:
    """Texts print, and hold no markup and no formula."""
    data = candidate.data
    longest = max(map(len, data.split(b'"')))
    if longest <= LONGEST and not data.translate(None, _PLAIN) and not any(mark in data for mark in _FORMULAS):
        return  # as nearly all are: no text of these bytes can be refused, and a look at the values takes much longer
    rest: list[tuple[str, object]] = [("", candidate.result.model_dump())]
    while rest:
        place, value = rest.pop()
        if isinstance(value, str):
            reason = find_reason(value)
            if reason:
                yield Fault("unsafe-text", f"{place.lstrip('.')} {reason}: {shown(value, longest=60)!r}")
        elif isinstance(value, dict):
            for key in value:
                reason = find_reason(key)
                if reason:
                    yield Fault(
                        "unsafe-text", f"{place.lstrip('.')} has a key that {reason}: {shown(key, longest=60)!r}"
                    )
                else:
                    rest.append((f"{place}.{key}"[:100], value[key]))
        elif isinstance(value, list | tuple):
            rest.extend((place, one) for one in value)


def find_reason(text: str) -> str:
    """Describe why an untrusted text is not accepted; empty if it is."""
    if len(text) > LONGEST:
        return f"is longer than {LONGEST} characters"
    if not text.isprintable():
        return "has a character that does not print"
    if "<" in text or ">" in text:
        return "has < or >, as only markup needs"
    if text.startswith(_FORMULA):
        return "begins as a formula of a spreadsheet does"
    return ""


def check_task(candidate: Candidate) -> Iterator[Fault]:
    """Task and split are the benchmark's."""
    board, result = candidate.board, candidate.result
    if board is None:
        return
    if not board.has_task(result.task):
        yield Fault("unknown-task", f"{shown(result.task, longest=60)} is none of {', '.join(board.names)}")
    if not board.has_split(result.split):
        yield Fault("unknown-split", f"{shown(result.split, longest=60)} is none of {', '.join(board.splits)}")


def check_metric_names(candidate: Candidate) -> Iterator[Fault]:
    """The metrics are those of the benchmark."""
    board, result = candidate.board, candidate.result
    for metric in () if board is None else board.metrics:
        needed = metric.needed == "always" or (metric.needed == "measured" and result.origin == "measured")
        if needed and metric.name not in result.metrics:
            yield Fault("missing-metric", f"has no {metric.name}")
    for name in result.metrics:
        if board is not None and name in board.foreign_metrics:
            yield Fault("foreign-metric", f"has {name}, which is no number of {result.benchmark}")
        elif not _METRIC.fullmatch(name):
            yield Fault("bad-name", f"has a metric {shown(name, longest=60)!r}; names are such as train_loss")


def check_sums(candidate: Candidate) -> Iterator[Fault]:
    """Numbers that follow from each other agree; accuracy and error against counts are the record's own rule."""
    board, result = candidate.board, candidate.result
    if board is not None and isinstance(board.evidence, Confusion):
        yield from check_pixels(candidate, board.evidence)
    zeros = result.metrics.get("zeros")
    if zeros is not None and not 0 <= zeros <= 1:
        yield Fault("sums", f"has {zeros} zeros; that is a share of the weights, in [0, 1]")
    seed = (result.recipe or {}).get("seed", result.seed)
    if seed != result.seed or type(seed) is bool:
        yield Fault("sums", f"has the seed {result.seed}, and in its recipe {shown(seed, longest=40)}")


def check_pixels(candidate: Candidate, evidence: Confusion) -> Iterator[Fault]:
    """The pixel accuracy follows from the counts, and no more classes are judged than there are."""
    result = candidate.result
    accuracy, classes = (result.metrics.get(name) for name in ("pixel_accuracy", "classes"))
    if accuracy is not None and result.counts is not None:
        counted = result.counts.correct / result.counts.n
        if abs(accuracy - counted) > _ROUNDING:
            found = f"{result.counts.correct} of {result.counts.n}"
            yield Fault("sums", f"has pixel_accuracy {accuracy!r}, and {found}, which is {counted!r}")
    if classes is not None and not (1 <= classes <= len(evidence.classes) and classes.is_integer()):
        yield Fault("sums", f"has {classes} classes; the benchmark has {len(evidence.classes)}")


def check_official(candidate: Candidate) -> Iterator[Fault]:
    """A result of official data has as many pictures as the official release."""
    board, result = candidate.board, candidate.result
    if board is None or not result.official_data or result.counts is None or not board.has_split(result.split):
        return
    official = board.count_official(result.task, result.split)
    if official is not None and result.counts.n != official:
        yield Fault("not-official", f"says to be official, of {result.counts.n} pictures; the release has {official}")


def check_fingerprints(candidate: Candidate) -> Iterator[Fault]:
    """Fingerprints are sha256 digests; data may have two, of what was trained on and of what was judged."""
    prints = candidate.result.fingerprints
    for name in ("data", "backbone", "predictions") if prints is not None else ():
        value = getattr(prints, name)
        if value is not None and not _DIGEST.fullmatch(value):
            yield Fault("bad-fingerprint", f"has {shown(value, longest=60)!r} as {name}, which is no sha256")


RECORD_CHECKS: Final[tuple[Callable[[Candidate], Iterator[Fault]], ...]] = (
    check_place,
    check_values,
    check_task,
    check_metric_names,
    check_sums,
    check_official,
    check_fingerprints,
    check_files,
)


def check_candidate(candidate: Candidate) -> Iterator[Fault]:
    """All checks of one result; if one cannot continue, the others still run."""
    for check in RECORD_CHECKS:
        try:
            yield from check(candidate)
        except Fault as fault:
            yield fault
