"""What tests send to the cluster: jobs find these by their module's name, so the folder is in their PYTHONPATH."""

import os
import time
from pathlib import Path

from submitit.helpers import DelayedSubmission


def stay(seconds: float) -> str:
    """The node on which it stayed that long."""
    time.sleep(seconds)
    return os.environ["SLURMD_NODENAME"]


class Sleeper:
    """Sleeps for ten minutes the first time, and ends at once the second time; writes down what happened to it."""

    def __call__(self, diary: Path) -> str:
        restarts = os.environ.get("SLURM_RESTART_COUNT", "0")
        write_line(diary, f"start {restarts}")
        if restarts == "0":
            time.sleep(600)
        return f"ended after {restarts}"

    def checkpoint(self, diary: Path) -> DelayedSubmission:
        """Called by submitit when the job is warned."""
        write_line(diary, "warned")
        return DelayedSubmission(self, diary)


def write_line(diary: Path, line: str) -> None:
    with diary.open("a") as out:
        out.write(line + "\n")
