"""Faults that befall trainings on the test cluster, and whether the trainings come to what they must come to."""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

from cluster import ENDS, Cluster
from training_runs import (
    PATIENCE_S,
    PLAIN,
    STEPS,
    Ground,
    Trainings,
    count_lost,
    make_trainings,
    read_attempts,
    read_outcome,
    read_spans,
)

from slurm.children import REQUEUE
from slurm.folder.state_files import read_state
from slurm.planning.planned_run import PlannedRun

How = Literal["scancel", "sweep cancel", "child killed"]
HOWS: tuple[How, ...] = ("scancel", "sweep cancel", "child killed")
UNHARMED = {"queued", "running", "done"}
"""States that a run may be seen in while Slurm takes it through a fault by itself."""
LOST = STEPS // 3
"""Steps that may be done again after a kill: with a checkpoint a second, more would be a checkpoint missed."""
SLOW_S = 0.75
"""Pace of trainings that a time limit is to end: they last longer than the 65 s of `send_slow`."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What became of one training.

    Attributes:
        case: which fault.
        moment: the step at which it came.
        restarts: how often Slurm queued the job again.
        codes: how the attempts ended; None: killed without a word.
        spans: first and last step of each process that did any.
        lost: steps that were done again.
        seconds: from sending to the end.
        problems: what went otherwise than it must; empty when all is well.
    """

    case: str
    moment: int
    restarts: int
    codes: tuple[int | None, ...]
    spans: tuple[tuple[int, int], ...]
    lost: int
    seconds: float
    problems: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a case's report must show, beside the same bits.

    Attributes:
        first: how the first attempt may end.
        restarts: at least so many by Slurm; none when 0.
        lost: at most so many steps done again.
    """

    first: tuple[int | None, ...] = (REQUEUE,)
    restarts: int = 1
    lost: int = 0


def preempt(
    ground: Ground, cluster: Cluster, folder: Path, random: Random, *, case: str, count: int = 2
) -> list[Report]:
    """An array on low gives way to a job on high that wants all nodes."""
    trainings = make_trainings(cluster, ground, folder, count=count)
    begun, jobs = time.monotonic(), trainings.send()
    trainings.wait_for_step(draw_step(random))
    above = cluster.submit("--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    seen = trainings.wait_for_states("done")
    cluster.wait_for_job(above, "COMPLETED")
    # Without grace KILL comes five seconds after TERM (KillWait): on a busy machine some have not ended by then.
    has_grace = cluster.layout.options.grace > 0
    expected = Expected() if has_grace else Expected(first=(REQUEUE, None), lost=LOST)
    return [
        report(case, trainings, run, expected=expected, seen=seen, begun=begun, job=jobs[run.id])
        for run in trainings.runs
    ]


def send_slow(ground: Ground, cluster: Cluster, folder: Path) -> tuple[Trainings, dict[str, str], float]:
    """A training that is sent with a limit too short for it.

    The signal is asked for 55 s before the end of two minutes, and may come up to 60 s earlier (man sbatch, --signal);
    what was seen was up to 30 s: 35 to 65 s after the start.  With any limit below ten minutes submitit's own handler
    would count each signal as a timeout, and give up (S1).
    """
    trainings = make_trainings(cluster, ground, folder, minutes=2, signal_s=55)
    begun = time.monotonic()
    return trainings, trainings.send(pace=SLOW_S), begun


def finish_slow(trainings: Trainings, jobs: dict[str, str], begun: float) -> list[Report]:
    """Wait for the end of what `send_slow` sent."""
    seen = trainings.wait_for_states("done")
    return [
        report("time limit", trainings, run, expected=Expected(), seen=seen, begun=begun, job=jobs[run.id])
        for run in trainings.runs
    ]


def time_out(ground: Ground, cluster: Cluster, folder: Path, random: Random) -> list[Report]:
    """The warning before a time limit, as often as it takes; when it comes is up to Slurm."""
    return finish_slow(*send_slow(ground, cluster, folder))


def lose_node(ground: Ground, cluster: Cluster, folder: Path, random: Random, *, at_once: bool) -> list[Report]:
    """The node under a training dies with all that runs there.

    Args:
        ground, cluster, folder, random: as for all.
        at_once: the node is back before Slurm has missed it; else the job goes on elsewhere meanwhile.
    """
    trainings = make_trainings(cluster, ground, folder)
    begun, jobs = time.monotonic(), trainings.send()
    run = trainings.runs[0]
    trainings.wait_for_step(draw_step(random))
    node = cluster.show_job(jobs[run.id])["NodeList"]
    cluster.lose_node(node)
    if at_once:
        cluster.bring_back(node)
    seen = trainings.wait_for_states("done")
    if not at_once:
        cluster.bring_back(node)
    cluster.wait_for_nodes("idle")
    expected = Expected(first=(None,), lost=LOST)
    case = f"node lost, {'back at once' if at_once else 'away for long'}"
    return [report(case, trainings, run, expected=expected, seen=seen, begun=begun, job=jobs[run.id])]


def interrupt(ground: Ground, cluster: Cluster, folder: Path, random: Random, *, hows: Sequence[How]) -> list[Report]:
    """Trainings are stopped or killed from outside, stay so, and end well when they are sent again."""
    trainings = make_trainings(cluster, ground, folder, count=len(hows))
    begun, jobs = time.monotonic(), trainings.send()
    step = draw_step(random)
    for run, how in zip(trainings.runs, hows, strict=True):
        trainings.wait_for_step(step, runs=[run])
        if how == "child killed":
            os.kill(int(read_state(run.folder / "status.json")["pid"]), signal.SIGKILL)
        elif how == "scancel":
            cluster.run("scancel", jobs[run.id])
        else:
            cancel_by_verb(trainings, run)
    wrong = {
        run.id: check_rest(trainings, run, how=how, job=jobs[run.id])
        for run, how in zip(trainings.runs, hows, strict=True)
    }
    again = trainings.send()
    trainings.wait_for_states("done")
    reports = []
    for run, how in zip(trainings.runs, hows, strict=True):
        killed = how == "child killed"
        expected = Expected(first=(128 + signal.SIGKILL if killed else REQUEUE,), restarts=0, lost=LOST * killed)
        reports.append(
            report(
                how, trainings, run, expected=expected, seen=set(), begun=begun, job=again[run.id], wrong=wrong[run.id]
            )
        )
    return reports


def cancel_by_verb(trainings: Trainings, run: PlannedRun) -> None:
    """What a user types."""
    command = [*PLAIN, "sweep", "cancel", str(trainings.plan.folder.root), run.id]
    subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE_S)


def check_rest(trainings: Trainings, run: PlannedRun, *, how: How, job: str) -> list[str]:
    """What is wrong with a training that was stopped or killed, once it has come to rest."""
    wanted, word, message = {
        "scancel": ("stopped", "CANCELLED", "checkpoint"),
        "sweep cancel": ("stopped", "CANCELLED", "cancelled"),
        "child killed": ("failed", "FAILED", "killed"),
    }[how]
    trainings.wait_for_states("stopped", "failed", "done", runs=[run])
    seen = trainings.cluster.wait_for_job(job, *ENDS)
    standing = next(one for one in trainings.standings() if one.run.id == run.id)
    wrong = []
    if standing.state != wanted or message not in standing.message:
        wrong.append(f"it is {standing.state} ({standing.message}), not {wanted} ({message})")
    if seen["JobState"] != word or seen["Restarts"] != "0":
        wrong.append(f"Slurm has it as {seen['JobState']} after {seen['Restarts']} restarts")
    return wrong


def report(
    case: str,
    trainings: Trainings,
    run: PlannedRun,
    *,
    expected: Expected,
    seen: set[str],
    begun: float,
    job: str,
    wrong: Sequence[str] = (),
) -> Report:
    """What became of a run that is done, and whether that is what must be."""
    ended = trainings.cluster.wait_for_job(job, *ENDS)  # the result is there before the job has ended
    attempts, spans = read_attempts(trainings.plan.folder, run), read_spans(run)
    restarts, lost, problems = int(ended["Restarts"]), count_lost(run), list(wrong)
    if ended["JobState"] != "COMPLETED":
        problems.append(f"Slurm has its job as {ended['JobState']} in the end")
    differing = find_differences(trainings.ground.reference, read_outcome(run.folder))
    if differing:
        problems.append(f"other bits than the run that nothing befell: {', '.join(differing)}")
    if odd := seen - UNHARMED:
        problems.append(f"it was seen {', '.join(sorted(odd))} on the way")
    if attempts[0].code not in expected.first or attempts[-1].code != 0 or len(attempts) < 2:
        problems.append(f"its attempts ended with {[one.code for one in attempts]}")
    if restarts < expected.restarts or (restarts and not expected.restarts):
        problems.append(f"Slurm queued it again {restarts} times")
    if len(spans) < 2 or spans[1][0] < 2 or spans[-1][1] != STEPS:
        problems.append(f"its processes did the steps {spans}: it did not go on from a checkpoint")
    if lost > expected.lost:
        problems.append(f"{lost} steps were done again, more than {expected.lost}")
    return Report(
        case=case,
        moment=spans[0][1] if spans else 0,
        restarts=restarts,
        codes=tuple(one.code for one in attempts),
        spans=tuple(spans),
        lost=lost,
        seconds=round(time.monotonic() - begun, 1),
        problems=tuple(problems),
    )


def find_differences(one: dict[str, object], other: dict[str, object]) -> list[str]:
    """Names of what is not the same."""
    return [name for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name)]


def draw_step(random: Random) -> int:
    """A step in the middle seven tenths: later ones of a fast training may be over before the fault is there."""
    return random.randint(STEPS // 10, STEPS * 8 // 10)
