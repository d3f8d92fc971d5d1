"""What Slurm says of jobs: squeue for those that are there, sacct for those that were, where there is accounting."""

import subprocess
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

JobState = Literal["queued", "running", "ended", "unknown"]

# Base states by name, from the man pages of squeue and sacct of Slurm 22.05; one that stands nowhere is "unknown".
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
TIMEOUT_S: Final = 60


def ask(command: Sequence[str]) -> str | None:
    """What a Slurm command prints; None where it is missing, refuses or does not answer."""
    try:
        done = subprocess.run(list(command), capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def read_states(text: str) -> dict[str, tuple[JobState, str]]:
    """Job id to state and Slurm's own word for it, from lines ``id|STATE``; steps and word tails are passed over.

    Array elements that are pending together stand on one line, ``12_[3-5,7%2]``, and are told apart here.
    """
    found: dict[str, tuple[JobState, str]] = {}
    for line in text.splitlines():
        name, _, word = line.strip().partition("|")
        state = word.split()[0].rstrip("+") if word.split() else ""
        if not name or "." in name or not state:
            continue
        for job in expand(name):
            found[job] = (STATES.get(state, "unknown"), state)
    return found


def expand(name: str) -> list[str]:
    """The single ids of a job's name as squeue writes it."""
    base, bracket, rest = name.partition("_[")
    if not bracket:
        return [name]
    found = []
    for part in rest.rstrip("]").partition("%")[0].split(","):
        first, dash, last = part.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            continue
        found += [f"{base}_{number}" for number in range(int(first), int(last if dash else first) + 1)]
    return found


def find_states(jobs: Iterable[str]) -> dict[str, tuple[JobState, str]]:
    """States of these jobs, as far as anything knows them: sacct, then squeue, which has the newer word."""
    bases = sorted({job.partition("_")[0] for job in jobs})
    if not bases:
        return {}
    past = ask(["sacct", "-X", "-n", "-P", "-o", "JobID,State", "-j", ",".join(bases)])
    present = ask(["squeue", "--noheader", "--states=all", "--format=%i|%T", "--jobs", ",".join(bases)])
    return {**read_states(past or ""), **read_states(present or "")}


def is_running(job: str) -> bool:
    """Whether Slurm says that a job runs now; not knowing the job counts as no."""
    state = find_states([job]).get(job)
    return state is not None and state[0] == "running"
