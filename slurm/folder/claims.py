"""Claims: files that say which process works on something, so that two never do.

In a folder of claims, ``<n>.json`` says who made the n-th claim, and ``<n>.ended.json`` how its work ended.  A claim is
made with O_EXCL, so that a number goes to one process only, on NFS too; the highest number counts.  Nothing is replaced
or removed: a process that is killed leaves a claim without an end, and the next one finds out whether it is alive.
"""

import contextlib
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from piggyback.shell.errors import SweepError
from piggyback.shell.files import write_json
from slurm.folder.state_files import read_state

BEAT_S: Final = 20.0
"""Seconds between signs of life, which set the time of the claim's file."""
SILENT_S: Final = 180.0  # nine beats: NFS may show a file's new time a minute late (acregmax)
"""Seconds without a sign of life after which an owner counts as dead, where nothing better is known of it."""
NUMBERED: Final = re.compile(r"(\d{4,})\.json")
LOCAL: Final = "local-"

AskSlurm = Callable[[str], bool | None]
"""Whether Slurm says that a job runs now; None where it does not answer."""


def find_start(pid: int) -> int | None:
    """Find when a process began, in the kernel's ticks: process ids are reused, but not together with a start time.

    Returns:
        The ticks; 0 on systems without ``/proc``; None if there is no such process, or it is a zombie.
    """
    if not Path("/proc/self/stat").exists():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return 0
    try:
        words = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if words[0] in ("Z", "X") else int(words[19])  # proc(5): fields 3 and 22


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The process that claims.

    Attributes:
        job: Slurm's id such as ``12_3``, or ``local-`` and a process id.
        restart: how often Slurm has queued the job again.
        start: when the process began, see `find_start`.
        node: Slurm's name of the machine; the host's name without one.
    """

    job: str
    restart: int
    host: str
    pid: int
    start: int | None
    node: str

    @staticmethod
    def local() -> "Owner":
        """Describe this process, whatever started it."""
        pid, host = os.getpid(), socket.gethostname()
        return Owner(job=f"{LOCAL}{pid}", restart=0, host=host, pid=pid, start=find_start(pid), node=host)

    @staticmethod
    def of_job(environment: Mapping[str, str] = os.environ) -> "Owner":
        """Describe this process as the task of a Slurm job; outside of one as `local` does."""
        here, job = Owner.local(), environment.get("SLURM_JOB_ID", "")
        if environment.get("SLURM_ARRAY_JOB_ID"):
            job = f"{environment['SLURM_ARRAY_JOB_ID']}_{environment.get('SLURM_ARRAY_TASK_ID', '0')}"
        restart = int(environment.get("SLURM_RESTART_COUNT", "0") or 0)
        node = environment.get("SLURMD_NODENAME", here.host)
        return Owner(**{**vars(here), "job": job, "restart": restart, "node": node}) if job else here


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim as it was read.

    Attributes:
        number: from 0.
        owner: the fields of `Owner`, ``since`` and ``progress``; empty while the file is being written.
        beat: time of the last sign of life.
        end: how the work ended; None before.
    """

    number: int
    owner: Mapping[str, Any]
    beat: float
    end: Mapping[str, Any] | None

    @property
    def job(self) -> str:
        """The owner's job; empty while unknown."""
        return str(self.owner.get("job", ""))

    @property
    def in_slurm(self) -> bool:
        """Whether the owner is a Slurm job."""
        return self.job != "" and not self.job.startswith(LOCAL)

    @property
    def is_here(self) -> bool:
        """Whether the owner is a running process of this machine."""
        pid = self.owner.get("pid")
        if self.owner.get("host") != socket.gethostname() or not isinstance(pid, int):
            return False
        start = find_start(pid)
        return start is not None and start == self.owner.get("start")

    def is_alive(self, ask_slurm: AskSlurm) -> bool:
        """Whether the owner is still working.

        This machine's processes are known for certain, then Slurm's jobs.  Signs of life decide for all others, such as
        processes elsewhere.
        """
        if self.end is not None:
            return False
        if self.is_here:
            return True
        if self.in_slurm:
            said = ask_slurm(self.job)
            if said is not None:
                return said
        elif self.owner.get("host") == socket.gethostname():
            return False
        return time.time() - self.beat < SILENT_S

    def is_before(self, owner: Owner) -> bool:
        """Whether an earlier attempt of the owner's own job made it: Slurm starts none before the last is gone."""
        restart = self.owner.get("restart")
        return self.job == owner.job and isinstance(restart, int) and restart < owner.restart


@dataclass(frozen=True)
class Claims:
    """A folder of claims."""

    root: Path

    def last(self) -> Claim | None:
        """The claim that counts; None if there is none."""
        numbers = self._numbers()
        return self._read(max(numbers)) if numbers else None

    def next(self) -> int:
        """The number of the next claim, if no other process comes first."""
        return max(self._numbers(), default=-1) + 1

    def since(self, first: int) -> list[Claim]:
        """The claims from a number on, in order."""
        return [self._read(number) for number in sorted(self._numbers()) if number >= first]

    def ends(self) -> list[Mapping[str, Any]]:
        """The ends of those that have ended, in order."""
        return [end for number in sorted(self._numbers()) if (end := read_state(self._end(number)))]

    def take(self, owner: Owner, *, what: str, ask_slurm: AskSlurm, progress: float | None = None) -> int:
        """Make a claim.

        Args:
            owner: this process.
            what: what is claimed, for the message.
            ask_slurm: asked about jobs on other machines.
            progress: fraction of the work completed already, in [0, 1].

        Returns:
            The claim's number.

        Raises:
            SweepError: another process is working on it.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        number = self.next() - 1
        while True:
            if number >= 0:
                self._refuse_if_taken(self._read(number), owner, what=what, ask_slurm=ask_slurm)
            number += 1
            try:  # another process may have taken the number since, or NFS does not list it here yet
                with self._file(number).open("x") as file:
                    json.dump({**vars(owner), "since": time.time(), "progress": progress}, file)
            except FileExistsError:
                continue
            return number

    def beat(self, number: int) -> None:
        """Give a sign of life."""
        with contextlib.suppress(OSError):  # one sign less; the work goes on
            os.utime(self._file(number))

    def end(self, number: int, record: Mapping[str, Any]) -> None:
        """Record how the work under a claim ended."""
        write_json(self._end(number), {**record, "ended": time.time()})

    @contextlib.contextmanager
    def hold(self, *, what: str) -> Iterator[int]:
        """Hold a claim for this process while the block runs."""
        number = self.take(Owner.local(), what=what, ask_slurm=lambda job: None)
        try:
            yield number
        finally:
            self.end(number, {})

    def _refuse_if_taken(self, claim: Claim, owner: Owner, *, what: str, ask_slurm: AskSlurm) -> None:
        own = claim.job == owner.job  # Slurm would answer that this job runs, and mean this very process
        alive = claim.is_alive((lambda job: None) if own else ask_slurm)
        if alive and not claim.is_before(owner):
            host, pid, job = (claim.owner.get(key, "?") for key in ("host", "pid", "job"))
            place = f"job {job} on {host}" if claim.in_slurm else f"process {pid} on {host}"
            raise SweepError(f"{place} is at work on {what} already: wait until it ends, or cancel it")

    def _read(self, number: int) -> Claim:
        try:
            beat = self._file(number).stat().st_mtime
        except OSError:
            beat = 0.0
        end = read_state(self._end(number)) if self._end(number).exists() else None
        return Claim(number=number, owner=read_state(self._file(number)), beat=beat, end=end)

    def _numbers(self) -> list[int]:
        try:
            names = os.listdir(self.root)
        except FileNotFoundError:
            return []
        return [int(fits[1]) for name in names if (fits := NUMBERED.fullmatch(name))]

    def _file(self, number: int) -> Path:
        return self.root / f"{number:04}.json"

    def _end(self, number: int) -> Path:
        return self.root / f"{number:04}.ended.json"
