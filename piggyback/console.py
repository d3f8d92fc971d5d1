"""What the verbs print: tables, progress and JSON, all in one look."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

out = Console(highlight=False)  # reports
err = Console(stderr=True, highlight=False)  # progress and notices: never mixed into a report


def print_json(value: object) -> None:
    """Write one JSON document to standard output; NaN and infinity are errors."""
    sys.stdout.write(json.dumps(value, indent=1, allow_nan=False) + "\n")


def notice(text: str) -> None:
    """One line for a person, on standard error."""
    err.print(text, markup=False)


def table(title: str, *columns: str, rows: list[tuple[str, ...]], caption: str | None = None) -> None:
    """Print a table on standard output; the first column is text, the others are numbers."""
    shown = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    for number, column in enumerate(columns):
        shown.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        shown.add_row(*row)
    out.print(shown)


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A progress display on standard error, shown only to a person at a terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as shown:
        yield shown
