"""Tables of plans and standings, in the look of the other verbs; this package stands without the core."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from slurm.planned import PlannedRun
from slurm.plans import Estimate
from slurm.states import Standing

out: Final = Console(highlight=False)
err: Final = Console(stderr=True, highlight=False)
WIDE: Final = 10_000  # columns: wider than any table


def print_json(value: object) -> None:
    """Write one JSON document to standard output; NaN and infinity are errors."""
    sys.stdout.write(json.dumps(value, indent=1, allow_nan=False) + "\n")


def say(text: str) -> None:
    """One line of a report."""
    out.print(text, markup=False, soft_wrap=True)


def table(title: str, *columns: str, rows: Sequence[tuple[str, ...]]) -> None:
    """Print a table; texts are shown as they are, and nothing is cut off in a file."""
    shown = Table()
    for column in columns:
        shown.add_column(Text(column), overflow="fold")
    for row in rows:
        shown.add_row(*(Text(cell) for cell in row))
    out.print(Text(title, style="italic"), soft_wrap=True)
    (out if out.is_terminal else Console(file=out.file, width=WIDE, highlight=False)).print(shown)


def show_plan(name: str, runs: Sequence[PlannedRun], *, finished: set[str], guess: Estimate) -> None:
    """What a sweep would run, and what is there already.

    Args:
        name: of the sweep.
        runs: in order.
        finished: ids.
        guess: how long they may take.
    """
    rows = [
        (
            run.id,
            run.kind,
            f"{len(run.needs)}" if run.needs else "-",
            "done" if run.id in finished else "to do",
            f"{guess.cost[run.id]:.2f}" if run.id in guess.cost else "-",
        )
        for run in runs
    ]
    table(f"plan of {name}", "run", "kind", "needs", "state", guess.unit, rows=rows)
    missing = [run for run in runs if run.id not in finished]
    known = [guess.cost[run.id] for run in missing if run.id in guess.cost]
    unknown = len(missing) - len(known)
    total = f"some {sum(known):.1f} {guess.unit} by earlier records" if known else "no earlier records to estimate by"
    rest = f", and {unknown} runs without any" if known and unknown else ""
    say(f"{len(missing)} of {len(runs)} runs to do; {total}{rest}")


def show_standings(name: str, standings: Sequence[Standing]) -> None:
    """How a sweep stands, a line per run."""
    rows = [
        (
            one.run.id,
            one.state,
            "-" if one.progress is None else f"{100 * one.progress:.0f} %",
            measure(one.metric),
            one.node or "-",
            clock(one.seconds),
            clock(one.left_s),
            one.message,
        )
        for one in standings
    ]
    table(name, "run", "state", "progress", "metric", "node", "elapsed", "left", "", rows=rows)
    say(count_states(standings))


def measure(metric: tuple[str, float] | None) -> str:
    """A metric as it is shown: fractions in percent, a loss as it is."""
    if metric is None:
        return "-"
    name, value = metric
    return f"{name} {value:.3f}" if name == "loss" else f"{name} {100 * value:.2f} %"


def count_states(standings: Sequence[Standing]) -> str:
    """How many runs are in which state, in words."""
    counts = Counter(one.state for one in standings)
    return ", ".join(f"{count} {state}" for state, count in counts.most_common()) or "no runs"


def clock(seconds: float | None) -> str:
    """Hours, minutes and seconds."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def standings_as_json(name: str, standings: Sequence[Standing]) -> dict[str, Any]:
    """The report as ``--json`` prints it."""
    return {"name": name, "runs": [one.as_json() for one in standings]}
