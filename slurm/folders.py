"""The folder of a sweep: its plan, and a folder per run for claims, attempts and logs.

<out>/plan.json                         the planned runs, as last submitted
<out>/queue.json                        the local queue's process, while there is one
<out>/jobs/<id>/submitted.json          where it was last sent
<out>/jobs/<id>/claim.json              which attempt is at work, or was last
<out>/jobs/<id>/attempts/<n>.json       how the n-th attempt ended; written once it has
<out>/jobs/<id>/log.txt                 what all attempts printed
<out>/jobs/<id>/done.json               the proof of runs that leave no result of their own

Files are written whole or not at all, and each has one writer at a time: no database, no locks, safe on NFS.
"""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slurm.errors import SweepError
from slurm.planned import PlannedRun, read_planned


def write_json(path: Path, value: object) -> None:
    """Write JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
    try:
        with temporary.open("x") as file:
            json.dump(value, file, indent=1, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object that this package or a run wrote; empty where it is missing or damaged, as after a crash."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


@dataclass(frozen=True)
class JobFolder:
    """One run's folder."""

    root: Path

    @property
    def submitted(self) -> Path:
        """Where it was last sent."""
        return self.root / "submitted.json"

    @property
    def claim(self) -> Path:
        """Which attempt is at work, or was last."""
        return self.root / "claim.json"

    @property
    def attempts(self) -> Path:
        """How attempts ended."""
        return self.root / "attempts"

    @property
    def log(self) -> Path:
        """What all attempts printed."""
        return self.root / "log.txt"

    @property
    def done(self) -> Path:
        """Proof of a run without a result of its own."""
        return self.root / "done.json"

    def ended(self) -> list[dict[str, Any]]:
        """The attempts that have ended, in order."""
        if not self.attempts.is_dir():
            return []
        return [read_json(path) for path in sorted(self.attempts.glob("*.json"))]

    def note_end(self, record: Mapping[str, Any]) -> None:
        """Add an attempt that has ended; a number that was taken meanwhile is passed over."""
        self.attempts.mkdir(parents=True, exist_ok=True)
        number = len(list(self.attempts.glob("*.json")))
        while True:
            path = self.attempts / f"{number:04}.json"
            try:
                with path.open("x") as file:
                    json.dump({**record, "ended": time.time()}, file)
                return
            except FileExistsError:
                number += 1


@dataclass(frozen=True)
class SweepFolder:
    """All of a sweep's paths."""

    root: Path

    @property
    def plan(self) -> Path:
        """The planned runs, as last submitted."""
        return self.root / "plan.json"

    @property
    def queue(self) -> Path:
        """The local queue's process."""
        return self.root / "queue.json"

    def job(self, run: str) -> JobFolder:
        """The folder of a run."""
        return JobFolder(self.root / "jobs" / run)

    def write_plan(self, name: str, runs: Sequence[PlannedRun]) -> None:
        """Keep the plan, for `status` and the others."""
        plan = [{**asdict(run), "folder": str(run.folder), "proof": run.proof and str(run.proof)} for run in runs]
        write_json(self.plan, {"name": name, "runs": plan})

    def read_plan(self) -> tuple[str, list[PlannedRun]]:
        """The sweep's name and its runs.

        Raises:
            SweepError: nothing was submitted from there.
        """
        value = read_json(self.plan)
        runs = value.get("runs")
        if not isinstance(runs, list) or not isinstance(value.get("name"), str):
            raise SweepError(f"{self.root} is no folder of a sweep that was submitted: it has no {self.plan.name}")
        return value["name"], [read_planned(run, benchmark=str(self.plan)) for run in runs]

    def proof(self, run: PlannedRun) -> Path:
        """The file that exists exactly when the run is finished."""
        return run.proof if run.proof is not None else self.job(run.id).done
