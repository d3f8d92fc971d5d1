"""Entries of published numbers: from boards' rows, and from results in a store that cite somebody."""

from collections.abc import Mapping

from leaderboard.boards.board import Board
from leaderboard.boards.published import PublishedRow
from leaderboard.statistics.entries import Entry, Protocol, Value
from leaderboard.store.reading import StoredResult

UNKNOWN_NETWORK = "network not stated"


def published_entry(row: PublishedRow, board: Board) -> Entry:
    """A row as an entry; its total is the printed one, its points are recomputed.

    A row with only a score or a mean has that, no values, and all tasks as missing: it is shown and never ranked.
    """
    over_tasks, rule = board.across == "tasks", board.total
    points = {} if rule is None else {task: rule.earned(task, 1.0 - value) for task, value in row.values.items()}
    printed = row.printed_score if rule is not None else row.printed_mean if over_tasks else None
    total = printed if over_tasks else row.values.get(board.main.name)
    return Entry(
        board=board,
        method=row.method,
        label=row.label,
        evidence=row.evidence,
        protocol=Protocol(
            split=split_name(board, task=row.task, split=row.split),
            official=True,
            trained_on=row.trained_on,
            backbone=row.backbone or UNKNOWN_NETWORK,
            data="official",
        ),
        task="" if over_tasks else row.task,
        values=_values(row.values),
        points=_values(dict(sorted(points.items()))),
        total=None if total is None else Value(mean=total),
        mean=None if row.printed_mean is None else Value(mean=row.printed_mean),
        parameter_ratio=row.parameter_ratio,
        missing=tuple(task for task in board.names if task not in row.values) if over_tasks else (),
        citation=row.citation,
        table=row.table,
        link=row.link,
        note=row.note,
    )


def cited_entry(one: StoredResult, board: Board) -> Entry:
    """A published number that a user put into a store: unverified, since we have not read its source."""
    result, main = one.result, board.main.name
    over_tasks = board.across == "tasks"
    numbers = {result.task: result.metrics[main]} if over_tasks else result.metrics
    values = {name: Value(mean=value, results=(one.place,)) for name, value in numbers.items()}
    fingerprints = result.fingerprints
    backbone = None if fingerprints is None else fingerprints.backbone
    return Entry(
        board=board,
        method=result.method,
        label=result.label or result.method,
        evidence="unverified",
        protocol=Protocol(
            split=split_name(board, task=result.task, split=result.split),
            official=result.official_data,
            trained_on=result.trained_on,
            backbone=backbone or UNKNOWN_NETWORK,
            data="official" if result.official_data else "not stated",
        ),
        task="" if over_tasks else result.task,
        values=values,
        total=None if over_tasks else values.get(main),
        parameter_ratio=result.parameter_ratio,
        missing=tuple(task for task in board.names if task != result.task) if over_tasks else (),
        citation=result.citation or "",
        table=result.table or "",
        link=result.link or "",
        note=result.note or "",
        stored=(one,),
    )


def split_name(board: Board, *, task: str, split: str) -> str:
    """The split as a protocol names it: with the task, where a benchmark has several that are ranked separately."""
    alone = board.across == "tasks" or not task or board.names == (task,)
    return split if alone else f"{task} {split}"


def _values(numbers: Mapping[str, float]) -> dict[str, Value]:
    return {name: Value(mean=number) for name, number in numbers.items()}
