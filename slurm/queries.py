"""Slurm's answers about jobs: squeue for current ones, sacct for ended ones, if there is accounting."""

import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

JobState = Literal["queued", "running", "ended", "unknown"]
Said = tuple[JobState, str]
"""A state, and Slurm's own word for it, which may be empty."""

# Base states by name, from the man pages of squeue and sacct of Slurm 22.05.
STATES: Final[Mapping[str, JobState]] = {
    **dict.fromkeys(
        ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"), "queued"
    ),
    **dict.fromkeys(("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"), "running"),
    **dict.fromkeys(
        ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "BOOT_FAIL", "DEADLINE"), "ended"
    ),
    **dict.fromkeys(("PREEMPTED", "REVOKED"), "ended"),
}
# Ends after which Slurm queues a job again, if it may.
RETURNING: Final = frozenset(("PREEMPTED", "NODE_FAIL", "BOOT_FAIL"))
# Reasons that only say that a job must wait its turn: man squeue, JOB REASON CODES; the last was seen on a cluster.
TURN: Final = {"", "None", "Priority", "Resources", "Dependency", "BeginTime", "Cleaning", "WaitingForScheduling"}
ORDINARY: Final = frozenset({*TURN, "JobArrayTaskLimit"})
TIMEOUT_S: Final = 60
# Both shorten the list of an array's elements to 64 characters without this (man squeue).
WHOLE_LISTS: Final = {"SLURM_BITSTR_LEN": "0"}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Slurm's answer about jobs.

    Attributes:
        states: of the jobs that squeue or sacct know.
        whole: squeue has answered, so a job that it does not list is gone.
        reasons: what holds queued jobs back, such as ``JobHeldUser``; none for jobs that only wait their turn.
    """

    states: Mapping[str, Said] = field(default_factory=dict)
    whole: bool = True
    reasons: Mapping[str, str] = field(default_factory=dict)

    def of(self, job: str) -> Said:
        """State of a job, and Slurm's word for it."""
        return self.states.get(job, ("ended" if self.whole else "unknown", ""))

    def is_running(self, job: str) -> bool | None:
        """Whether a job runs; None if unknown."""
        state, _ = self.of(job)
        return None if state == "unknown" else state == "running"


def ask(command: Sequence[str]) -> str | None:
    """Run a Slurm command; returns what it prints, None if it is missing, refuses or does not answer."""
    try:
        done = subprocess.run(
            list(command), capture_output=True, text=True, timeout=TIMEOUT_S, check=False, env=os.environ | WHOLE_LISTS
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode and "Invalid job id specified" in done.stderr:  # squeue, asked for one job that is forgotten
        return ""
    return done.stdout if done.returncode == 0 else None


def read_states(text: str) -> dict[str, Said]:
    """States by job id from lines ``id|STATE``, with or without ``|reason`` at the end.

    Steps and trailing words are skipped.  Pending array elements share a line, ``12_[3-5,7%2]``, and are separated
    here.
    """
    found: dict[str, Said] = {}
    for name, word, _ in read_lines(text):
        for job in expand(name):
            found[job] = (STATES.get(word, "unknown"), word)
    return found


def read_reasons(text: str) -> dict[str, str]:
    """What holds jobs back in the queue, by id, from lines ``id|PENDING|reason``."""
    lines = [(name, reason) for name, word, reason in read_lines(text) if STATES.get(word) == "queued"]
    return {job: reason for name, reason in lines if reason not in ORDINARY for job in expand(name)}


def read_lines(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield a job's name, its state and the reason for it from each line that has them; steps are skipped."""
    for line in text.splitlines():
        name, _, rest = line.strip().partition("|")
        word, _, reason = rest.partition("|")
        state = word.split()[0].rstrip("+") if word.split() else ""  # of "CANCELLED by 0", and of one cut off
        if name and "." not in name and state:
            yield name, state, reason.strip("() ")


def expand(name: str) -> list[str]:
    """The single ids that a name of squeue stands for."""
    base, bracket, rest = name.partition("_[")
    if not bracket:
        return [name]
    found = []
    for part in rest.partition("]")[0].partition("%")[0].split(","):
        span, _, step = part.partition(":")
        first, dash, last = span.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()) or (step and not step.isdigit()):
            continue
        found += [f"{base}_{number}" for number in range(int(first), int(last or first) + 1, int(step or 1))]
    return found


def find_states(jobs: Iterable[str]) -> Answer:
    """Ask for the states of jobs.

    squeue has the last word: a job that accounting believes to exist and squeue does not know has ended.  If
    squeue does not answer, jobs that Slurm may have queued again are unknown: accounting only has their last end.
    """
    bases = sorted({job.partition("_")[0] for job in jobs})
    if not bases:
        return Answer()
    past = ask(["sacct", "-X", "-n", "-P", "-o", "JobID,State", "-j", ",".join(bases)])
    present = ask(["squeue", "--noheader", "--states=all", "--format=%i|%T|%r", "--jobs", ",".join(bases)])
    before, now = read_states(past or ""), read_states(present or "")
    if present is not None:
        before = {job: ("ended", word) for job, (_, word) in before.items()}
    else:
        before = {job: said for job, said in before.items() if said[1] not in RETURNING}
    return Answer(states=before | now, whole=present is not None, reasons=read_reasons(present or ""))


def is_running(job: str) -> bool | None:
    """Ask Slurm whether a job runs now; None if it does not answer."""
    return find_states([job]).is_running(job)
