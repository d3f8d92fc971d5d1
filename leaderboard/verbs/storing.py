"""The verbs that fill and test a store: ``piggyback leaderboard add`` and ``check``."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from leaderboard.boards.installed import find_boards
from leaderboard.store.adding import put_run
from leaderboard.store.reading import read_store
from leaderboard.store.staging import find_log, find_runs
from leaderboard.store.truth import read_labels
from leaderboard.verbs.notices import warn_of_broken_boards
from leaderboard.verbs.options import AddOptions, CheckOptions
from piggyback.shell.console import print_json, say
from piggyback.shell.errors import ResultError, shown


@dataclass(frozen=True, kw_only=True)
class Added:
    """Outcome of adding runs: places in the store, and why runs were refused, by their folder."""

    added: list[str] = field(default_factory=list)
    there: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)


def add_runs(store: Path, runs: Sequence[Path]) -> Added:
    """Put runs into a store; a refused run does not stop the others.

    Args:
        store: the folder, made if it is missing.
        runs: their folders.
    """
    done = Added()
    for run in runs:
        try:
            for stored, new in put_run(store, run, log=find_log(run)):
                (done.added if new else done.there).append(stored.place)
        except ResultError as fault:
            done.refused[shown(run)] = str(fault)
    return done


def show_added(store: Path, done: Added) -> None:
    for message in done.refused.values():
        say(message)
    counts = f"{len(done.added)} results added, {len(done.there)} were there, {len(done.refused)} runs refused"
    say(f"{shown(store)}: {counts}")


def run_add(options: AddOptions) -> int:
    """``piggyback leaderboard add``; returns 1 if a run was refused."""
    if not options.runs:
        raise ResultError("nothing to add: give run folders, or folders that hold some")
    runs: list[Path] = []
    for folder in options.runs:
        found = find_runs(folder, without=options.store)
        if not found:
            raise ResultError(f"{shown(folder)} holds no finished run: there is no result.json, five levels deep")
        runs += [one for one in found if one not in runs]
    done = add_runs(options.store, runs)
    warn_of_broken_boards()
    if options.json:
        print_json({"store": str(options.store), **vars(done)})
    else:
        show_added(options.store, done)
    return 1 if done.refused else 0


def run_check(options: CheckOptions) -> int:
    """``piggyback leaderboard check``; returns 1 if there are findings."""
    boards = find_boards().boards.values()
    labels = read_labels(options.labels, boards=boards) if options.labels is not None else None
    results, findings = read_store(options.store, labels=labels)
    warn_of_broken_boards()
    if options.json:
        faults = [{"place": one.place, "kind": one.kind, "message": one.message} for one in findings]
        print_json({"store": str(options.store), "results": len(results), "findings": faults})
    else:
        for one in findings:
            say(f"{one.place}: {one.kind}: {one.message}")
        say(f"{shown(options.store)}: {len(results)} results without a finding, {len(findings)} findings")
    return 1 if findings else 0
