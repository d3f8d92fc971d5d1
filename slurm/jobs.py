"""Jobs on their nodes: claim a run, start its command, pass a stop on to it, ask to be queued again.

submitit would checkpoint in its own signal handler, between any two lines of Python.  Here the handler only sets a
flag; the command runs as a child, which leaves a checkpoint at its next step boundary and ends with exit code 75
(reference: cluster notes, S6 to S10).
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from piggyback.shell.errors import SweepError
from slurm.children import POLL_S, REQUEUE, catch_stops, child_environment, run_child
from slurm.folder.claims import Owner
from slurm.folder.layout import JobFolder, SweepFolder, find_stamp
from slurm.folder.state_files import read_state
from slurm.planning.planned_run import PlannedRun
from slurm.queries import find_states, is_running

KILL_WAIT_S: Final = 60.0  # twice Slurm's default KillWait
STALLS: Final = 5  # attempts in a row that get no further; another would most likely not either
COMMAND: tuple[str, ...] = (sys.executable, "-m", "piggyback")
"""What comes before a run's arguments; kept in its order."""


@dataclass(frozen=True)
class JobCall:
    """The pickled call of a job: command, folder and id, nothing else; jobs that wait in a queue import it by name.

    Attributes:
        argv: arguments of the console command.
        root: the sweep's folder.
        run: id of the run.
    """

    argv: tuple[str, ...]
    root: str
    run: str

    def __call__(self) -> int:
        """Do the run, or this task's share of it; the job fails if the command does.

        Raises:
            SweepError: with the command's exit code and where its log is.
        """
        owner, folder = Owner.of_job(), SweepFolder(Path(self.root)).job(self.run)
        with catch_stops() as asked:  # in the place of submitit's handlers, until the job's end
            if rank := meet_tasks():
                code, log = assist_run(folder, argv=self.argv, rank=rank, asked=asked), folder.log_of(rank)
                code = 0 if code == REQUEUE else code  # the first task asks for the requeue
            else:
                code, log = do_run(Path(self.root), run=self.run, argv=self.argv, owner=owner, asked=asked), folder.log
                if code == REQUEUE and wants_requeue(folder, owner=owner, asked=asked):
                    requeue(owner, asked)
        if code:
            raise SweepError(f"{self.run} ended with exit code {code}: see {log}")
        return code


def meet_tasks() -> int:
    """Set torch.distributed's variables by which a job's tasks, if there are several, find each other.

    Each sees all GPUs of its node and takes the one of its LOCAL_RANK.  A MASTER_ADDR from a profile's setup lines
    stays: a node's name need not lead to the network that its GPUs should talk over.

    Returns:
        This task's rank.
    """
    if int(os.environ.get("SLURM_NTASKS", "1") or 1) <= 1:
        return 0
    from submitit.helpers import TorchDistributedEnvironment  # start-up time: only jobs of several tasks need it

    address = os.environ.get("MASTER_ADDR")
    together = TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    os.environ["MASTER_ADDR"] = address or together.master_addr
    return int(together.rank)


def do_run(root: Path, *, run: str, argv: tuple[str, ...], owner: Owner, asked: list[int]) -> int:
    """Claim the run, start its command as a child, and record how it ended.

    Args:
        root: the sweep's folder, with the run's order.
        run: its id.
        argv: arguments of the console command.
        owner: this process.
        asked: collects the signals that ask for a stop, see `catch_stops`.

    Returns:
        The command's exit code; `REQUEUE` also if a stop came before it began; 128 and more for a signal.

    Raises:
        SweepError: another process is working on the run.
    """
    folder = SweepFolder(root).job(run)
    progress = find_progress(folder)
    number = folder.claims.take(owner, what=run, ask_slurm=is_running, progress=progress)
    order, begun, message = read_state(folder.order), time.time(), None
    needs = {str(need): Path(proof) for need, proof in order.get("needs", {}).items()}
    stamps = {need: find_stamp(proof) for need, proof in needs.items()}
    with folder.log.open("ab") as log:
        log.write(f"== {time.strftime('%F %T')} job {owner.job} restart {owner.restart} on {owner.node}\n".encode())
        log.flush()
        message = find_stall(folder, number=number, progress=progress)
        if message is None and order.get("after") == "done":
            message = find_failed_need(root, needs)
        if asked or folder.cancelled.exists():
            code, message = REQUEUE, "stopped before it began"
        elif message is not None:
            code = 1
        else:
            command, variables = [*order.get("command", COMMAND), *argv], child_environment(find_code(order))
            sign = partial(give_sign, folder, number, asked)
            code = run_child(command, log=log, asked=asked, sign=sign, environment=variables)
        if message is not None:
            log.write(f"not started: {message}\n".encode())
    last = folder.claims.last()
    if code == 0 and order.get("proof") is None and last is not None and last.number == number:
        folder.note_done(argv=argv, needs=stamps)
    folder.claims.end(number, {**vars(owner), "begun": begun, "code": code, "message": message})
    return code


def assist_run(folder: JobFolder, *, argv: tuple[str, ...], rank: int, asked: list[int]) -> int:
    """Start the command as a further process of a run that the first task claims.

    Returns:
        The command's exit code, as of `run_child`.
    """
    order = read_state(folder.order)
    command, variables = [*order.get("command", COMMAND), *argv], child_environment(find_code(order))
    log = folder.log_of(rank)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        return run_child(command, log=file, asked=asked, sign=lambda: None, environment=variables)


def find_code(order: Mapping[str, Any]) -> Path | None:
    """Folder from which an order wants the packages imported; None for the installed ones."""
    return Path(order["code"]) if order.get("code") else None


def find_progress(folder: JobFolder) -> float:
    """Fraction of a run completed, in [0, 1], as the run reports it."""
    place = read_state(folder.order).get("folder")
    said = read_state(Path(place) / "status.json").get("progress") if isinstance(place, str) else None
    return float(said) if isinstance(said, int | float) and not isinstance(said, bool) and 0 <= said <= 1 else 0.0


def find_stall(folder: JobFolder, *, number: int, progress: float) -> str | None:
    """Describe a run that was started again and again without progress; None for any other.

    Only attempts since it was last sent count, so that sending it again gives it another chance.
    """
    first = read_state(folder.submitted).get("attempt", 0)
    before = folder.claims.since(first if isinstance(first, int) else 0)[-STALLS - 1 : -1]
    started = [claim.owner.get("progress") for claim in before if claim.number < number]
    if len(started) < STALLS or not all(isinstance(one, float) and progress <= one for one in started):
        return None
    return (
        f"{STALLS} attempts got no further than {100 * progress:.0f} %: each was stopped or lost before its first"
        " checkpoint; give it more time or memory in the profile, then `piggyback sweep retry`"
    )


def give_sign(folder: JobFolder, number: int, asked: list[int]) -> None:
    """Give a sign of life, and stop if the run was cancelled from another machine."""
    folder.claims.beat(number)
    if folder.cancelled.exists():
        asked.append(signal.SIGTERM)


def find_failed_need(root: Path, needs: Mapping[str, Path]) -> str | None:
    """Describe the first need that is not finished, and how it ended; None if all are."""
    for need, proof in needs.items():
        if not proof.exists():
            folder = SweepFolder(root).job(need)
            ended = folder.claims.ends()
            how = f"ended with exit code {ended[-1].get('code')}" if ended else "has not run"
            return f"{need}, which it needs, {'was cancelled' if folder.cancelled.exists() else how}"
    return None


def wants_requeue(folder: JobFolder, *, owner: Owner, asked: list[int]) -> bool:
    """Whether a stopped job should ask to be queued again.

    USR2 comes before a time limit and at preemption.  TERM alone has one of three sources: scancel, which a requeue
    would undo; preemption without warning, after which Slurm has queued the job again by itself; or the beginning of a
    preemption's grace time, in a cluster that sends no user signal.  Only in the last does the job count as running
    (slurm 22.05, src/slurmctld/preempt.c as told in the reference: cluster notes, 4.2; seen on the test cluster).
    """
    if folder.cancelled.exists():
        return False
    return not asked or signal.SIGUSR2 in asked or find_states([owner.job]).of(owner.job)[1] == "RUNNING"


def requeue(owner: Owner, asked: list[int]) -> None:
    """Ask Slurm to queue the job again, and wait for the TERM that it then sends.

    A job that was preempted without grace time is pending already: scontrol refuses, which is fine (S6).

    Raises:
        SweepError: Slurm refuses for another reason.
    """
    try:
        told = subprocess.run(
            ["scontrol", "requeue", owner.job], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as fault:
        raise SweepError(f"cannot queue job {owner.job} again, scontrol does not answer: {fault}") from None
    if told.returncode and "pending" not in told.stderr.lower():
        raise SweepError(f"cannot queue job {owner.job} again: {told.stderr.strip()}")
    patience = time.monotonic() + KILL_WAIT_S
    while signal.SIGTERM not in asked and time.monotonic() < patience:
        time.sleep(POLL_S)


def order_of(run: PlannedRun, *, needs: Mapping[str, Path], code: Path | None = None) -> dict[str, Any]:
    """Content of a run's order file: what a job must do.

    Args:
        needs: proofs of what the run needs.
        code: see `child_environment`.
    """
    return {
        "argv": list(run.argv),
        "command": list(COMMAND),
        "folder": str(run.folder),
        "proof": None if run.proof is None else str(run.proof),
        "needs": {need: str(path) for need, path in needs.items()},
        "after": run.after,
        "code": None if code is None else str(code),
    }
