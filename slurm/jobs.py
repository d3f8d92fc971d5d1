"""What a job does on its node: claim its run, start the command, pass a stop on to it, ask to be queued again.

submitit would checkpoint in its own signal handler, between any two lines of Python.  Here the handler only sets a
flag; the command runs as a child, which leaves a checkpoint at its next step boundary and ends with exit code 75
(reference: cluster notes, S6 to S10).
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from slurm.errors import SweepError
from slurm.folders import JobFolder, read_json, write_json

REQUEUE: Final = 75  # a command's exit code for "stopped with a checkpoint, to be continued"
POLL_S: Final = 0.2
STALE_CLAIM_S: Final = 30.0
"""Seconds that a claim of a job nobody knows is respected: its node may not have told the controller yet."""


@dataclass(frozen=True, kw_only=True)
class Owner:
    """An attempt at a run.

    Attributes:
        job: Slurm's id such as ``12_3``, or ``local-`` and a process id.
        restart: how often Slurm has queued the job again.
        host, pid: of the process.
    """

    job: str
    restart: int
    host: str
    pid: int

    @staticmethod
    def here(environment: Mapping[str, str] = os.environ) -> "Owner":
        """This process."""
        job = environment.get("SLURM_JOB_ID", "")
        if environment.get("SLURM_ARRAY_JOB_ID"):
            job = f"{environment['SLURM_ARRAY_JOB_ID']}_{environment.get('SLURM_ARRAY_TASK_ID', '0')}"
        restart = int(environment.get("SLURM_RESTART_COUNT", "0") or 0)
        return Owner(job=job or f"local-{os.getpid()}", restart=restart, host=socket.gethostname(), pid=os.getpid())


def is_alive(owner: Mapping[str, Any], *, ask_slurm: Callable[[str], bool]) -> bool:
    """Whether the attempt that a claim names is still at work.

    Args:
        owner: fields of `Owner`.
        ask_slurm: whether a job id is running.
    """
    if owner.get("host") == socket.gethostname() and isinstance(owner.get("pid"), int):
        try:
            os.kill(owner["pid"], 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True
    job = str(owner.get("job", ""))
    return not job.startswith("local-") and ask_slurm(job)


def claim(folder: JobFolder, owner: Owner, *, ask_slurm: Callable[[str], bool]) -> None:
    """Make this attempt the one at work, so that two copies never write one run.

    Raises:
        SweepError: another attempt is at work.
    """
    folder.root.mkdir(parents=True, exist_ok=True)
    before = read_json(folder.claim)
    same = before.get("job") == owner.job and before.get("restart", 0) < owner.restart
    if before and not same and before.get("open") and is_alive(before, ask_slurm=ask_slurm):
        raise SweepError(f"job {before.get('job')} on {before.get('host')} is at work on {folder.root.name} already")
    write_json(folder.claim, {**vars(owner), "open": True, "since": time.time()})


def find_failed_need(root: Path, needs: Mapping[str, Path]) -> str | None:
    """The first need that is not finished, with how it ended; None when all are."""
    for need, proof in needs.items():
        if not proof.exists():
            ended = JobFolder(root / "jobs" / need).ended()
            how = f"ended with exit code {ended[-1].get('code')}" if ended else "has not run"
            return f"{need}, which it needs, {how}"
    return None


@dataclass(frozen=True)
class JobCall:
    """What is pickled for a job: command, folder and id, nothing else.

    Attributes:
        argv: of the console command.
        root: the sweep's folder.
        run: id of the run.
    """

    argv: tuple[str, ...]
    root: str
    run: str

    def __call__(self) -> int:
        """Do the run; the job fails when the command does.

        Raises:
            SweepError: with the command's exit code and where its log is.
        """
        code = do_run(Path(self.root), run=self.run, argv=self.argv)
        if code == REQUEUE:
            requeue(Owner.here())
        if code:
            log = JobFolder(Path(self.root) / "jobs" / self.run).log
            raise SweepError(f"{self.run} ended with exit code {code}: see {log}")
        return code


def do_run(root: Path, *, run: str, argv: tuple[str, ...], environment: Mapping[str, str] | None = None) -> int:
    """Claim the run, start its command as a child, and record how it ended.

    Args:
        root: the sweep's folder, with its plan.
        run: id.
        argv: of the console command.
        environment: variables for the child beside this process's.

    Returns:
        The command's exit code.
    """
    from slurm.folders import SweepFolder
    from slurm.queries import is_running

    sweep = SweepFolder(root)
    folder, owner = sweep.job(run), Owner.here()
    planned = {one.id: one for one in sweep.read_plan()[1]}
    claim(folder, owner, ask_slurm=is_running)
    begun = time.time()
    me = planned.get(run)
    needs = {need: sweep.proof(planned[need]) for need in me.needs} if me is not None and me.after == "done" else {}
    missing = find_failed_need(root, needs)
    with folder.log.open("ab") as log:
        log.write(f"== {time.strftime('%F %T')} job {owner.job} restart {owner.restart} on {owner.host}\n".encode())
        if missing is not None:
            log.write(f"not started: {missing}\n".encode())
            code = 1
        else:
            code = run_child([sys.executable, "-m", "piggyback", *argv], log=log, environment=environment or {})
    record = {**vars(owner), "begun": begun, "code": code, "message": missing}
    if me is not None and me.proof is None and code == 0:
        write_json(folder.done, record)
    folder.note_end(record)
    write_json(folder.claim, {**vars(owner), "open": False, "since": begun})
    return code


def run_child(command: list[str], *, log: Any, environment: Mapping[str, str]) -> int:
    """Run a command, its output into a log; USR2 and TERM reach it once as USR2, which lets it checkpoint."""
    asked: list[int] = []
    handlers = {
        number: signal.signal(number, lambda received, _: asked.append(received))
        for number in (signal.SIGUSR2, signal.SIGTERM)
    }
    try:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **environment}
        )
        told = False
        while True:
            try:
                return child.wait(timeout=POLL_S)
            except subprocess.TimeoutExpired:
                if asked and not told:
                    child.send_signal(signal.SIGUSR2)
                    told = True
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def requeue(owner: Owner) -> None:
    """Ask Slurm to queue the job again and wait for the end that it then sends.

    A job that was preempted without grace time is pending already: scontrol refuses, and that is no fault (S6).

    Raises:
        SweepError: Slurm refuses for another reason.
    """
    if owner.job.startswith("local-"):
        return
    try:
        asked = subprocess.run(
            ["scontrol", "requeue", owner.job], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as fault:
        raise SweepError(f"cannot queue job {owner.job} again, scontrol does not answer: {fault}") from None
    if asked.returncode and "pending" not in asked.stderr.lower():
        raise SweepError(f"cannot queue job {owner.job} again: {asked.stderr.strip()}")
    time.sleep(60)  # Slurm ends the job before that
