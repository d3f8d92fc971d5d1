"""The verbs that fill and test a store: ``piggyback leaderboard add`` and ``check``."""

from pathlib import Path

from leaderboard.faults import shown
from leaderboard.options import AddOptions, CheckOptions
from leaderboard.reports import print_json, say
from leaderboard.result import ResultError
from leaderboard.staging import find_log, find_runs
from leaderboard.store import put_run, read_store
from leaderboard.truth import read_labels


def run_add(options: AddOptions) -> int:
    """``piggyback leaderboard add``; 1 where a run was refused, which keeps none of the others out."""
    if not options.runs:
        raise ResultError("nothing to add: give run folders, or folders that hold some")
    runs: list[Path] = []
    for folder in options.runs:
        found = find_runs(folder, without=options.store)
        if not found:
            raise ResultError(f"{shown(folder)} holds no finished run: there is no result.json, five levels deep")
        runs += [one for one in found if one not in runs]
    added: list[str] = []
    there: list[str] = []
    refused: dict[str, str] = {}
    for run in runs:
        try:
            for stored, new in put_run(options.store, run, log=find_log(run)):
                (added if new else there).append(stored.place)
        except ResultError as fault:
            refused[shown(run)] = str(fault)
    if options.json:
        print_json({"store": str(options.store), "added": added, "there": there, "refused": refused})
    else:
        for message in refused.values():
            say(message)
        say(f"{shown(options.store)}: {len(added)} results added, {len(there)} were there, {len(refused)} runs refused")
    return 1 if refused else 0


def run_check(options: CheckOptions) -> int:
    """``piggyback leaderboard check``; 1 where there are findings."""
    labels = read_labels(options.labels) if options.labels is not None else None
    results, findings = read_store(options.store, labels=labels)
    if options.json:
        told = [{"place": one.place, "kind": one.kind, "message": one.message} for one in findings]
        print_json({"store": str(options.store), "results": len(results), "findings": told})
    else:
        for one in findings:
            say(f"{one.place}: {one.kind}: {one.message}")
        say(f"{shown(options.store)}: {len(results)} results without a finding, {len(findings)} findings")
    return 1 if findings else 0
