"""What the leaderboard's verbs print, in the look of the other verbs; this package stands without the core."""

import json
import sys
from collections.abc import Collection, Sequence
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

out: Final = Console(highlight=False)
err: Final = Console(stderr=True, highlight=False)
WIDE: Final = 10_000  # columns: wider than any table


def print_json(value: object) -> None:
    """Write one JSON document to standard output; NaN and infinity are errors."""
    sys.stdout.write(json.dumps(value, indent=1, allow_nan=False) + "\n")


def write(text: str) -> None:
    """Write a text to standard output as it is; it ends its last line itself."""
    sys.stdout.write(text)


def say(text: str) -> None:
    """One line of a report."""
    out.print(text, markup=False, soft_wrap=True)


def warn(text: str) -> None:
    """One line on standard error, beside whatever the verb reports."""
    err.print(text, markup=False, soft_wrap=True)


def table(title: str, *columns: str, rows: Sequence[tuple[str, ...]], numeric: Collection[int] = ()) -> None:
    """Print a table; texts are shown as they are, and nothing is cut off in a file.

    Args:
        title: above it.
        columns: headings.
        rows: as many texts each.
        numeric: places of columns of numbers, which stand to the right.
    """
    shown = Table()
    for place, column in enumerate(columns):
        shown.add_column(Text(column), overflow="fold", justify="right" if place in numeric else "left")
    for row in rows:
        shown.add_row(*(Text(cell) for cell in row))
    out.print(Text(title, style="italic"), soft_wrap=True)
    (out if out.is_terminal else Console(file=out.file, width=WIDE, highlight=False)).print(shown)
