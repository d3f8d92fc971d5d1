"""Reproduced?  Measured numbers beside the published ones of the same method, with a verdict on each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from leaderboard.statistics.entries import Entry, Protocol, Value
from leaderboard.statistics.ranking import can_be_ranked
from leaderboard.tables.view_builders import KINDS, SCORE, Shown, every, left_out_notes, sources, value_cell
from leaderboard.tables.views import Cell, Column, Kind, Row, View
from piggyback.shell.errors import ResultError
from piggyback.shell.errors import shown as plain

POINT: Final = 0.01
"""One percentage point, as a fraction."""
_ROUNDING: Final = 1e-9
_LEAST_DIGITS: Final = 4

VERDICT_NOTE: Final = (
    "A verdict is given only where both numbers are of official data, of the same split, of training parts that are "
    "not known to differ, and of the same network; a backbone's fingerprint says nothing about that, so name the "
    "backbones that you hold for it with --same-backbone. Then: within spread, when the difference is at most "
    "twice the standard deviation over at least 2 seeds; else within 1 point, at most one percentage point (a score "
    "has none such); else above or below the published number."
)


@dataclass(frozen=True, kw_only=True)
class HeldBackbone:
    """A user's backbone that counts as the network of published rows.

    Attributes:
        digits: the first of its fingerprint, at least 4.
        network: beginning of the published network's name, such as ``WRN-28-4``.
    """

    digits: str
    network: str

    def __post_init__(self) -> None:
        if len(self.digits) < _LEAST_DIGITS or not self.network:
            raise ResultError(
                f"{plain(self.digits)}={plain(self.network)} names no backbone: give at least {_LEAST_DIGITS} digits "
                "of its fingerprint, and the published network, as 4fe2b0=WRN-28-4"
            )

    def is_published(self, measured: Protocol, published: Protocol) -> bool:
        """Whether a measured protocol has this backbone, and a published protocol the network that it counts as."""
        digits = measured.backbone.removeprefix("backbone ")
        return self.digits[: len(digits)] == digits[: len(self.digits)] and published.backbone.lower().startswith(
            self.network.lower()
        )


def verdict(measured: Value, published: float, *, points: bool = False) -> str:
    """Judge a measured number beside a published one of the same protocol: the one rule, `VERDICT_NOTE` in code.

    Args:
        measured: fractions in [0, 1], or a score.
        published: in the same unit.
        points: whether they are a score, for which one percentage point has no meaning: its worth in points depends
            on the task.

    Returns:
        ``within spread``, ``within 1 point``, ``above`` or ``below``.
    """
    difference = measured.mean - published
    if measured.spread is not None and abs(difference) <= 2.0 * measured.spread + _ROUNDING:
        return "within spread"
    if abs(difference) <= (0.0 if points else POINT) + _ROUNDING:
        return "within 1 point"
    return "above" if difference > 0 else "below"


def why_not_comparable(measured: Protocol, published: Protocol, *, held: Sequence[HeldBackbone] = ()) -> str:
    """Known differences of two protocols, in words; empty if numbers under them may be compared.

    Args:
        measured: of an entry of a store.
        published: of a published row.
        held: the user's backbones that count as published ones.
    """
    reasons = []
    if measured.official is not True:
        reasons.append("not official data")
    if measured.split != published.split:
        reasons.append(f"{measured.split}, published {published.split}")
    if None not in (measured.trained_on, published.trained_on) and measured.trained_on != published.trained_on:
        reasons.append(f"trained on {measured.trained_on}, published on {published.trained_on}")
    if not any(one.is_published(measured, published) for one in held):
        reasons.append("other or unknown backbone")
    return "; ".join(reasons)


def reproduced_view(
    entries: Sequence[Entry], *, shown: Shown = every, left_out: int = 0, held: Sequence[HeldBackbone] = ()
) -> View:
    """Each measured entry beside each verified published row of its method, number by number.

    Args:
        entries: measured and published ones; unverified ones are ignored.
        shown: which of the measured ones.
        left_out: number of results that did not pass the checks, for a note.
        held: as for `why_not_comparable`.
    """
    columns = (
        Column(key="method", title="method", kind="text"),
        Column(key="number", title="number", kind="text"),
        Column(key="measured", title="measured", kind="percent"),
        Column(key="n", title="n", kind="count", note="seeds"),
        Column(key="published", title="published", kind="percent"),
        Column(key="difference", title="difference", kind="percent"),
        Column(key="verdict", title="verdict", kind="verdict", note=VERDICT_NOTE),
        Column(key="reason", title="because", kind="text"),
    )
    measured = [entry for entry in entries if entry.evidence == "measured" and shown(entry)]
    published = [entry for entry in entries if entry.evidence == "published" and can_be_ranked(entry)]
    pairs = [
        (entry, other)
        for entry in measured
        for other in published
        if (entry.benchmark, entry.method) == (other.benchmark, other.method)
    ]
    rows = [row for pair in pairs for row in _rows(*pair, held=held)]
    alone = {(e.benchmark, e.method) for e in measured} - {(e.benchmark, e.method) for e, _ in pairs}
    notes = [VERDICT_NOTE] if rows else ["No method of the measured results has a published row that was verified."]
    if rows and alone:
        names = ", ".join(sorted({method[:40] for _, method in alone})[:20])
        notes.append(f"Without a verified published row: {names}.")
    if rows:
        notes += [f"Held for {one.network}, as asked for: the backbone {one.digits}." for one in held]
    notes += dict.fromkeys(f"{entry.label}: {entry.protocol.label}." for pair in pairs for entry in pair)
    notes += dict.fromkeys(note for _, other in pairs for note in sources([other]))
    return View(
        name="reproduced",
        title="Reproduced? Measured beside published (%; scores in points)",
        columns=columns,
        rows=rows,
        notes=(*notes, *left_out_notes(left_out)),
    )


def _numbers(entry: Entry) -> Iterator[tuple[str, str, Value, Kind]]:
    """Name, title, value and kind of all numbers of an entry."""
    board = entry.board
    if board.across == "metrics":
        for metric in board.metrics:
            if metric.name in entry.values:
                yield metric.name, metric.title, entry.values[metric.name], KINDS[metric.unit]
        return
    kind = KINDS[board.main.unit]
    for name, task in board.tasks.items():
        if name in entry.values:
            yield name, task.title, entry.values[name], kind
    if entry.mean is not None:
        yield "mean", "mean", entry.mean, kind
    if board.total is not None and entry.total is not None:
        yield SCORE, "score", entry.total, "points"


def _rows(entry: Entry, other: Entry, *, held: Sequence[HeldBackbone]) -> Iterator[Row]:
    reason = why_not_comparable(entry.protocol, other.protocol, held=held)
    theirs = {name: value for name, _, value, _ in _numbers(other)}
    for name, title, value, kind in _numbers(entry):
        if name not in theirs:
            continue
        said = "not comparable" if reason else verdict(value, theirs[name].mean, points=kind != "percent")
        yield Row(
            entry=entry,
            beside=other,
            cells={
                "method": Cell(value=entry.label, hint=entry.protocol.label),
                "number": Cell(value=title, hint=name),
                "measured": value_cell(value, kind=kind),
                "n": Cell(value=value.n),
                "published": Cell(value=theirs[name].mean, hint=f"{other.label}: {other.table}", kind=kind),
                "difference": Cell(value=value.mean - theirs[name].mean, kind=kind, hint=reason),
                "verdict": Cell(value=said, hint=reason),
                "reason": Cell(value=reason),
            },
        )
