"""A queue on this machine: runs in the order of their needs, a limited number at a time, each with its own GPU.

submitit's own local executor starts everything at once and gives every job the same GPUs (reference: cluster notes,
S22), so the queue is ours.  It is a process of its own, ``python -m slurm.local_queue``, that outlives the shell it was
started from.
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

from piggyback.shell.errors import SweepError
from slurm.children import REQUEUE, catch_stops
from slurm.folder.claims import BEAT_S, Owner
from slurm.folder.layout import SweepFolder
from slurm.folder.state_files import read_state
from slurm.jobs import do_run
from slurm.planning.planned_run import PlannedRun

POLL_S: Final = 0.2
START_S: Final = 60.0
"""Seconds in which a queue's process must have claimed its folder."""
WHAT: Final = "the queue of this sweep"


@dataclass(kw_only=True)
class Working:
    """A run in progress in its own process."""

    run: PlannedRun
    process: subprocess.Popen[bytes]
    gpu: str | None


@dataclass(kw_only=True)
class Queue:
    """Runs that wait, run and have ended; changes as the queue works."""

    sweep: SweepFolder
    waiting: list[PlannedRun]
    gpus: list[str]
    working: list[Working] = field(default_factory=list)
    ended: dict[str, int] = field(default_factory=dict)


def find_gpus() -> list[str]:
    """Indices of this machine's visible GPUs, from the driver's own tool; none without it."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [one.strip() for one in visible.split(",") if one.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    found = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]  # MIG's parts stand between them
    return [str(number) for number in range(len(found))]


def refuse_second_queue(sweep: SweepFolder) -> None:
    """Raise SweepError if a queue is working on the folder already."""
    last = sweep.queue.last()
    if last is not None and last.is_alive(lambda job: None):
        owner = last.owner
        raise SweepError(
            f"a queue is at work on {sweep.root} already (process {owner.get('pid')} on {owner.get('host')}):"
            " wait until it ends, or cancel its runs"
        )


def start_queue(sweep: SweepFolder, runs: Sequence[PlannedRun], *, parallel: int) -> int:
    """Start the queue as its own process; it is working when this returns.

    Returns:
        Its process id.

    Raises:
        SweepError: it does not start, or a queue is working on the folder already.
    """
    refuse_second_queue(sweep)
    number = sweep.queue.next()
    command = [sys.executable, "-m", "slurm.local_queue", str(sweep.root), str(parallel), *(run.id for run in runs)]
    sweep.root.mkdir(parents=True, exist_ok=True)
    with (sweep.root / "queue.log").open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    patience = time.monotonic() + START_S
    while sweep.queue.next() <= number and time.monotonic() < patience:
        if process.poll() is not None:
            break
        time.sleep(POLL_S / 4)
    if sweep.queue.next() <= number:
        raise SweepError(f"the queue's process does not start: see {sweep.root / 'queue.log'}")
    pid = process.pid
    process.returncode = 0  # it outlives this process, which waits for it no more, and Python shall not warn of that
    return pid


def work(sweep: SweepFolder, runs: Sequence[PlannedRun], *, parallel: int) -> dict[str, int]:
    """Do the runs; a stop asks those in progress for a checkpoint, and ends the queue.

    Args:
        sweep: the folder; the runs' orders are written already.
        runs: to do; anything else that they need must be finished already.
        parallel: at the same time; 0 is one per GPU, or one.

    Returns:
        Exit code of each run that has ended.

    Raises:
        SweepError: a queue is working on the folder already.
        KeyboardInterrupt: the stop was Ctrl-C; when it comes twice, at once.
    """
    gpus = find_gpus()
    count = parallel or max(1, len(gpus))
    queue = Queue(sweep=sweep, waiting=list(runs), gpus=[gpus[n % len(gpus)] for n in range(count)] if gpus else [])
    told, signed = False, time.monotonic()
    with sweep.queue.hold(what=WHAT) as number, catch_stops() as asked:
        while queue.working or (queue.waiting and not asked):
            if asked and not told:
                tell(queue)
                told = True
            if asked.count(signal.SIGINT) > 1:
                break
            if time.monotonic() - signed > BEAT_S:
                signed = time.monotonic()
                sweep.queue.beat(number)
            start_ready(queue, count=count)
            time.sleep(POLL_S)
            collect_ended(queue)
    if signal.SIGINT in asked:
        raise KeyboardInterrupt
    return queue.ended


def tell(queue: Queue) -> None:
    """Ask the runs in progress for a checkpoint, and drop those that wait."""
    queue.waiting = []
    for entry in queue.working:
        entry.process.send_signal(signal.SIGUSR2)


def start_ready(queue: Queue, *, count: int) -> None:
    """Start runs whose needs have ended, while there is room; each run checks itself that its needs are done."""
    pending = {run.id for run in queue.waiting} | {entry.run.id for entry in queue.working}
    for run in list(queue.waiting):
        if len(queue.working) >= count:
            return
        if pending & set(run.needs):
            continue
        queue.waiting.remove(run)
        if queue.sweep.job(run.id).cancelled.exists():
            queue.ended[run.id] = REQUEUE
            continue
        gpu = queue.gpus.pop(0) if queue.gpus else None
        environment = {**os.environ, **({"CUDA_VISIBLE_DEVICES": gpu} if gpu is not None else {})}
        command = [sys.executable, "-m", "slurm.local_queue", "--one", str(queue.sweep.root), run.id]
        # in a session of its own: a terminal's Ctrl-C reaches the queue only, which asks for a checkpoint
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment, start_new_session=True)
        queue.working.append(Working(run=run, process=process, gpu=gpu))


def collect_ended(queue: Queue) -> None:
    """Record the runs that have ended, and free their GPUs."""
    for entry in list(queue.working):
        code = entry.process.poll()
        if code is not None:
            queue.working.remove(entry)
            queue.ended[entry.run.id] = code
            if entry.gpu is not None:
                queue.gpus.append(entry.gpu)


def do_one(sweep: SweepFolder, run: str) -> int:
    """Do one run by its order."""
    argv = tuple(str(word) for word in read_state(sweep.job(run).order)["argv"])
    with catch_stops() as asked:
        return do_run(sweep.root, run=run, argv=argv, owner=Owner.local(), asked=asked)


def main(arguments: Sequence[str]) -> int:
    """Entry point of the queue's process and of the process of each run; exit code 75 after a stop."""
    try:
        if arguments[0] == "--one":
            return do_one(SweepFolder(Path(arguments[1])), arguments[2])
        sweep = SweepFolder(Path(arguments[0]))
        planned = {run.id: run for run in sweep.read_plan()[1]}
        wanted = [planned[one] for one in arguments[2:]]
        ended = work(sweep, wanted, parallel=int(arguments[1]))
    except SweepError as fault:
        sys.stderr.write(f"{fault}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    if len(ended) < len(wanted) or REQUEUE in ended.values():
        return REQUEUE
    return 1 if any(ended.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
