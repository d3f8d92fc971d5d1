"""Output of the verbs: tables, lines, progress and JSON, all in one look."""

import json
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

out = Console(highlight=False)  # reports
err = Console(stderr=True, highlight=False)  # progress and notices: never mixed into a report
UNBOUNDED: Final = 10_000  # columns: wider than any table
_displays: Final[list[Progress]] = []  # the one being shown, if any


def print_json(value: object) -> None:
    """Write one JSON document to standard output; NaN and infinity are errors."""
    sys.stdout.write(json.dumps(value, indent=1, allow_nan=False) + "\n")


def notice(text: str) -> None:
    """Print one line for a person on standard error."""
    err.print(text, markup=False, soft_wrap=True)


def say(text: str) -> None:
    """Print one line of a report on standard output."""
    out.print(text, markup=False, soft_wrap=True)


def write(text: str) -> None:
    """Write a text to standard output unchanged, without adding a line end."""
    sys.stdout.write(text)


def table(
    title: str,
    *columns: str,
    rows: Sequence[tuple[str, ...]],
    numeric: Collection[int] | None = None,
    caption: str | None = None,
) -> None:
    """Print a table on standard output.

    Texts are shown literally: square brackets, as in the names of folders, are no markup.  In a file the table is as
    wide as it needs to be; a terminal folds it, and nothing is cut off.

    Args:
        title: above it.
        columns: headings.
        rows: as many texts each.
        numeric: positions of columns of numbers, which are aligned to the right; all but the first by default.
        caption: below it.
    """
    places = range(1, len(columns)) if numeric is None else numeric
    shown = Table()
    for place, column in enumerate(columns):
        shown.add_column(Text(column), justify="right" if place in places else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(Text(cell) for cell in row))
    out.print(Text(title, style="italic"), soft_wrap=True)
    (out if out.is_terminal else Console(file=out.file, width=UNBOUNDED, highlight=False)).print(shown)
    if caption is not None:
        out.print(Text(caption, style="dim"), soft_wrap=True)


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Show progress on standard error, at a terminal only.

    A nested call reuses the outer display, since a terminal can show only one at a time; the lines that its block has
    added are removed when the block ends.
    """
    if _displays:
        shown = _displays[-1]
        before = set(shown.task_ids)
        try:
            yield shown
        finally:
            for line in set(shown.task_ids) - before:
                shown.remove_task(line)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as shown:
        _displays.append(shown)
        try:
            yield shown
        finally:
            _displays.pop()
