"""Tables of plans and standings."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from piggyback.shell.console import say, table
from slurm.planning.planned_run import PlannedRun
from slurm.planning.plans import Estimate
from slurm.states import Standing


def show_plan(name: str, runs: Sequence[PlannedRun], *, finished: set[str], guess: Estimate) -> None:
    """Print what a sweep would run, what is finished, and how long the rest may take."""
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
    table(f"plan of {name}", "run", "kind", "needs", "state", guess.unit, rows=rows, numeric=())
    missing = [run for run in runs if run.id not in finished]
    known = [guess.cost[run.id] for run in missing if run.id in guess.cost]
    unknown = len(missing) - len(known)
    total = f"some {sum(known):.1f} {guess.unit} by earlier records" if known else "no earlier records to estimate by"
    rest = f", and {unknown} runs without any" if known and unknown else ""
    say(f"{len(missing)} of {len(runs)} runs to do; {total}{rest}")


def show_standings(name: str, standings: Sequence[Standing]) -> None:
    """Print a sweep's state, a line per run."""
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
    table(name, "run", "state", "progress", "metric", "node", "elapsed", "left", "", rows=rows, numeric=())
    say(count_states(standings))


def measure(metric: tuple[str, float] | None) -> str:
    """A metric in words: fractions in percent, a loss as it is."""
    if metric is None:
        return "-"
    name, value = metric
    return f"{name} {value:.3f}" if name == "loss" else f"{name} {100 * value:.2f} %"


def count_states(standings: Sequence[Standing]) -> str:
    """The number of runs in each state, in words."""
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
    """The document that ``--json`` prints."""
    return {"name": name, "runs": [one.as_json() for one in standings]}
