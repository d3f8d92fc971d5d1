"""Views written as terminal tables, Markdown, CSV, JSON and LaTeX."""

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from leaderboard.statistics.entries import Entry
from leaderboard.tables.escaping import csv_field, latex, markdown, visible
from leaderboard.tables.views import Cell, Column, Kind, Row, View
from piggyback.shell import console

NUMERIC: Final[frozenset[Kind]] = frozenset({"percent", "number", "points", "ratio", "count"})
ONE_SEED: Final = "*"
TIE: Final = "="
_PLUS_MINUS: Final = "\N{PLUS-MINUS SIGN}"
LONGEST_NOTE: Final = 1000
_HUGE: Final = 1e9

Escape = Callable[[str], str]


def number_text(value: float, *, kind: Kind) -> str:
    """A number for people: fractions in percent with two decimals, points with one, ratios with up to two."""
    scaled = 100.0 * value if kind == "percent" else value
    if abs(scaled) >= _HUGE:
        return f"{scaled:.3g}"
    match kind:
        case "percent":
            return f"{scaled:z.2f}"  # z: no minus before a zero
        case "points":
            return f"{scaled:z.1f}".removesuffix(".0")
        case "ratio":
            return f"{scaled:z.2f}".rstrip("0").rstrip(".")
        case _:
            return f"{scaled:g}"


def cell_text(cell: Cell, column: Column, *, bounded: bool = False) -> str:
    """A cell in one line, not yet escaped: the number, its spread, its interval, marks of ties and single seeds.

    Args:
        cell: the cell.
        column: its column.
        bounded: whether the interval is shown too.
    """
    if cell.value is None:
        return ""
    if isinstance(cell.value, str):
        return f"{cell.value}{ONE_SEED}" if column.key == "n" and cell.value.startswith("1-") else cell.value
    kind = cell.kind or column.kind
    text = number_text(cell.value, kind=kind)
    if column.key in ("rank", "place"):
        return f"{text}{TIE}" if cell.hint == "tie" else text
    if column.key == "n":
        return f"{text}{ONE_SEED}" if cell.value == 1 else text
    if cell.spread is not None:
        text += f" {_PLUS_MINUS} {number_text(cell.spread, kind=kind)}"
    if cell.interval is not None and bounded:
        low, high = (number_text(end, kind=kind) for end in cell.interval)
        text += f" [{low}, {high}]"
    return text


def used_columns(view: View) -> list[Column]:
    """The columns that are not empty in every row."""
    return [
        column
        for column in view.columns
        if any((cell := row.cells.get(column.key)) is not None and cell.value is not None for row in view.rows)
    ]


def _lines(view: View, columns: Sequence[Column], escape: Escape, *, empty: str = "") -> Iterator[tuple[str, ...]]:
    for row in view.rows:
        texts = (
            cell_text(row.cells.get(column.key, Cell(value=None)), column, bounded=column.key in view.bounded)
            for column in columns
        )
        yield tuple(escape(text) if text else empty for text in texts)


def show_table(view: View) -> None:
    """Print a view, with its notes."""
    columns = used_columns(view)
    if not view.rows:
        console.say(f"{visible(view.title)}: nothing to show")
    else:
        numeric = {place for place, column in enumerate(columns) if column.kind in NUMERIC}
        lines = list(_lines(view, columns, visible, empty="-"))
        console.table(view.title, *(visible(column.title) for column in columns), rows=lines, numeric=numeric)
    for note in view.notes:
        console.say(visible(note, longest=LONGEST_NOTE))


def to_markdown(view: View) -> str:
    """A table of GitHub's Markdown, with the title above and the notes as a list below."""
    columns = used_columns(view)
    lines = [f"**{markdown(view.title)}**", ""]
    if columns:
        lines.append(_bars(markdown(column.title) for column in columns))
        lines.append(_bars("---:" if column.kind in NUMERIC else "---" for column in columns))
        lines += [_bars(line) for line in _lines(view, columns, markdown)]
    else:
        lines.append("Nothing to show.")
    lines += ["", *(f"- {markdown(note, longest=LONGEST_NOTE)}" for note in view.notes)] if view.notes else []
    return "\n".join(lines) + "\n"


def _bars(texts: Iterator[str] | Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


def to_latex(view: View) -> str:
    """A tabular, with title and notes as comments; needs the packages fontenc with T1, and textcomp."""
    columns = used_columns(view)
    lines = [f"% {visible(view.title)}"]
    if columns:
        lines.append(rf"\begin{{tabular}}{{{''.join('r' if one.kind in NUMERIC else 'l' for one in columns)}}}")
        lines += [r"\hline", _ampersands(latex(column.title) for column in columns), r"\hline"]
        lines += [_ampersands(line) for line in _lines(view, columns, _latex_cell)]
        lines += [r"\hline", r"\end{tabular}"]
    lines += [f"% {visible(note, longest=LONGEST_NOTE)}" for note in view.notes]
    return "\n".join(lines) + "\n"


def _latex_cell(text: str) -> str:
    return re.sub(r"^\{-\}(?=\d)", "$-$", latex(text).replace(_PLUS_MINUS, r"$\pm$"))


def _ampersands(texts: Iterator[str] | Sequence[str]) -> str:
    return f"{' & '.join(texts)} \\\\"


def to_csv(view: View) -> str:
    """Every number with all its digits, fractions as fractions; beside it spread, seeds and interval if known."""
    heads: list[str] = []
    rows: list[list[str | float | None]] = [[] for _ in view.rows]
    for column in view.columns:
        for suffix, get in _PARTS.items():
            values = [get(row.cells.get(column.key, Cell(value=None))) for row in view.rows]
            if suffix and all(value is None for value in values):
                continue
            heads.append(f"{column.key}{suffix}")
            for row, value in zip(rows, values, strict=True):
                row.append(csv_field(value) if isinstance(value, str) else value)
    about = [_about(row.entry) for row in view.rows]
    for key in (key for key in _about_keys() if key not in heads):
        heads.append(key)
        for row, texts in zip(rows, about, strict=True):
            row.append(csv_field(texts[key]))
    text = io.StringIO()
    # Texts in quotes, always: where a semicolon divides fields, one inside a text must not begin another field.
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(rows)
    return text.getvalue()


_PARTS: Final[Mapping[str, Callable[[Cell], str | float | None]]] = {
    "": lambda cell: cell.value,
    "_spread": lambda cell: cell.spread,
    "_n": lambda cell: cell.n if cell.results else None,
    "_low": lambda cell: None if cell.interval is None else cell.interval[0],
    "_high": lambda cell: None if cell.interval is None else cell.interval[1],
}


def _about_keys() -> tuple[str, ...]:
    return ("evidence", "split", "official", "trained_on", "backbone", "data", "citation", "table", "link", "note")


def _about(entry: Entry) -> dict[str, str]:
    """Source of an entry's numbers, as texts."""
    protocol = entry.protocol
    official = {True: "yes", False: "no", None: ""}[protocol.official]
    texts = (entry.evidence, protocol.split, official, protocol.trained_on or "", protocol.backbone, protocol.data)
    return dict(zip(_about_keys(), (*texts, entry.citation, entry.table, entry.link, entry.note), strict=True))


def to_json(view: View) -> dict[str, Any]:
    """The view as plain values; texts are as they were given, so a program that shows them must escape them."""
    return {
        "view": view.name,
        "title": view.title,
        "columns": [asdict(column) for column in view.columns],
        "rows": [_row_as_json(row) for row in view.rows],
        "notes": list(view.notes),
    }


def _row_as_json(row: Row) -> dict[str, Any]:
    entry = row.entry
    return {
        "method": entry.method,
        "label": entry.label,
        "evidence": entry.evidence,
        "protocol": asdict(entry.protocol),
        "rank": entry.rank,
        "tied": entry.tied,
        "missing": list(entry.missing),
        "citation": entry.citation,
        "table": entry.table,
        "link": entry.link,
        "note": entry.note,
        "cells": {key: asdict(cell) for key, cell in row.cells.items()},
    }


def print_view(view: View, *, format: str) -> None:
    """Print a view on standard output.

    Args:
        view: the view.
        format: ``table``, ``md``, ``csv``, ``json`` or ``latex``.
    """
    match format:
        case "table":
            show_table(view)
        case "json":
            console.print_json(to_json(view))
        case "md":
            console.write(to_markdown(view))
        case "csv":
            console.write(to_csv(view))
        case _:
            console.write(to_latex(view))
