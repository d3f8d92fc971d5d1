"""Tables as the page shows them: each number as text, with its sorting value and its link."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from leaderboard.page.links import METHOD, Links
from leaderboard.tables.formats import NUMERIC
from leaderboard.tables.view_builders import protocol_letters, protocol_notes, sources
from leaderboard.tables.views import Cell, Column, Kind, Row, View

MINUS: Final = "\N{MINUS SIGN}"
TIE: Final = "tie"  # the hint of a rank that another row has too
RANK: Final = "rank"
CONDITIONS: Final = ("evidence", "protocol")
HEAT_STEPS: Final = 10
ANCHORS: Final = frozenset({"compare", "sources", "left-out", "filters", "content", "theme"})
"""Anchors of the page itself, which the tables of unknown benchmarks may not take."""

_PLACES: Final[dict[Kind, str]] = {"percent": ".2f", "points": ",.0f", "ratio": ".2f", "count": ",.0f"}
_DESCENDING: Final[tuple[Kind, ...]] = ("percent", "points")
_PLAIN: Final = re.compile(r"[a-z0-9-]{1,40}")


@dataclass(frozen=True, kw_only=True)
class ShownCell:
    """A cell, as text.

    Attributes:
        text: empty for nothing.
        sort: sorting value; empty for nothing, which stays last.
        style: its CSS classes.
        link: its target, or empty.
        extra: spread, or how many seeds, in small print.
        hint: more, in words.
    """

    text: str
    sort: str
    style: str
    link: str
    extra: str
    hint: str


@dataclass(frozen=True, kw_only=True)
class ShownRow:
    """A row, with the properties that filters use.

    Attributes:
        method, protocol, official, evidence: of its entry.
        ranked: whether it has a rank, if its table has any.
        note: number of a note on it; 0 for none.
        cells: one for each column.
    """

    method: str
    protocol: str
    official: bool
    evidence: str
    ranked: bool
    note: int
    cells: Sequence[ShownCell]


@dataclass(frozen=True, kw_only=True)
class ShownColumn:
    """A column; `heads` where its cells are the rows' headers."""

    title: str
    note: str
    numeric: bool
    descending: bool
    heads: bool


@dataclass(frozen=True, kw_only=True)
class ShownTable:
    """A table with its words.

    Attributes:
        name: anchor of its section.
        title: of the view.
        most: the number of the full colour; 0 where cells are not coloured.
        conditions: whether its rows say under which protocol their numbers were made.
        columns, rows: in order.
        notes: on the whole.
        row_notes: on single rows, which name them by number, from 1.
    """

    name: str
    title: str
    most: float
    conditions: bool
    columns: Sequence[ShownColumn]
    rows: Sequence[ShownRow]
    notes: Sequence[str]
    row_notes: Sequence[str]


def show_view(view: View, *, links: Links) -> ShownTable:
    """The view as the page shows it.

    On the page a row has its evidence and protocol in words and links to its source, so columns and notes for these are
    dropped.
    """
    columns = [column for column in view.columns if column.key not in CONDITIONS]
    conditions = len(columns) < len(view.columns)
    head = _heading_column(columns)
    entries = [row.entry for row in view.rows]
    said = {*protocol_notes(protocol_letters(entries)), *sources(entries)} if conditions else ()
    numbers: dict[str, int] = {}
    if conditions:
        for row in view.rows:
            if row.entry.note:
                numbers.setdefault(row.entry.note, len(numbers) + 1)
    return ShownTable(
        name=anchor_of(view.name),
        title=view.title,
        most=view.most,
        conditions=conditions,
        columns=[
            ShownColumn(
                title=column.title,
                note=column.note,
                numeric=column.kind in NUMERIC,
                descending=column.kind in _DESCENDING,
                heads=column.key == head,
            )
            for column in columns
        ],
        rows=[
            _show_row(row, columns, view=view, links=links, note=numbers.get(row.entry.note, 0)) for row in view.rows
        ],
        notes=[note for note in view.notes if note not in said],
        row_notes=list(numbers),
    )


def anchor_of(view: str) -> str:
    """Anchor of a table's section, from the name of its view."""
    return f"table-{view}" if view in ANCHORS else view


def _heading_column(columns: Sequence[Column]) -> str:
    keys = [column.key for column in columns if column.kind == "text"]
    return METHOD if METHOD in keys else keys[0] if keys else columns[0].key


def _show_row(row: Row, columns: Sequence[Column], *, view: View, links: Links, note: int) -> ShownRow:
    entry = row.entry
    return ShownRow(
        method=entry.method,
        protocol=entry.protocol.label,
        official=entry.protocol.official is True,
        evidence=entry.evidence,
        ranked=entry.rank is not None or not any(column.key == RANK for column in columns),
        note=note,
        cells=[_show_cell_of(row, column, view=view, links=links) for column in columns],
    )


def _show_cell_of(row: Row, column: Column, *, view: View, links: Links) -> ShownCell:
    cell = row.cells.get(column.key, Cell(value=None))
    return _show_cell(
        cell, column=column, heat=_heat(column, row, view=view), link=links.of_cell(cell, row=row, column=column)
    )


def _show_cell(cell: Cell, *, column: Column, heat: str, link: str) -> ShownCell:
    kind = cell.kind or column.kind
    text = write_value(cell.value, kind=kind)
    return ShownCell(
        text=f"={text}" if kind == "count" and cell.hint == TIE else text,
        sort="" if cell.value is None else f"{cell.value}",
        style=" ".join(filter(None, [style_of(kind), heat, _verdict(cell, kind)])),
        link=link,
        extra=_extra(cell, kind=kind),
        hint=" ".join(filter(None, [cell.hint, _interval(cell, kind=kind)])),
    )


def style_of(kind: Kind) -> str:
    """CSS class of a cell: its kind; numbers without a unit look like counts."""
    return "count" if kind == "number" else kind


def write_value(value: float | str | None, *, kind: Kind) -> str:
    """A value for people: fractions in percent, points without decimals, ratios with two."""
    if value is None or isinstance(value, str):
        return value or ""
    if kind not in _PLACES:
        return f"{value:g}".replace("-", MINUS)
    return f"{value * (100 if kind == 'percent' else 1):{_PLACES[kind]}}".replace("-", MINUS)


def _extra(cell: Cell, *, kind: Kind) -> str:
    """The spread over seeds, or a star for a single one; published numbers have neither."""
    if cell.value is None or not cell.results or kind not in NUMERIC:
        return ""
    return "*" if cell.spread is None else f"\N{PLUS-MINUS SIGN}{write_value(cell.spread, kind=kind)}"


def _interval(cell: Cell, *, kind: Kind) -> str:
    if cell.interval is None:
        return ""
    low, high = (write_value(end, kind=kind) for end in cell.interval)
    return f"95 % interval {low} to {high}."


def _heat(column: Column, row: Row, *, view: View) -> str:
    cell = row.cells.get(column.key)
    if column.key not in view.heated or cell is None or not isinstance(cell.value, float):
        return ""
    return f"heat heat-{max(0, min(HEAT_STEPS, int(cell.value // (view.most / HEAT_STEPS))))}"


def _verdict(cell: Cell, kind: Kind) -> str:
    """CSS class of a verdict, made of its words."""
    if kind != "verdict" or not isinstance(cell.value, str):
        return ""
    words = cell.value.lower().replace(" ", "-")
    return f"verdict-{words}" if _PLAIN.fullmatch(words) else ""
