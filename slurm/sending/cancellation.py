"""Cancellation of runs: waiting ones leave the queue, those in progress write a checkpoint where they can."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence

from piggyback.shell.errors import SweepError
from piggyback.shell.files import write_json
from slurm.planning.planned_run import PlannedRun
from slurm.planning.plans import Plan
from slurm.states import OPEN, find_standings


def cancel(planned: Plan, runs: Sequence[PlannedRun]) -> list[str]:
    """End runs that are queued or in progress; those in progress write a checkpoint where they can.

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
    """Ask Slurm to end jobs; jobs that have ended meanwhile are no error."""
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
