"""A queue on this machine: runs in the order of their needs, so many at a time, one GPU each where there are several.

submitit's own local executor starts everything at once and gives every job the same GPUs (reference: cluster notes,
S22), so the queue is ours.  It is a process of its own that outlives the shell it was started from.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from slurm.errors import SweepError
from slurm.folders import SweepFolder, read_json, write_json
from slurm.jobs import Owner, do_run, is_alive
from slurm.planned import PlannedRun

POLL_S: Final = 0.2
REQUEUE: Final = 75


@dataclass(kw_only=True)
class Working:
    """A run under way in a process of its own."""

    run: PlannedRun
    process: subprocess.Popen[bytes]
    gpu: str | None


@dataclass(kw_only=True)
class Queue:
    """What is waiting, what is under way, and how runs have ended; changes as the queue works."""

    sweep: SweepFolder
    waiting: list[PlannedRun]
    gpus: list[str]
    working: list[Working] = field(default_factory=list)
    ended: dict[str, int] = field(default_factory=dict)
    stopped: bool = False


def find_gpus() -> list[str]:
    """Indices of this machine's GPUs that may be seen, by the driver's own tool; none without it."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [one for one in visible.split(",") if one]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(number) for number, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]


def refuse_second_queue(sweep: SweepFolder) -> None:
    """Raise SweepError where a queue is at work on the folder already."""
    owner = read_json(sweep.queue)
    if owner and is_alive(owner, ask_slurm=lambda job: False):
        raise SweepError(f"a queue is at work on {sweep.root} already (process {owner.get('pid')}): wait, or cancel it")


def start_queue(sweep: SweepFolder, runs: Sequence[PlannedRun], *, parallel: int) -> int:
    """Start the queue as a process of its own.

    Returns:
        Its process id.

    Raises:
        SweepError: a queue is at work on the folder already.
    """
    refuse_second_queue(sweep)
    command = [sys.executable, "-m", "slurm.local_queue", str(sweep.root), str(parallel), *(run.id for run in runs)]
    sweep.root.mkdir(parents=True, exist_ok=True)
    with (sweep.root / "queue.log").open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    return process.pid


def work(sweep: SweepFolder, runs: Sequence[PlannedRun], *, parallel: int) -> dict[str, int]:
    """Do the runs; TERM or INT asks those under way for a checkpoint and ends the queue.

    Args:
        sweep: its plan is written.
        runs: to do; what they need beside these must be finished already.
        parallel: at the same time; 0 is one per GPU, or one.

    Returns:
        Exit code of each run that has ended.
    """
    refuse_second_queue(sweep)
    gpus = find_gpus()
    count = parallel or max(1, len(gpus))
    queue = Queue(sweep=sweep, waiting=list(runs), gpus=[gpus[n % len(gpus)] for n in range(count)] if gpus else [])
    write_json(sweep.queue, {**vars(Owner.here()), "parallel": count})

    def stop(*_: object) -> None:
        queue.stopped = True

    handlers = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        while queue.working or (queue.waiting and not queue.stopped):
            if queue.stopped:
                for entry in queue.working:
                    entry.process.send_signal(signal.SIGUSR2)
                queue.waiting = []
            start_ready(queue, count=count)
            time.sleep(POLL_S)
            collect_ended(queue)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        sweep.queue.unlink(missing_ok=True)
    return queue.ended


def start_ready(queue: Queue, *, count: int) -> None:
    """Start runs whose needs have ended, while there is room; a run checks itself that those are done."""
    pending = {run.id for run in queue.waiting} | {entry.run.id for entry in queue.working}
    for run in list(queue.waiting):
        if len(queue.working) >= count:
            return
        if pending & set(run.needs):
            continue
        queue.waiting.remove(run)
        gpu = queue.gpus.pop(0) if queue.gpus else None
        environment = {**os.environ, **({"CUDA_VISIBLE_DEVICES": gpu} if gpu is not None else {})}
        command = [sys.executable, "-m", "slurm.local_queue", "--one", str(queue.sweep.root), run.id]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment)
        queue.working.append(Working(run=run, process=process, gpu=gpu))


def collect_ended(queue: Queue) -> None:
    """Note the runs that have ended, and give their GPUs back."""
    for entry in list(queue.working):
        code = entry.process.poll()
        if code is not None:
            queue.working.remove(entry)
            queue.ended[entry.run.id] = code
            if entry.gpu is not None:
                queue.gpus.append(entry.gpu)


def main(arguments: Sequence[str]) -> int:
    """Body of the queue's process, and of the processes of its runs."""
    if arguments[0] == "--one":
        sweep = SweepFolder(Path(arguments[1]))
        run = next(one for one in sweep.read_plan()[1] if one.id == arguments[2])
        return do_run(sweep.root, run=run.id, argv=run.argv)
    sweep = SweepFolder(Path(arguments[0]))
    wanted = list(arguments[2:])
    planned = {one.id: one for one in sweep.read_plan()[1]}
    ended = work(sweep, [planned[one] for one in wanted], parallel=int(arguments[1]))
    return 0 if not any(ended.values()) and len(ended) == len(wanted) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
