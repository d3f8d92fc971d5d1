"""What processes do that are forked from one that has loaded torch; in a module, so that pickle can name it."""

import gc
import os
import signal
from functools import partial
from typing import Any

import torch

import piggyback.suite.bench as bench
from piggyback.suite.bench import Job
from piggyback.suite.train import train_task
from piggyback.suite.training import workers
from piggyback.suite.training.loop import Plan


def train_until_killed(job: Job, moment: int) -> None:
    """Train with a checkpoint after each step, until a file is replaced for the so-manyth time.

    An odd moment is just before, an even one just after it.
    """
    gc.freeze()  # collecting what the forked process had would copy all of it
    torch.set_num_threads(1)
    replace, left = os.replace, [moment]

    def replace_and_die(*given: Any) -> None:
        left[0] -= 1
        if left[0] == 0 and moment % 2:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*given)
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace_and_die  # type: ignore[assignment]
    bench.Plan = partial(Plan, checkpoint_s=-1.0)  # type: ignore[misc, assignment]
    train_task(job)


def work(job: Job, train: Any, threads: int, _: int) -> None:
    """As a worker, whose parent is the one that it was forked from."""
    gc.freeze()
    workers.work(job, train, threads, os.getppid())
