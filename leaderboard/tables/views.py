"""Views: tables of entries for every format; numbers stay numbers until they are shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from leaderboard.statistics.entries import Entry

Kind = Literal["text", "percent", "number", "points", "ratio", "count", "verdict"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column.

    Attributes:
        key: a name without spaces, for JSON, CSV and sorting.
        title: for people.
        kind: how its cells are shown: percent takes fractions; verdicts are words.
        note: shown under the table or as a hint.
    """

    key: str
    title: str
    kind: Kind
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell.

    Attributes:
        value: a number, a text, or None for nothing.
        spread, n, interval: as in `leaderboard.statistics.entries.Value`; n = 1 is marked where it is shown.
        results: places of the results behind it.
        hint: more about it, in words.
        kind: how it is shown, if not as its column, such as a score among accuracies.
    """

    value: float | str | None
    spread: float | None = None
    n: int = 1
    interval: tuple[float, float] | None = None
    results: tuple[str, ...] = ()
    hint: str = ""
    kind: Kind | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row.

    Attributes:
        entry: the entry that it shows.
        cells: by key of the column.
        beside: the published entry that it is compared with, in the view ``reproduced``.
    """

    entry: Entry
    cells: Mapping[str, Cell]
    beside: Entry | None = None


@dataclass(frozen=True, kw_only=True)
class View:
    """A table with its notes.

    Attributes:
        name: of a board, of its total's table, or ``reproduced``.
        title: for people.
        rows: ranked ones first, in order; then the incomplete, then the unverified.
        notes: sentences under the table.
        bounded: keys of the columns whose intervals are shown in their cells; other intervals are in CSV and JSON only.
        heated: keys of the columns whose cells are coloured by their numbers.
        most: the number that gets the full colour.
    """

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    notes: Sequence[str] = field(default_factory=tuple)
    bounded: frozenset[str] = frozenset()
    heated: frozenset[str] = frozenset()
    most: float = 0.0
