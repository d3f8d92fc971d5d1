"""Run folders: the files of a training, and how an interrupted one continues."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

import torch

from piggyback.shell.errors import BadInput, NotTrainable, Requeue
from piggyback.shell.files import write_bytes, write_json
from piggyback.shell.lock import hold
from piggyback.shell.strict_json import read_json
from piggyback.suite.training.checkpoints import Checkpoints

State = Literal["running", "done", "failed", "requeue"]


@dataclass(frozen=True)
class RunFolder:
    """The paths of a run.

    ``result.json`` is written last: it exists exactly when the run is finished.
    """

    root: Path

    @property
    def key(self) -> Path:
        """Recipe and everything else that identifies the run."""
        return self.root / "recipe.json"

    @property
    def status(self) -> Path:
        """State and progress, for watchers outside the process."""
        return self.root / "status.json"

    @property
    def metrics(self) -> Path:
        """One JSON line per epoch."""
        return self.root / "metrics.jsonl"

    @property
    def trials(self) -> Path:
        """Learning rates tried and their accuracies on val."""
        return self.root / "trials.json"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def payload(self) -> Path:
        return self.root / "payload.safetensors"

    @property
    def predictions(self) -> Path:
        return self.root / "predictions.npz"

    @property
    def sparsity(self) -> Path:
        """Share of every layer's weights that the task masks out; missing for methods without masks."""
        return self.root / "sparsity.json"

    @property
    def result(self) -> Path:
        return self.root / "result.json"

    def hold(self) -> AbstractContextManager[None]:
        """Keep other processes away while the block runs.

        Raises:
            BadInput: another process is working on the run.
        """
        return hold(self.root, work="at work on")

    def read_status(self) -> dict[str, Any]:
        """Content of ``status.json``; empty if it is missing or damaged, since nothing depends on it."""
        try:
            value = read_json(self.status)
        except BadInput:
            return {}
        return value if isinstance(value, dict) else {}

    def write_status(self, state: State, **progress: object) -> None:
        write_json(self.status, {"state": state, "updated": time.time(), "pid": os.getpid(), **progress})

    def write_metrics(self, history: list[dict[str, Any]]) -> None:
        """Replace ``metrics.jsonl`` by the epochs so far, so that a resumed run writes none twice."""
        write_bytes(self.metrics, b"".join((json.dumps(line, allow_nan=False) + "\n").encode() for line in history))


@dataclass(kw_only=True)
class Watch:
    """Keeps ``status.json`` up to date while one process works on a run.

    Attributes:
        progress: fraction of the training completed, in [0, 1].
        earlier: seconds that earlier processes worked on the run, as far as they recorded them.
    """

    folder: RunFolder
    progress: float = 0.0
    earlier: float = 0.0
    begun: float = field(default_factory=time.monotonic)

    @classmethod
    def over(cls, folder: RunFolder) -> "Watch":
        """A watch that continues the last process's progress and seconds."""
        before = folder.read_status()
        numbers = [before.get(key) for key in ("progress", "seconds")]
        progress, earlier = (float(n) if isinstance(n, int | float) and n >= 0 else 0.0 for n in numbers)
        return cls(folder=folder, progress=min(progress, 1.0), earlier=earlier)

    @property
    def seconds(self) -> float:
        """Seconds that all processes worked on the run; a killed one counts up to its last record."""
        return self.earlier + time.monotonic() - self.begun

    def note(self, progress: float) -> None:
        """Record the fraction completed, by which a sweep that keeps restarting the run sees it advance."""
        self.progress = progress
        self.say("running", stage="training")

    def say(self, state: State, **more: object) -> None:
        """Write the state, with the fraction completed and the seconds so far."""
        self.folder.write_status(state, progress=self.progress, seconds=round(self.seconds, 1), **more)


def open_run(root: Path, *, key: Mapping[str, object]) -> RunFolder:
    """The folder of a run, made if it is missing.

    Raises:
        BadInput: the folder holds another run.
    """
    folder = RunFolder(root)
    text = json.loads(json.dumps(key))
    if folder.key.exists():
        if read_json(folder.key) != text:
            raise BadInput(f"{folder.key} belongs to another run than the one asked for: take another folder")
    else:
        write_json(folder.key, text)
    return folder


def conduct(folder: RunFolder, work: Callable[[Watch], None], *, proof: Path | None = None) -> None:
    """Call `work` unless the run is finished, and keep ``status.json`` true however it ends.

    Args:
        folder: the run's.
        work: does the run from the start or its checkpoint, and leaves the result.
        proof: file that exists when the run is finished, if that is not its result.

    Raises:
        BadInput: another process is working on the run.
        Requeue: a stop was requested.
    """
    if (proof or folder.result).exists():
        if folder.read_status().get("state") != "done":  # the process that finished it had no time left to say so
            close_run(Watch.over(folder))
        return
    with folder.hold():
        for left in folder.root.rglob(".*.tmp"):  # of a process that was killed while it wrote
            left.unlink(missing_ok=True)
        watch = Watch.over(folder)
        watch.say("running")
        try:
            work(watch)
        except (Requeue, KeyboardInterrupt):
            watch.say("requeue")
            raise
        except Exception as fault:  # the caller tells the user; those who watch the folder must see it too
            watch.say("failed", message=str(fault) or type(fault).__name__)
            if is_out_of_memory(fault):
                said = f"not enough memory ({first_line(fault)}): take smaller batches or pictures"
                raise NotTrainable(said) from None
            raise
        close_run(watch)


def is_out_of_memory(fault: Exception) -> bool:
    """Whether memory ran out: in Python, on a GPU, or in torch's allocator for the processor."""
    return isinstance(fault, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(fault)


def first_line(fault: Exception) -> str:
    """First line of a fault's message, without the stack and advice that torch appends; its class if there is none."""
    return str(fault).partition("\n")[0][:120] or type(fault).__name__


def close_run(watch: Watch) -> None:
    """Record that the run is done, and remove what only an unfinished run needs."""
    Checkpoints(watch.folder.checkpoints).clear()
    watch.progress = 1.0
    watch.say("done")


@cache
def code_version() -> tuple[str | None, bool | None]:
    """Commit of the checkout that this code runs from or was copied from, and whether it was modified; Nones otherwise.

    A copy that a sweep made has them in a file (`slurm.sending.snapshots`).
    """
    here = Path(__file__).resolve().parents[3]
    if (here / "code.json").exists():
        record = cast(dict[str, Any], read_json(here / "code.json"))
        return record["commit"], record["dirty"]
    if not (here / ".git").exists():
        return None, None
    run = ["git", "-C", str(here)]
    try:
        commit = subprocess.run([*run, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        status = subprocess.run([*run, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None, None
    return commit.stdout.strip(), bool(status.stdout.strip())
