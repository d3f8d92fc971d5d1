"""``piggyback sweep doctor``: checks of what sweeps need of a cluster, each with what to change."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

from piggyback.shell.checks import Check
from piggyback.shell.console import print_json, say, table
from slurm.doctor.cluster_checks import CHECKS
from slurm.doctor.cluster_facts import ask_cluster
from slurm.doctor.node_checks import check_node
from slurm.doctor.node_job import PATIENCE, ask_node, check_folder_here, check_request
from slurm.options import DoctorOptions
from slurm.planning.profiles import Profile, find_profile
from slurm.queries import JobState

MARKS: Final = {"broken": "BROKEN"}  # states that must catch the eye
SUMMARY: Final = {"broken": "broken", "note": "to know of", "unknown": "unknown"}


def run_doctor(options: DoctorOptions) -> int:
    """``piggyback sweep doctor``; returns 1 if something that sweeps need is broken."""
    profile = find_profile(options.profile, file=options.profiles)
    folder = Path(os.path.abspath(options.folder))
    found = list(find_checks(profile, folder=folder, on_node=options.node_check))
    failed = [check.name for check in found if check.state == "broken"]
    if options.json:
        print_json({"ok": not failed, "checks": [asdict(check) for check in found]})
    else:
        show_checks(found)
    return 1 if failed else 0


def find_checks(
    profile: Profile, *, folder: Path, on_node: bool = True, patience: Mapping[JobState, float] = PATIENCE
) -> Iterator[Check]:
    """Make all checks.

    Args:
        profile: what jobs will ask for.
        folder: where a sweep's files will be; absolute.
        on_node: send a small job to a compute node and check there too.
        patience: seconds to wait for that job, by its state.

    Raises:
        SweepError: there is no Slurm here, or it does not answer.
    """
    facts, requests = ask_cluster(), find_requests(profile)
    for look in CHECKS:
        yield from merge_kinds({kind: look(facts, request) for kind, request in requests.items()})
    here = check_folder_here(folder)
    yield here
    if here.state == "broken":
        return
    accepted = {kind: check_request(profile, kind=kind, folder=folder) for kind in requests}
    yield from merge_kinds(accepted)
    if on_node and accepted["run"].state != "broken":
        own = profile.of_kind("run")
        yield from check_node(ask_node(own, folder=folder, patience=patience), own, folder)


def find_requests(profile: Profile) -> dict[str, Profile]:
    """What jobs ask of each of their nodes, by kind: runs, and the kinds that the profile treats differently."""
    found = {}
    for kind in ["run", *sorted({*profile.kinds, *(["backbone"] if profile.nodes > 1 else [])} - {"run"})]:
        own = profile.of_kind(kind)
        processes = own.processes(kind)
        found[kind] = replace(own, cpus=own.cpus * processes, memory_gb=own.memory_gb * processes)
    return found


def merge_kinds(checks: Mapping[str, Check]) -> list[Check]:
    """The check for runs, and those for other kinds of jobs that found something else, named for their kind."""
    usual = checks["run"]
    others = [replace(check, name=f"{check.name} ({kind})") for kind, check in checks.items() if check != usual]
    return [usual, *others]


def show_checks(found: list[Check]) -> None:
    """Print the checks, each with what to change."""
    rows = [(check.name, MARKS.get(check.state, check.state), describe(check)) for check in found]
    table("sweeps on this cluster", "promise", "", "found", rows=rows, numeric=())
    counts = {words: sum(check.state == state for check in found) for state, words in SUMMARY.items()}
    said = ", ".join(f"{count} {words}" for words, count in counts.items() if count)
    say(f"{len(found)} promises looked at: {said or 'all hold'}")


def describe(check: Check) -> str:
    """Say what was found and, on a line of its own, what to change."""
    return f"{check.found}\n-> {check.advice}" if check.advice else check.found
