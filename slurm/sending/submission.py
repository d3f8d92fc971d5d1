"""Submission of runs: to Slurm, to a queue on this machine, or one after the other in this process."""

import signal
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from piggyback.shell.errors import SweepError
from piggyback.shell.files import write_json
from slurm.children import REQUEUE, catch_stops
from slurm.folder.claims import Owner
from slurm.folder.layout import SweepFolder
from slurm.jobs import do_run, order_of
from slurm.local_queue import refuse_second_queue, start_queue, work
from slurm.planning.planned_run import PlannedRun
from slurm.planning.plans import Plan, find_unsent
from slurm.planning.profiles import Profile
from slurm.sending.cancellation import cancel_jobs
from slurm.sending.snapshots import take_snapshot
from slurm.states import OPEN, find_standings

Cluster = Literal["slurm", "local", "debug"]
WAIT_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where runs are sent.

    Attributes:
        cluster: the kind of place.
        profile: what Slurm is asked for.
        parallel: runs at the same time on this machine; 0 is one per GPU, or one.
        stay: wait until all runs have ended.
        snapshot: let runs import the packages from a copy made now.
    """

    cluster: Cluster
    profile: Profile = field(default_factory=Profile)
    parallel: int = 0
    stay: bool = False
    snapshot: bool = False


def submit(planned: Plan, *, target: Target, chosen: Collection[str] | None = None) -> dict[str, str]:
    """Send the missing runs of a sweep; those done, queued or in progress are left alone.

    Args:
        planned: the sweep.
        target: where to send.
        chosen: ids; only these, what waits for them, and what they need.

    Returns:
        The job of each run that was sent.

    Raises:
        SweepError: another process is sending this sweep, Slurm does not answer or refuses, or an input is missing.
    """
    sweep = planned.folder
    if target.cluster == "slurm":
        from slurm.sending.sbatch import check_folder  # start-up time: submitit's, which only Slurm needs

        check_folder(sweep.root)  # before anything is written
    sweep.root.mkdir(parents=True, exist_ok=True)
    with sweep.sending.hold(what="sending runs of this sweep"):
        unsent = find_unsent(planned, chosen=chosen)
        refuse_missing_inputs(unsent)
        sweep.write_plan(planned.name, [*planned.runs, *find_left_over(planned)])
        return send(planned, unsent, target=target) if unsent else {}


def find_left_over(planned: Plan) -> list[PlannedRun]:
    """Find runs of the plan submitted before that are no longer planned, but still queued or in progress."""
    if not planned.folder.plan.exists():
        return []
    _, before = planned.folder.read_plan()
    known = {run.id for run in planned.runs}
    gone = {run.id for run in before} - known
    left = [one.run for one in find_standings(planned.folder, before, only=gone) if one.state in OPEN] if gone else []
    there = known | {run.id for run in left}
    return [replace(run, needs=tuple(need for need in run.needs if need in there)) for run in left]


def send(planned: Plan, runs: Sequence[PlannedRun], *, target: Target) -> dict[str, str]:
    """Send runs; returns the job of each.  Runs for this process itself are only prepared; `stay` does them.

    Raises:
        SweepError: a queue is working on the folder already, or Slurm refuses.
    """
    sweep = planned.folder
    if target.cluster == "local":
        refuse_second_queue(sweep)
    if target.cluster == "slurm":
        runs = [*runs, *call_back(planned, runs)]
    code = take_snapshot(sweep.root / "code") if target.snapshot else None
    known = {run.id: run for run in planned.runs}
    for run in runs:
        folder = sweep.job(run.id)
        needs = {need: sweep.proof(known[need]) for need in run.needs}
        write_json(folder.order, order_of(run, needs=needs, code=code))
        folder.done.unlink(missing_ok=True)
        folder.cancelled.unlink(missing_ok=True)
    if target.cluster == "slurm":
        from slurm.sending.sbatch import submit_stages  # start-up time, as above

        before = find_open_jobs(planned)
        return submit_stages(sweep, runs, name=planned.name, profile=target.profile, before=before, code=code)
    for run in runs:
        folder = sweep.job(run.id)
        folder.note_sent(cluster=target.cluster, job="", attempt=folder.claims.next())
    if target.cluster == "debug" or target.stay:
        return {run.id: target.cluster for run in runs}
    pid = start_queue(sweep, runs, parallel=target.parallel)
    return {run.id: f"local-{pid}" for run in runs}


def refuse_missing_inputs(runs: Sequence[PlannedRun]) -> None:
    """Refuse to send runs whose inputs are missing: they would fail one by one, hours later.

    Inputs are looked for on the machine that sends, which sees the folders that the nodes share.

    Raises:
        SweepError: lists all that are missing, and how many runs need each.
    """
    needed = Counter(path for run in runs for path in run.inputs)
    missing = [f"{path}, which {count} of {len(runs)} runs need" for path, count in needed.items() if not path.exists()]
    if missing:
        raise SweepError(
            f"nothing is sent, as it would fail: the sweep's file names what is not there: {'; '.join(missing)}"
            "  (a relative path counts from the folder of that file)"
        )


def stay(planned: Plan, runs: Sequence[PlannedRun], *, target: Target) -> None:
    """Do what was sent to this process, or wait until no run is queued or in progress.

    Raises:
        KeyboardInterrupt: Ctrl-C; runs in progress here have left checkpoints where they can, Slurm's jobs continue.
    """
    if target.cluster == "debug":
        do_here(planned.folder, runs)
        return
    if target.cluster == "local" and runs:
        work(planned.folder, runs, parallel=target.parallel)
    while any(one.state in OPEN for one in find_standings(planned.folder, planned.runs)):
        time.sleep(WAIT_S)


def call_back(planned: Plan, runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Take steps out of Slurm's queue that would start too early.

    A score step that waits for an array does not wait for the runs of that array that are sent again.

    Returns:
        These steps, to be sent with the runs.
    """
    again = {run.id for run in runs}
    early = {run.id for run in planned.runs if run.after == "ended" and again & set(run.needs)} - again
    standings = find_standings(planned.folder, planned.runs, only=early) if early else []
    queued = [one for one in standings if one.state == "queued" and one.job[:1].isdigit()]
    if queued:
        cancel_jobs([one.job for one in queued])
    return [one.run for one in queued]


def find_open_jobs(planned: Plan) -> dict[str, str]:
    """Find Slurm's jobs of the runs that are queued or in progress."""
    standings = find_standings(planned.folder, planned.runs)
    return {one.run.id: one.job for one in standings if one.state in OPEN and one.job[:1].isdigit()}


def do_here(sweep: SweepFolder, runs: Sequence[PlannedRun]) -> None:
    """Do runs one after the other in this process; a stop ends the current one and skips the rest.

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
