"""The console command for fault tests: checkpoints every second instead of every two minutes, and a diary of steps.

``python watched_command.py PACE decathlon train ... --folder RUN`` waits PACE seconds after each step, so that the
training lasts as long as a fault needs, on a busy machine too, and appends ``<process> <step>`` to RUN.steps.
Nothing of this may change a bit of what comes out: the result that runs are compared with is the plain command's.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import piggyback.suite.bench as bench
import piggyback.suite.train as train
from piggyback.shell.cli import main
from piggyback.suite.training.loop import Plan
from piggyback.suite.training.run_folder import RunFolder

CHECKPOINT_S = 1.0


def watch(arguments: list[str], *, pace: float) -> None:
    """Have trainings of this process keep the diary."""
    diary = Path(f"{arguments[arguments.index('--folder') + 1]}.steps")
    process, total = f"{os.getpid()}-{time.time_ns()}", 0  # ids of processes are used again
    train_task = train.train_task

    def make_plan(**fields: Any) -> Plan:
        nonlocal total
        plan = Plan(**fields, checkpoint_s=CHECKPOINT_S)
        total = plan.epochs * plan.steps
        return plan

    def note(share: float, on_step: Callable[[float], None]) -> None:
        with diary.open("a") as file:
            file.write(f"{process} {round(share * total)}\n")
        on_step(share)
        time.sleep(pace)

    def train_and_note(job: Any, *, on_step: Callable[[float], None], **more: Any) -> RunFolder:
        return train_task(job, on_step=lambda share: note(share, on_step), **more)

    diary.parent.mkdir(parents=True, exist_ok=True)
    for module, name, other in ((bench, "Plan", make_plan), (train, "train_task", train_and_note)):
        setattr(module, name, other)


if __name__ == "__main__":
    watch(sys.argv[2:], pace=float(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
