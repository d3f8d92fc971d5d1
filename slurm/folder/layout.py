"""The folder of a sweep: its plan, and a folder per run for orders, attempts and logs.

<out>/plan.json                         the planned runs, as last submitted, with absolute paths
<out>/sending/, queue/                  claims of who sends runs, and of the local queue's process
<out>/queue.log                         what the local queue printed
<out>/submitit/                         what submitit writes: scripts, pickles, output of the jobs themselves
<out>/jobs/<id>/order.json              what a job must do
<out>/jobs/<id>/submitted.json          where it was last sent
<out>/jobs/<id>/cancelled.json          while it is there, nothing starts
<out>/jobs/<id>/attempts/               claims of who was at work, and how that ended
<out>/jobs/<id>/log.txt                 what all attempts printed; log-1.txt and so on: other processes of the same run
<out>/jobs/<id>/done.json               the proof of runs that leave no result of their own

Files are written whole or not at all, and each has one writer at a time: no database, no locks, safe on NFS.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from piggyback.shell.errors import SweepError
from piggyback.shell.files import write_json
from slurm.folder.claims import Claims
from slurm.folder.state_files import read_state
from slurm.planning.planned_run import PlannedRun, read_planned


def find_stamp(proof: Path) -> int | None:
    """A stamp that changes when a proof is written again; None without a proof."""
    try:
        return proof.stat().st_mtime_ns
    except OSError:
        return None


@dataclass(frozen=True)
class JobFolder:
    """The folder of one run."""

    root: Path

    @property
    def order(self) -> Path:
        """File: what a job must do, see `slurm.jobs.order_of`."""
        return self.root / "order.json"

    @property
    def submitted(self) -> Path:
        """File: where it was last sent: ``cluster``, ``job``, ``when``, ``attempt`` (the number of the next claim)."""
        return self.root / "submitted.json"

    @property
    def cancelled(self) -> Path:
        """File: while it is there, nothing starts."""
        return self.root / "cancelled.json"

    @property
    def claims(self) -> Claims:
        """The attempts: who was at work, and how that ended."""
        return Claims(self.root / "attempts")

    @property
    def log(self) -> Path:
        """File: what all attempts printed."""
        return self.root / "log.txt"

    def log_of(self, rank: int) -> Path:
        """File: output of another process, if a run has several."""
        return self.root / f"log-{rank}.txt"

    @property
    def done(self) -> Path:
        """File: proof of a run without a result of its own."""
        return self.root / "done.json"

    def note_sent(self, *, cluster: str, job: str, attempt: int) -> None:
        """Record where it was sent; `attempt` is `Claims.next` from before, as the job may have begun by now."""
        write_json(self.submitted, {"cluster": cluster, "job": job, "when": time.time(), "attempt": attempt})

    def note_done(self, *, argv: Sequence[str], needs: Mapping[str, int | None]) -> None:
        """Write the proof of a run without a result of its own; `needs` are the stamps that it was done with."""
        write_json(self.done, {"argv": list(argv), "needs": dict(needs)})


@dataclass(frozen=True)
class SweepFolder:
    """The folder of a sweep."""

    root: Path

    @property
    def plan(self) -> Path:
        """File: the planned runs, as last submitted."""
        return self.root / "plan.json"

    @property
    def sending(self) -> Claims:
        """Claims: who sends runs."""
        return Claims(self.root / "sending")

    @property
    def queue(self) -> Claims:
        """Claims: the local queue's process."""
        return Claims(self.root / "queue")

    def job(self, run: str) -> JobFolder:
        """The folder of a run."""
        return JobFolder(self.root / "jobs" / run)

    def write_plan(self, name: str, runs: Sequence[PlannedRun]) -> None:
        """Record the plan, for `sweep status` and the other verbs."""
        plan = [
            {**asdict(run), "folder": str(run.folder), "proof": run.proof and str(run.proof)}
            | {"inputs": [str(path) for path in run.inputs]}
            for run in runs
        ]
        write_json(self.plan, {"name": name, "runs": plan})

    def read_plan(self) -> tuple[str, list[PlannedRun]]:
        """Read the sweep's name and its runs.

        Raises:
            SweepError: no sweep was submitted to this folder.
        """
        value = read_state(self.plan)
        runs = value.get("runs")
        if not isinstance(runs, list) or not isinstance(value.get("name"), str):
            raise SweepError(f"no sweep was submitted to {self.root}: it has no {self.plan.name}")
        return value["name"], [read_planned(run, benchmark=str(self.plan)) for run in runs]

    def proof(self, run: PlannedRun) -> Path:
        """The file that proves that a run is finished; see `find_finished`."""
        return run.proof if run.proof is not None else self.job(run.id).done

    def find_finished(self, runs: Sequence[PlannedRun]) -> set[str]:
        """Ids of the runs that are finished.

        A run with a result is finished when the result is there.  One without, such as a score, is finished when the
        same command has done it, all that it needs is finished, and none of that was done again since.

        Args:
            runs: all of the plan, in the order of their needs.
        """
        known, finished = {run.id: run for run in runs}, set[str]()
        for run in runs:
            if run.proof is not None:
                ready = run.proof.exists()
            else:
                done = read_state(self.job(run.id).done)
                ready = bool(done) and done.get("argv") == list(run.argv) and set(run.needs) <= finished
                ready = ready and done.get("needs") == {n: find_stamp(self.proof(known[n])) for n in run.needs}
            if ready:
                finished.add(run.id)
        return finished
