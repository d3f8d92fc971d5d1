"""A run's command as a child process of the job: started, watched, and asked once to stop."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Final

from slurm.folder.claims import BEAT_S
from slurm.sending.snapshots import import_variables

REQUEUE: Final = 75  # a command's exit code for "stopped with a checkpoint, to be continued"
POLL_S: Final = 0.2
HEAR_S: Final = 2.0
"""Seconds that a signal may come later to this process than to its child."""
STOPS: Final = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@contextlib.contextmanager
def catch_stops() -> Iterator[list[int]]:
    """Collect the signals that ask for a stop while the block runs."""
    asked: list[int] = []
    handlers = {number: signal.signal(number, lambda received, _: asked.append(received)) for number in STOPS}
    try:
        yield asked
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def child_environment(code: Path | None = None, *, given: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Environment variables of a run's command.

    Args:
        code: folder with a copy of the packages to run instead of the installed ones.
        given: this process's variables; if they state a job's processors and no number of threads, the threads
            are set to the processors, so that a run has as many on every node, and the same bits.
    """
    found = dict(given)
    if processors := given.get("SLURM_CPUS_PER_TASK"):
        found.setdefault("OMP_NUM_THREADS", processors)
    return found | import_variables(code)


def run_child(
    command: list[str],
    *,
    log: IO[bytes],
    asked: list[int],
    sign: Callable[[], None],
    environment: Mapping[str, str] = os.environ,
) -> int:
    """Run a command with its output in a log; a stop reaches it once, as USR2, upon which it can checkpoint.

    Args:
        command: with arguments.
        log: file for its output.
        asked: signals that ask for a stop; grows while the command runs.
        sign: called every `BEAT_S` seconds.
        environment: its variables.

    Returns:
        Its exit code; 128 plus its number for a signal; 127 if there is no such command.
    """
    in_slurm = "SLURM_JOB_ID" in os.environ  # Slurm follows the tree; a terminal's Ctrl-C must not reach the child
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
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
        if in_slurm and code == -signal.SIGTERM:  # which Slurm sends to the whole tree (S10), in no certain order
            wait_to_hear(asked)
        if code == -signal.SIGUSR2 or (asked and code == -signal.SIGTERM):  # it had not come so far as to listen
            return REQUEUE
        return code if code >= 0 else 128 - code


def wait_to_hear(asked: list[int]) -> None:
    """Wait until a stop has been requested, or has become most unlikely."""
    patience = time.monotonic() + HEAR_S
    while not asked and time.monotonic() < patience:
        time.sleep(POLL_S / 10)


def die_with_parent() -> None:
    """Ask the kernel for TERM when the parent process is killed; Linux only."""
    pr_set_pdeathsig = 1  # linux/prctl.h
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
