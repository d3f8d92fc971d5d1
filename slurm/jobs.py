"""What a job does on its node: claim its run, start the command, pass a stop on to it, ask to be queued again.

submitit would checkpoint in its own signal handler, between any two lines of Python.  Here the handler only sets a
flag; the command runs as a child, which leaves a checkpoint at its next step boundary and ends with exit code 75
(reference: cluster notes, S6 to S10).
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from slurm.claims import BEAT_S, Owner
from slurm.errors import SweepError
from slurm.files import read_json
from slurm.folders import JobFolder, SweepFolder, find_stamp
from slurm.queries import is_running

REQUEUE: Final = 75  # a command's exit code for "stopped with a checkpoint, to be continued"
POLL_S: Final = 0.2
KILL_WAIT_S: Final = 60.0
STOPS: Final = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
COMMAND: tuple[str, ...] = (sys.executable, "-m", "piggyback")
"""What comes before a run's arguments; kept in its order."""


@contextlib.contextmanager
def catch_stops() -> Iterator[list[int]]:
    """The signals that ask for a stop and have come while the block runs."""
    asked: list[int] = []
    handlers = {number: signal.signal(number, lambda received, _: asked.append(received)) for number in STOPS}
    try:
        yield asked
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


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
        owner, folder = Owner.of_job(), SweepFolder(Path(self.root)).job(self.run)
        with catch_stops() as asked:  # in the place of submitit's handlers, until the job's end
            code = do_run(Path(self.root), run=self.run, argv=self.argv, owner=owner, asked=asked)
            if code == REQUEUE and wants_requeue(folder, asked):
                requeue(owner, asked)
        if code:
            raise SweepError(f"{self.run} ended with exit code {code}: see {folder.log}")
        return code


def do_run(root: Path, *, run: str, argv: tuple[str, ...], owner: Owner, asked: list[int]) -> int:
    """Claim the run, start its command as a child, and record how it ended.

    Args:
        root: the sweep's folder, with the run's order.
        run: id.
        argv: of the console command.
        owner: this process.
        asked: grows by the signals that ask for a stop, see `catch_stops`.

    Returns:
        The command's exit code; `REQUEUE` also where a stop came before it began; 128 and more for a signal.

    Raises:
        SweepError: another process is at work on the run.
    """
    folder = SweepFolder(root).job(run)
    number = folder.claims.take(owner, what=run, ask_slurm=is_running)
    order, begun, message = read_json(folder.order), time.time(), None
    needs = {str(need): Path(proof) for need, proof in order.get("needs", {}).items()}
    stamps = {need: find_stamp(proof) for need, proof in needs.items()}
    with folder.log.open("ab") as log:
        log.write(f"== {time.strftime('%F %T')} job {owner.job} restart {owner.restart} on {owner.host}\n".encode())
        log.flush()
        if order.get("after") == "done":
            message = find_failed_need(root, needs)
        if asked or folder.cancelled.exists():
            code, message = REQUEUE, "stopped before it began"
        elif message is not None:
            code = 1
        else:
            command = [*order.get("command", COMMAND), *argv]
            code = run_child(command, log=log, asked=asked, sign=lambda: give_sign(folder, number, asked))
        if message is not None:
            log.write(f"not started: {message}\n".encode())
    last = folder.claims.last()
    if code == 0 and order.get("proof") is None and last is not None and last.number == number:
        folder.note_done(argv=argv, needs=stamps)
    folder.claims.end(number, {**vars(owner), "begun": begun, "code": code, "message": message})
    return code


def give_sign(folder: JobFolder, number: int, asked: list[int]) -> None:
    """Give a sign of life, and see whether the run was cancelled from another machine."""
    folder.claims.beat(number)
    if folder.cancelled.exists():
        asked.append(signal.SIGTERM)


def find_failed_need(root: Path, needs: Mapping[str, Path]) -> str | None:
    """The first need that is not finished, with how it ended; None when all are."""
    for need, proof in needs.items():
        if not proof.exists():
            folder = SweepFolder(root).job(need)
            ended = folder.claims.ends()
            how = f"ended with exit code {ended[-1].get('code')}" if ended else "has not run"
            return f"{need}, which it needs, {'was cancelled' if folder.cancelled.exists() else how}"
    return None


def run_child(command: list[str], *, log: IO[bytes], asked: list[int], sign: Callable[[], None]) -> int:
    """Run a command, its output into a log; a stop reaches it once, as USR2, which lets it checkpoint.

    Args:
        command: with arguments.
        log: gets what it prints.
        asked: signals that ask for a stop, growing.
        sign: called every `BEAT_S` seconds.

    Returns:
        Its exit code; 128 and its number for a signal; 127 where there is no such command.
    """
    in_slurm = "SLURM_JOB_ID" in os.environ  # Slurm follows the tree; a terminal's Ctrl-C must not reach the child
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=not in_slurm,
            preexec_fn=None if in_slurm else die_with_parent,  # noqa: PLW1509 -- there this process has one thread
        )
    except OSError as fault:
        log.write(f"cannot run {command[0]}: {fault.strerror}\n".encode())
        return 127
    told, signed = False, time.monotonic()
    while True:
        try:
            code = child.wait(timeout=POLL_S)
        except subprocess.TimeoutExpired:
            if time.monotonic() - signed > BEAT_S:
                signed = time.monotonic()
                sign()
            if asked and not told:
                child.send_signal(signal.SIGUSR2)
                told = True
            continue
        if code == -signal.SIGUSR2 or (asked and code == -signal.SIGTERM):  # it had not come so far as to listen
            return REQUEUE
        return code if code >= 0 else 128 - code


def die_with_parent() -> None:
    """Have the kernel send TERM when the process that started this one is killed; Linux only."""
    pr_set_pdeathsig = 1  # linux/prctl.h
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def wants_requeue(folder: JobFolder, asked: list[int]) -> bool:
    """Whether a stopped job shall ask to be queued again.

    USR2 comes before a time limit and at preemption.  TERM alone comes from scancel, which a requeue would undo, or
    from a preemption that says nothing before, and then Slurm has queued the job again by itself.
    """
    return (not asked or signal.SIGUSR2 in asked) and not folder.cancelled.exists()


def requeue(owner: Owner, asked: list[int]) -> None:
    """Ask Slurm to queue the job again and wait for the end that it then sends.

    A job that was preempted without grace time is pending already: scontrol refuses, and that is no fault (S6).

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


def order_of(argv: tuple[str, ...], *, proof: Path | None, needs: Mapping[str, Path], after: str) -> dict[str, Any]:
    """What a job is to do, for its order file."""
    return {
        "argv": list(argv),
        "command": list(COMMAND),
        "proof": None if proof is None else str(proof),
        "needs": {need: str(path) for need, path in needs.items()},
        "after": after,
    }
