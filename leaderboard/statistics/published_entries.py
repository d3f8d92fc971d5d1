"""Entries of published numbers: from our own rows, and from results in a store that cite somebody."""

from collections.abc import Mapping

from leaderboard.boards.published import PublishedRow
from leaderboard.boards.score import BASELINE_ERRORS
from leaderboard.statistics.entries import Entry, Protocol, Value
from leaderboard.store.store import StoredResult


def published_entry(row: PublishedRow) -> Entry:
    """A row as an entry; its total is the printed one, its points are recomputed.

    A row of which only the score or the mean is known has that, no values, and all ten tasks as missing: it is shown
    and never ranked.
    """
    decathlon = row.benchmark == "decathlon"
    total: float | None = row.printed_score if decathlon else row.metrics["mean_iou"]
    return Entry(
        benchmark=row.benchmark,
        method=row.method,
        label=row.label,
        evidence=row.evidence,
        protocol=Protocol(
            split=row.split,
            official=True,
            trained_on=row.trained_on,
            backbone=row.backbone or "network not stated",
            data="official",
        ),
        values=_values(row.accuracies if decathlon else row.metrics),
        points=_values(row.score.points) if row.accuracies else {},
        total=None if total is None else Value(mean=total),
        mean=None if row.printed_mean is None else Value(mean=row.printed_mean),
        parameter_ratio=row.parameter_ratio,
        missing=tuple(task for task in BASELINE_ERRORS if task not in row.accuracies) if decathlon else (),
        citation=row.citation,
        table=row.table,
        link=row.link,
        note=row.note,
    )


def cited_entry(one: StoredResult) -> Entry:
    """A published number that somebody put into a store: unverified, since nobody of us has read its source."""
    result = one.result
    decathlon = result.benchmark == "decathlon"
    values = (
        {result.task: Value(mean=result.metrics["accuracy"], results=(one.place,))}
        if decathlon
        else {name: Value(mean=value, results=(one.place,)) for name, value in result.metrics.items()}
    )
    fingerprints = result.fingerprints
    backbone = None if fingerprints is None else fingerprints.backbone
    return Entry(
        benchmark=result.benchmark,
        method=result.method,
        label=result.label or result.method,
        evidence="unverified",
        protocol=Protocol(
            split=result.split,
            official=result.official_data,
            trained_on=result.trained_on,
            backbone=backbone or "network not stated",
            data="official" if result.official_data else "not stated",
        ),
        values=values,
        total=None if decathlon else values["mean_iou"],
        parameter_ratio=result.parameter_ratio,
        missing=tuple(task for task in BASELINE_ERRORS if task != result.task) if decathlon else (),
        citation=result.citation or "",
        table=result.table or "",
        link=result.link or "",
        note=result.note or "",
        stored=(one,),
    )


def _values(numbers: Mapping[str, float]) -> dict[str, Value]:
    return {name: Value(mean=number) for name, number in numbers.items()}
