"""Sending runs to where they are done: to Slurm, to a queue on this machine, or one after the other here."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from slurm.claims import Owner
from slurm.errors import SweepError
from slurm.files import write_json
from slurm.folders import SweepFolder
from slurm.jobs import REQUEUE, catch_stops, do_run, order_of
from slurm.local_queue import refuse_second_queue, start_queue, work
from slurm.planned import PlannedRun
from slurm.plans import Plan
from slurm.states import OPEN, find_standings
from slurm.sweep_files import Profile

Cluster = Literal["slurm", "local", "debug"]
WAIT_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where runs are sent.

    Attributes:
        cluster: which kind of place.
        profile: how Slurm is asked for resources.
        parallel: runs at the same time on this machine; 0 is one per GPU, or one.
        stay: whether to stay until all has ended.
    """

    cluster: Cluster
    profile: Profile = field(default_factory=Profile)
    parallel: int = 0
    stay: bool = False


def send(planned: Plan, runs: Sequence[PlannedRun], *, target: Target) -> dict[str, str]:
    """Send runs; gives the job of each.  What is done in this process is only prepared, see `stay`.

    Raises:
        SweepError: a queue is at work on the folder already, or Slurm refuses.
    """
    sweep = planned.folder
    if target.cluster == "local":
        refuse_second_queue(sweep)
    if target.cluster == "slurm":
        runs = [*runs, *call_back(planned, runs)]
    known = {run.id: run for run in planned.runs}
    for run in runs:
        folder = sweep.job(run.id)
        needs = {need: sweep.proof(known[need]) for need in run.needs}
        write_json(folder.order, order_of(run.argv, proof=run.proof, needs=needs, after=run.after))
        folder.done.unlink(missing_ok=True)
        folder.cancelled.unlink(missing_ok=True)
    if target.cluster == "slurm":
        from slurm.submission import submit

        return submit(sweep, runs, name=planned.name, profile=target.profile, before=find_open_jobs(planned))
    for run in runs:
        folder = sweep.job(run.id)
        folder.note_sent(cluster=target.cluster, job="", attempt=folder.claims.next())
    if target.cluster == "debug" or target.stay:
        return {run.id: target.cluster for run in runs}
    pid = start_queue(sweep, runs, parallel=target.parallel)
    return {run.id: f"local-{pid}" for run in runs}


def stay(planned: Plan, runs: Sequence[PlannedRun], *, target: Target) -> None:
    """Do what was sent to this process, or wait until no run is queued or under way.

    Raises:
        KeyboardInterrupt: Ctrl-C; what was under way here has left checkpoints where it can, jobs of Slurm go on.
    """
    if target.cluster == "debug":
        do_here(planned.folder, runs)
        return
    if target.cluster == "local" and runs:
        work(planned.folder, runs, parallel=target.parallel)
    while any(one.state in OPEN for one in find_standings(planned.folder, planned.runs)):
        time.sleep(WAIT_S)


def call_back(planned: Plan, runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Take steps out of Slurm's queue that were sent to come after other attempts than those that are sent now.

    A score step that waits for an array does not wait for the runs of it that are sent again.

    Returns:
        These steps, to be sent with the runs.
    """
    anew = {run.id for run in runs}
    early = {run.id for run in planned.runs if run.after == "ended" and anew & set(run.needs)} - anew
    standings = find_standings(planned.folder, planned.runs, only=early) if early else []
    queued = [one for one in standings if one.state == "queued" and one.job[:1].isdigit()]
    if queued:
        cancel_jobs([one.job for one in queued])
    return [one.run for one in queued]


def find_open_jobs(planned: Plan) -> dict[str, str]:
    """Slurm's jobs of the runs that are queued or under way."""
    standings = find_standings(planned.folder, planned.runs)
    return {one.run.id: one.job for one in standings if one.state in OPEN and one.job[:1].isdigit()}


def do_here(sweep: SweepFolder, runs: Sequence[PlannedRun]) -> None:
    """Do runs one after the other in this process; a stop ends the one under way and leaves the others.

    Raises:
        KeyboardInterrupt: the stop was Ctrl-C.
    """
    with catch_stops() as asked:
        for run in runs:
            code = do_run(sweep.root, run=run.id, argv=run.argv, owner=Owner.local(), asked=asked)
            if asked or code == REQUEUE:
                break
    if signal.SIGINT in asked:
        raise KeyboardInterrupt


def cancel(planned: Plan, runs: Sequence[PlannedRun]) -> list[str]:
    """End runs that are queued or under way; those under way leave a checkpoint where they can.

    Returns:
        Their ids.

    Raises:
        SweepError: Slurm refuses, or does not answer.
    """
    sweep = planned.folder
    standings = find_standings(sweep, planned.runs, only={run.id for run in runs})
    ending = [one for one in standings if one.state in OPEN]
    for one in ending:  # this alone ends what waits in a local queue, or runs on another machine
        write_json(sweep.job(one.run.id).cancelled, {"when": time.time()})
    jobs = [one.job for one in ending if one.job[:1].isdigit()]
    for first in range(0, len(jobs), 500):
        cancel_jobs(jobs[first : first + 500])
    for one in ending:
        claim = sweep.job(one.run.id).claims.last()
        if claim is not None and claim.end is None and not claim.in_slurm and claim.is_here:
            stop_process(claim.owner)
    return [one.run.id for one in ending]


def cancel_jobs(jobs: Sequence[str]) -> None:
    """Have Slurm end jobs; those that have ended meanwhile are no fault."""
    try:
        told = subprocess.run(["scancel", *jobs], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as fault:
        raise SweepError(f"cannot cancel: scancel does not answer: {fault}") from None
    words = [line for line in told.stderr.splitlines() if not re.search("Invalid job id|already complet", line)]
    if told.returncode and words:
        raise SweepError(f"scancel refuses: {' '.join(words)[:400]}")


def stop_process(owner: Mapping[str, object]) -> None:
    """Ask a process of this machine for a checkpoint; it may have ended meanwhile."""
    try:
        os.kill(int(str(owner["pid"])), signal.SIGUSR2)
    except ProcessLookupError:
        return
