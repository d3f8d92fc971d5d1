"""Published rows: what others measured, as they printed it.

A board names JSON files with ``evidence`` (``published`` or ``unverified``), ``papers`` (by a key: authors, title,
venue, year and link) and ``rows``, each with the fields of `PublishedRow` and the key of its ``paper``.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any, Literal

from leaderboard.boards.board import Board


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """One method of a printed table.

    Attributes:
        benchmark: as results name it.
        evidence: ``published``, read in the source that `table` names; or ``unverified``, read by nobody of this
            project.
        method: our name of it.
        label: its name in the table.
        citation: the work whose numbers these are: authors, title, venue, year.
        link: to that work, http or https; empty where none is known.
        table: the table, figure or list that they were read from.
        task: that the numbers are of, where columns are metrics and there are several tasks.
        split: that was judged.
        backbone: the network, as far as its authors or their repository say; None where they do not.
        trained_on: ``train`` or ``train+val``; None where nobody says.
        parameter_ratio: parameters for all tasks over those of one network, printed as "#par"; None where it is not
            given or follows another convention.
        values: the main metric by task, or by metric, as the board's columns are; empty where only a mean or a score
            is known.
        printed_mean: the mean over the tasks, as printed; the table's rounding is its own.
        printed_score: the board's total, as printed.
        note: what a reader must know.
    """

    benchmark: str
    evidence: Literal["published", "unverified"]
    method: str
    label: str
    citation: str
    link: str
    table: str
    split: str
    backbone: str | None
    trained_on: str | None
    task: str = ""
    parameter_ratio: float | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    printed_mean: float | None = None
    printed_score: int | None = None
    note: str = ""


@cache
def read_rows(board: Board) -> tuple[PublishedRow, ...]:
    """All published rows of a board, verified and unverified, in the order of its files.

    Raises:
        ValueError: a row has a number of a task or metric that the board does not have.
    """
    columns = board.tasks if board.across == "tasks" else [metric.name for metric in board.metrics]
    rows = tuple(row for file in board.published for row in _read(json.loads(file.read_text(encoding="utf-8")), board))
    for row in rows:
        strange = [name for name in row.values if name not in columns]
        if strange:
            raise ValueError(f"the published row {row.label} has {', '.join(strange)}, which its board does not have")
    return rows


def published_rows(boards: Iterable[Board]) -> tuple[PublishedRow, ...]:
    """The rows of some boards whose numbers were read in the source that they name."""
    return tuple(row for board in boards for row in read_rows(board) if row.evidence == "published")


def unverified_rows(boards: Iterable[Board]) -> tuple[PublishedRow, ...]:
    """The rows of some boards whose source was not read: their numbers fit each other, no more is known."""
    return tuple(row for board in boards for row in read_rows(board) if row.evidence == "unverified")


def _read(document: Mapping[str, Any], board: Board) -> Iterable[PublishedRow]:
    shared = {"benchmark": board.name, "evidence": document["evidence"]}
    for row in document["rows"]:
        yield _row(row, shared | _cite(document["papers"][row["paper"]]))


def _cite(paper: Mapping[str, Any]) -> dict[str, str]:
    """The citation in one line, and the link."""
    return {
        "citation": f"{paper['authors']}: {paper['title']}. {paper['venue']}, {paper['year']}",
        "link": paper["link"],
    }


def _row(row: Mapping[str, Any], shared: Mapping[str, str]) -> PublishedRow:
    frozen = {key: MappingProxyType(value) for key, value in row.items() if isinstance(value, dict)}
    return PublishedRow(**{**{key: value for key, value in row.items() if key != "paper"}, **frozen, **shared})
