"""Targets of links: a number leads to a run, to an entry's list of runs, or to the source of a published row."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from leaderboard.statistics.entries import Entry
from leaderboard.store.reading import StoredResult
from leaderboard.tables.views import Cell, Column, Kind, Row, View
from piggyback.shell.errors import ResultError

METHOD: Final = "method"
NUMBER: Final = "number"  # its hint is the task or metric
THEIRS: Final = "published"
"""Columns of the view ``reproduced``: which number a row is about, and the published one."""

NUMBERS: Final[tuple[Kind, ...]] = ("percent", "number", "points", "ratio")

_PART: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_CONTROLS: Final = re.compile(r"[\x00-\x20\x7f-\xa0\u2028\u2029]")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A work and table from which published numbers were read.

    Attributes:
        number: from 1; its anchor in the page is ``#source-<number>``.
        citation, table: as the rows give them.
        link: http or https, else empty.
        labels: the rows that come from it.
        unverified: whether nobody of this project has read the numbers there.
    """

    number: int
    citation: str
    table: str
    link: str
    labels: tuple[str, ...]
    unverified: bool


@dataclass(frozen=True, kw_only=True)
class Links:
    """Addresses of everything that a table can lead to, relative to the site's folder."""

    runs: Mapping[str, str]
    entries: Mapping[str, Entry]
    sources: Sequence[Source]
    _by_place: Mapping[str, Sequence[str]] = field(repr=False)

    def of_cell(self, cell: Cell, *, row: Row, column: Column) -> str:
        """Target of a cell; empty if there is nothing behind it, as for a rank or a verdict."""
        if cell.value is None:
            return ""
        known = [place for place in cell.results if place in self.runs]
        if len(known) == 1:
            return self.runs[known[0]]
        if known:
            task = column.key if row.beside is None else row.cells.get(NUMBER, cell).hint
            return self._of_places(known, prefer=entry_name(row.entry), task=task)
        if column.key == THEIRS and row.beside is not None:
            return self.of_entry(row.beside)
        return self.of_entry(row.entry) if (cell.kind or column.kind) in NUMBERS or column.key == METHOD else ""

    def of_entry(self, entry: Entry) -> str:
        """Target of an entry as a whole."""
        if entry.evidence == "measured":
            name, places = entry_name(entry), [one.place for one in entry.stored if one.place in self.runs]
            return f"entries/{name}.html" if name in self.entries else self.runs[places[0]] if places else ""
        for source in self.sources:
            if (source.citation, source.table, source.link) == _source_of(entry):
                return f"#source-{source.number}"
        return ""

    def _of_places(self, places: Sequence[str], *, prefer: str, task: str) -> str:
        among = set.intersection(*(set(self._by_place.get(place, ())) for place in places))
        if not among:
            return self.runs[places[0]]
        name = prefer if prefer in among else min(among)
        is_there = task in {one.result.task for one in self.entries[name].stored} and anchor(task)
        return f"entries/{name}.html{f'#{anchor(task)}' if is_there else ''}"


def make_links(views: Iterable[View], *, results: Iterable[StoredResult]) -> Links:
    """Collect the targets that the tables lead to.

    Args:
        views: the tables.
        results: those that get a page of their own.

    Raises:
        ResultError: the place of a result is not a path of plain names; `read_store` gives none such.
    """
    runs = {one.place: f"runs/{_checked(one.place)}/index.html" for one in results}
    rows = [row for view in views for row in view.rows]
    entries: dict[str, Entry] = {}
    by_place: defaultdict[str, list[str]] = defaultdict(list)
    published: dict[tuple[str, str, str], list[Entry]] = {}
    for row in rows:
        entry = row.entry
        if entry.evidence != "measured":
            published.setdefault(_source_of(entry), []).append(entry)
            continue
        name = entry_name(entry)
        if name in entries or sum(one.place in runs for one in entry.stored) < 2:
            continue
        entries[name] = entry
        for one in entry.stored:
            by_place[one.place].append(name)
    sources = [
        Source(
            number=number,
            citation=citation,
            table=table,
            link=link,
            labels=tuple(dict.fromkeys(entry.label for entry in found)),
            unverified=all(entry.evidence == "unverified" for entry in found),
        )
        for number, ((citation, table, link), found) in enumerate(published.items(), 1)
    ]
    return Links(runs=runs, entries=entries, sources=sources, _by_place=by_place)


def entry_name(entry: Entry) -> str:
    """Name of an entry's page: digits of a digest of its properties, so that it is the same in every build."""
    parts = [entry.benchmark, entry.method, entry.label, entry.protocol.label, *(one.place for one in entry.stored)]
    text = "\n".join(part.encode("unicode_escape").decode() for part in parts)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def anchor(key: str) -> str:
    """Anchor of a task on its entry's page; empty for keys that make no plain name."""
    return f"task-{key}" if _NAME.fullmatch(key) else ""


def safe_link(text: str) -> str:
    """The link if it is safe on a page: http or https, with a host and nothing hidden in it; else empty."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return ""
    hidden = _CONTROLS.search(text) or "\\" in text or "@" in parts.netloc
    return text if parts.scheme in ("http", "https") and parts.netloc and not hidden and len(text) <= 2000 else ""


def _source_of(entry: Entry) -> tuple[str, str, str]:
    return entry.citation, entry.table, safe_link(entry.link)


def _checked(place: str) -> str:
    parts = place.split("/")
    if not all(_PART.fullmatch(part) for part in parts):
        raise ResultError(f"a result is at {place!a:.200}, which makes no address; `leaderboard check` says more")
    return place
