"""The processes of a test cluster's jobs: slurmstepd outlives slurmd on purpose, so they are looked for in /proc."""

import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

PROC = Path("/proc")


def find_job_processes(slurm_conf: Path, logs: Iterable[Path]) -> set[int]:
    """Ids of what runs for jobs of the cluster with that slurm.conf, on the nodes whose slurmd writes to `logs`.

    Three ways, because none finds all: slurmstepd wipes its environment but holds its slurmd's log open; what it
    started descends from it; and what lost its parents still has Slurm's variables in its environment.
    """
    files = {os.path.realpath(path) for path in logs}
    nodes = {path.stem.removeprefix("slurmd-") for path in logs}
    pids = all_processes()
    steps = {pid for pid in pids if read_name(pid) == "slurmstepd" and files & open_files(pid)}
    found = add_descendants(steps, pids)
    for pid in pids:
        variables = read_environment(pid)
        ours = variables.get("SLURM_CONF") == str(slurm_conf) and "SLURM_JOB_ID" in variables
        if ours and variables.get("SLURMD_NODENAME") in nodes:
            found.add(pid)
    return found - {os.getpid()}


def kill_job_processes(slurm_conf: Path, logs: Iterable[Path], *, seconds: float = 10) -> None:
    """Kill them, slurmstepd too, until none is left: they may start others meanwhile.

    Raises:
        TimeoutError: some live on.
    """
    logs = tuple(logs)
    end = time.monotonic() + seconds
    while pids := find_job_processes(slurm_conf, logs):
        if time.monotonic() > end:
            raise TimeoutError(f"processes of jobs do not end: {sorted(pids)}")
        # slurmstepd first, else it has time to report that its tasks have ended.
        for pid in sorted(pids, key=lambda pid: read_name(pid) != "slurmstepd"):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.05)


def all_processes() -> set[int]:
    """Ids of all processes, of all users; without those that have ended and that nobody has asked about yet."""
    pids = (int(entry.name) for entry in PROC.iterdir() if entry.name.isdecimal())
    return {pid for pid in pids if read_status(pid)[0] not in "ZX"}


def add_descendants(roots: set[int], pids: Iterable[int]) -> set[int]:
    """`roots` and all that descends from them, among `pids`."""
    parents = {pid: read_status(pid)[1] for pid in pids}
    found = set(roots)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def read_name(pid: int) -> str:
    """The program's name; "" when the process is gone."""
    try:
        # The link's target: slurmstepd changes what /proc shows as its command. Debian has it as slurmstepd-wlm.
        return Path(os.readlink(PROC / str(pid) / "exe")).name.removesuffix("-wlm")
    except OSError:
        return ""


def read_status(pid: int) -> tuple[str, int]:
    """State, as one letter, and the parent's id; X (dead) and 0 when the process is gone."""
    try:
        # The name, in brackets, may hold spaces and brackets.
        state, parent = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return "X", 0
    return state, int(parent)


def read_environment(pid: int) -> dict[str, str]:
    """The environment it was started with; empty when the process is gone or another user's."""
    try:
        text = (PROC / str(pid) / "environ").read_bytes().decode(errors="replace")
    except OSError:
        return {}
    return dict(line.partition("=")[::2] for line in text.split("\0") if line)


def open_files(pid: int) -> set[str]:
    """Names of the files it holds open; empty when the process is gone or another user's."""
    found = set()
    try:
        for entry in (PROC / str(pid) / "fd").iterdir():
            found.add(os.readlink(entry))
    except OSError:
        return found
    return found
