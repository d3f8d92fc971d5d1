"""Jobs done one after the other, or side by side in a process each."""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.process import BaseProcess
from typing import Any, Final, Generic, Protocol, TypeVar, cast

import torch
from rich.progress import Progress, TaskID

from piggyback.shell.cli import DONE, FAILED, REQUEUE
from piggyback.shell.console import notice, progress_bar
from piggyback.shell.errors import BadInput, PiggybackError, Requeue, refusal
from piggyback.suite.training.checkpoints import StopFlag
from piggyback.suite.training.run_folder import RunFolder

POLL_S: Final = 0.2


class Job(Protocol):
    """A run to do: a benchmark's frozen dataclass, picklable for worker processes."""

    @property
    def title(self) -> str:
        """Name in progress and notices."""
        ...

    @property
    def device(self) -> torch.device:
        """Device to train on."""
        ...

    @property
    def waits_for(self) -> str | None:
        """Title of the job that must finish before this one."""
        ...


J = TypeVar("J", bound=Job)
J_contra = TypeVar("J_contra", bound=Job, contravariant=True)


class Train(Protocol[J_contra]):
    """A function that does a run, or continues it; at module level, so that it can be pickled."""

    def __call__(self, job: J_contra, /, *, stop: StopFlag | None, on_step: Callable[[float], None]) -> RunFolder:
        """Do the run; `on_step` is called with the fraction completed."""
        ...


@dataclass(frozen=True, kw_only=True)
class Working(Generic[J]):
    """A job in progress in a worker process on a device."""

    process: BaseProcess
    job: J
    device: torch.device


def devices_for(parallel: int, *, device: torch.device) -> list[torch.device]:
    """One device per worker: every GPU once for 0, else GPUs or the processor in turn.

    Raises:
        BadInput: the number is negative.
    """
    if parallel < 0:
        raise BadInput(f"--parallel must be a number of processes, or 0 for one per GPU, not {parallel}")
    gpus = torch.cuda.device_count() if device.type == "cuda" and device.index is None else 0
    count = parallel or max(1, gpus)
    return [torch.device("cuda", number % gpus) if gpus else device for number in range(count)]


def train_jobs(jobs: Sequence[J], *, train: Train[J], parallel: int, stop: StopFlag) -> list[J]:
    """Do all jobs, showing progress; a failed job does not stop the others.

    Args:
        jobs: all on the same device.
        train: does one.
        parallel: as for `devices_for`.
        stop: set to ask for checkpoints and an end.

    Returns:
        The jobs that failed; a message for each has been printed.

    Raises:
        Requeue: a stop was requested; jobs in progress have left a checkpoint.
    """
    devices = devices_for(parallel, device=jobs[0].device)
    with progress_bar() as bar:
        total = bar.add_task("runs", total=len(jobs))
        if len(devices) > 1:
            return train_side_by_side(
                jobs, train=train, devices=devices, stop=stop, on_end=lambda job: bar.advance(total)
            )
        failed = []
        for job in jobs:
            if stop.requested:
                raise Requeue
            line = bar.add_task(job.title, total=1.0)
            if not try_job(job, train=train, stop=stop, on_step=partial(show_share, bar, line)):
                failed.append(job)
            bar.remove_task(line)
            bar.advance(total)
        return failed


def show_share(bar: Progress, line: TaskID, share: float) -> None:
    bar.update(line, completed=share)


def try_job(job: J, *, train: Train[J], stop: StopFlag, on_step: Callable[[float], None]) -> bool:
    """Do one job and print how it ended, for logs that show no progress; returns whether it succeeded."""
    try:
        folder = train(job, stop=stop, on_step=on_step)
    except (PiggybackError, OSError) as fault:  # the latter of a full disk, for one
        notice(f"failed: {job.title}: {refusal(fault) if isinstance(fault, OSError) else fault}")
        return False
    notice(f"done: {job.title} ({folder.root.name})")
    return True


def work(job: J, train: Train[J], threads: int, parent: int) -> None:
    """Body of a worker process; its exit code is that of a verb.

    Args:
        job: what to do.
        train: does it.
        threads: that torch may use.
        parent: process id; when that process is gone, the worker writes a checkpoint and ends.
    """
    torch.set_num_threads(threads)
    stop = StopFlag()
    for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop.request)

    def look_after_parent(_: float) -> None:
        if os.getppid() != parent:
            stop.request()

    try:
        sys.exit(DONE if try_job(job, train=train, stop=stop, on_step=look_after_parent) else FAILED)
    except Requeue:
        sys.exit(REQUEUE)


def train_side_by_side(
    jobs: Sequence[J],
    *,
    train: Train[J],
    devices: Sequence[torch.device],
    stop: StopFlag,
    on_end: Callable[[J], None],
) -> list[J]:
    """Do as many jobs at a time as there are devices; threads are shared out evenly.

    Returns:
        The jobs that failed; a message for each has been printed.

    Raises:
        Requeue: a stop was requested; every worker has left a checkpoint.
    """
    context = multiprocessing.get_context("spawn")  # a CUDA context does not survive a fork
    threads = max(1, torch.get_num_threads() // len(devices))
    waiting, free, working, failed = list(jobs), list(devices), list[Working[J]](), list[J]()
    requeued = False
    try:
        while waiting or working:
            if stop.requested:
                raise Requeue
            while free and (job := next_ready(waiting, working)) is not None:
                waiting.remove(job)
                device = free.pop(0)
                moved = cast(J, replace(cast(Any, job), device=device))
                process = context.Process(target=work, args=(moved, train, threads, os.getpid()))
                process.start()
                working.append(Working(process=process, job=job, device=device))
            time.sleep(POLL_S)
            for entry in [entry for entry in working if not stop.requested and not entry.process.is_alive()]:
                working.remove(entry)
                free.append(entry.device)
                on_end(entry.job)
                if entry.process.exitcode == REQUEUE:  # the scheduler told the worker and not us: tell the others
                    requeued = True
                    stop.request()
                elif entry.process.exitcode:
                    tell_if_killed(entry)
                    failed.append(entry.job)
    finally:
        end(working)
    if requeued:
        raise Requeue
    return failed


def next_ready(waiting: Sequence[J], working: Sequence[Working[J]]) -> J | None:
    """The first waiting job whose predecessor, if any, is neither waiting nor in progress."""
    pending = {job.title for job in waiting} | {entry.job.title for entry in working}
    return next((job for job in waiting if job.waits_for not in pending), None)


def tell_if_killed(entry: Working[Any]) -> None:
    """Print that a worker was killed, since it could not say so itself."""
    code = entry.process.exitcode or 0
    if code < 0:
        why = ": is there enough memory for so many at a time?" if -code == signal.SIGKILL else ""
        name = signal.Signals(-code).name
        notice(f"failed: {entry.job.title}: its process was ended by {name}{why}")


def end(working: Sequence[Working[Any]]) -> None:
    """Ask workers to write a checkpoint and end, and wait for them."""
    for entry in working:
        if entry.process.is_alive() and entry.process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(entry.process.pid, signal.SIGUSR2)
    for entry in working:
        entry.process.join()
