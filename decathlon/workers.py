"""Several runs at the same time, each in a process of its own, one GPU each where there are some."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from typing import Final

import torch

from decathlon.training import Job, train_task
from piggyback.console import notice
from piggyback.errors import PiggybackError, Requeue
from piggyback.runs import StopFlag, stop_on_signal

POLL_S: Final = 0.2
FAILED: Final = 1
REQUEUE: Final = 75


@dataclass(frozen=True, kw_only=True)
class Working:
    """A job being done by a process on a device."""

    process: BaseProcess
    job: Job
    device: torch.device


def devices_for(parallel: int, *, device: torch.device) -> list[torch.device]:
    """One device per worker: every GPU once for 0, else GPUs or the processor in turn."""
    gpus = torch.cuda.device_count() if device.type == "cuda" and device.index is None else 0
    count = parallel or max(1, gpus)
    return [torch.device("cuda", number % gpus) if gpus else device for number in range(count)]


def train_here(job: Job, threads: int) -> None:
    """Body of a worker process; its exit code is that of a verb."""
    torch.set_num_threads(threads)
    try:
        with stop_on_signal() as stop:
            train_task(job, stop=stop)
    except Requeue:
        os._exit(REQUEUE)
    except PiggybackError as fault:
        notice(f"{job.task} {job.method}: {fault}")
        os._exit(FAILED)


def train_side_by_side(
    jobs: Sequence[Job], *, devices: Sequence[torch.device], stop: StopFlag, on_done: Callable[[Job], None]
) -> list[Job]:
    """Do all jobs, as many at a time as there are devices.

    Returns:
        The jobs that failed; each has said why.

    Raises:
        Requeue: a stop was asked for; every worker has left a checkpoint.
    """
    context = multiprocessing.get_context("spawn")  # a CUDA context does not survive a fork
    threads = max(1, torch.get_num_threads() // len(devices))
    waiting, free, working, failed = list(jobs), list(devices), list[Working](), list[Job]()
    while waiting or working:
        while waiting and free and not stop.requested:
            job, device = waiting.pop(0), free.pop(0)
            process = context.Process(target=train_here, args=(replace(job, device=device), threads))
            process.start()
            working.append(Working(process=process, job=job, device=device))
        time.sleep(POLL_S)
        if stop.requested:
            end(working)
            raise Requeue
        for entry in [entry for entry in working if not entry.process.is_alive()]:
            working.remove(entry)
            free.append(entry.device)
            if entry.process.exitcode:
                failed.append(entry.job)
            on_done(entry.job)
    return failed


def end(working: Sequence[Working]) -> None:
    """Ask workers to checkpoint and end, and wait for them."""
    for entry in working:
        if entry.process.pid is not None:
            os.kill(entry.process.pid, signal.SIGUSR2)
    for entry in working:
        entry.process.join()
