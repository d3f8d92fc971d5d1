"""Planned runs: the commands that a benchmark asks for, from its entry point in ``piggyback.benchmarks``.

A benchmark's method ``plan`` takes its part of a sweep, a mapping, and returns mappings with the fields of
`PlannedRun`.  It must not import torch: a plan of a thousand runs is made on a login node.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args

from piggyback.shell.errors import SweepError

GROUP: Final = "piggyback.benchmarks"
Kind = Literal["prepare", "backbone", "run", "score", "page"]
After = Literal["done", "ended"]
ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")
"""Ids become names of files and words on the command line."""


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One command of a sweep.

    Attributes:
        id: the same for the same run, whenever it is planned.
        title: for people.
        kind: its stage; stages follow each other in the order of `Kind`.
        argv: arguments of the console command.
        folder: where it leaves ``status.json`` and ``result.json``.
        proof: file that exists exactly when it is finished; None for a run that leaves none, which is done again when
            something that it needs was.
        needs: ids of runs that must have ended before.
        after: whether those must be done, or only ended, in whatever way.
        cost: a word shared by runs that take about the same time, for the estimate.
        inputs: files and folders that must exist before it is sent, as no run of the plan makes them.
    """

    id: str
    title: str
    kind: Kind
    argv: tuple[str, ...]
    folder: Path
    proof: Path | None
    needs: tuple[str, ...] = ()
    after: After = "done"
    cost: str = ""
    inputs: tuple[Path, ...] = ()


def read_planned(value: Mapping[str, Any], *, benchmark: str) -> PlannedRun:
    """Make a `PlannedRun` of a benchmark's mapping.

    Raises:
        SweepError: the mapping breaks the contract.
    """
    known = {field.name for field in fields(PlannedRun)}
    wrong = sorted(value.keys() ^ (value.keys() & known))
    if wrong or not {"id", "title", "kind", "argv", "folder", "proof"} <= value.keys():
        raise SweepError(f"the plan of {benchmark} has a run with unknown or missing fields: {sorted(value)}")
    if ID.fullmatch(str(value["id"])) is None or value["kind"] not in get_args(Kind):
        raise SweepError(f"the plan of {benchmark} has a run with id {value['id']!r:.80} of kind {value['kind']!r:.40}")
    if value.get("after", "done") not in get_args(After):
        raise SweepError(f"the plan of {benchmark} has {value['id']} after {value['after']!r:.40}")
    proof = value["proof"]
    return PlannedRun(
        id=str(value["id"]),
        title=str(value["title"]),
        kind=cast(Kind, value["kind"]),
        argv=tuple(str(word) for word in value["argv"]),
        folder=Path(value["folder"]),
        proof=None if proof is None else Path(proof),
        needs=tuple(str(one) for one in value.get("needs", ())),
        after=cast(After, value.get("after", "done")),
        cost=str(value.get("cost", "")),
        inputs=tuple(Path(one) for one in value.get("inputs", ())),
    )


def plan_benchmark(name: str, spec: Mapping[str, Any]) -> list[PlannedRun]:
    """Ask a benchmark what it would run.

    Args:
        name: the benchmark's.
        spec: its part of the sweep.

    Raises:
        SweepError: no installed package plans such a benchmark, or it refuses the spec.
    """
    points = {point.name: point for point in entry_points(group=GROUP)}
    if name not in points:
        known = ", ".join(sorted(points)) or "none is installed"
        raise SweepError(f"no package plans sweeps of {name!r}; known: {known}")
    try:
        planned = cast(Sequence[Mapping[str, Any]], points[name].load().plan(spec))
    except Exception as fault:
        if getattr(fault, "for_user", False):
            raise SweepError(f"{name}: {fault}") from None
        raise
    return [read_planned(value, benchmark=name) for value in planned]


def check_plan(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Check a plan, and sort it so that every run comes after what it needs; identical runs count once.

    Raises:
        SweepError: the plan cannot be done: an id twice, a need that is no run, or runs that wait for each other.
    """
    known: dict[str, PlannedRun] = {}
    for run in runs:
        if known.setdefault(run.id, run) != run:
            raise SweepError(
                f"two runs of the plan are called {run.id}, with different commands: give one [[benchmark]] a label"
            )
    for run in runs:
        for need in run.needs:
            if need not in known:
                raise SweepError(f"{run.id} needs {need}, which is not in the plan")
    return order(list(known.values()))


def order(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Sort runs so that each comes after what it needs, and otherwise keeps its place.

    Raises:
        SweepError: some wait for each other.
    """
    waiting, done, found = list(runs), set[str](), list[PlannedRun]()
    while waiting:
        ready = [run for run in waiting if set(run.needs) <= done]
        if not ready:
            raise SweepError(f"these runs wait for each other: {', '.join(run.id for run in waiting[:4])}")
        found += ready
        done |= {run.id for run in ready}
        waiting = [run for run in waiting if run.id not in done]
    return found
