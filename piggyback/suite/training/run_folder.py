"""Run folders: what a training leaves on the disk, and how it goes on after a break."""

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
    """Every path of a run.

    ``result.json`` is written last: it exists exactly when the run is finished.
    """

    root: Path

    @property
    def key(self) -> Path:
        """The recipe and what else identifies the run."""
        return self.root / "recipe.json"

    @property
    def status(self) -> Path:
        """State and progress, for whoever watches from outside."""
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
        """Training states at step boundaries."""
        return self.root / "checkpoints"

    @property
    def payload(self) -> Path:
        """What the task adds to the backbone."""
        return self.root / "payload.safetensors"

    @property
    def predictions(self) -> Path:
        """Categories predicted for the test pictures."""
        return self.root / "predictions.npz"

    @property
    def sparsity(self) -> Path:
        """Share of every layer's weights that the task masks out; not there for methods without masks."""
        return self.root / "sparsity.json"

    @property
    def result(self) -> Path:
        """The measured result."""
        return self.root / "result.json"

    def hold(self) -> AbstractContextManager[None]:
        """Keep other processes away while the block runs.

        Raises:
            BadInput: another process is at work on the run.
        """
        return hold(self.root, work="at work on")

    def read_status(self) -> dict[str, Any]:
        """What ``status.json`` says; nothing where it is missing or damaged, as nothing depends on it."""
        try:
            value = read_json(self.status)
        except BadInput:
            return {}
        return value if isinstance(value, dict) else {}

    def write_status(self, state: State, **progress: object) -> None:
        """Replace ``status.json``."""
        write_json(self.status, {"state": state, "updated": time.time(), "pid": os.getpid(), **progress})

    def write_metrics(self, history: list[dict[str, Any]]) -> None:
        """Replace ``metrics.jsonl`` by the epochs so far; a resumed run writes none twice."""
        write_bytes(self.metrics, b"".join((json.dumps(line, allow_nan=False) + "\n").encode() for line in history))


@dataclass(kw_only=True)
class Watch:
    """Keeps ``status.json`` up to date while one process works on a run.

    Attributes:
        folder: the run's.
        progress: share of the training that is done, in [0, 1].
        earlier: seconds that other processes worked on the run before, as far as they said.
    """

    folder: RunFolder
    progress: float = 0.0
    earlier: float = 0.0
    begun: float = field(default_factory=time.monotonic)

    @classmethod
    def over(cls, folder: RunFolder) -> "Watch":
        """Goes on where the last process left off."""
        before = folder.read_status()
        numbers = [before.get(key) for key in ("progress", "seconds")]
        progress, earlier = (float(n) if isinstance(n, int | float) and n >= 0 else 0.0 for n in numbers)
        return cls(folder=folder, progress=min(progress, 1.0), earlier=earlier)

    @property
    def seconds(self) -> float:
        """That all processes worked on the run; what a killed one did after its last word is missing."""
        return self.earlier + time.monotonic() - self.begun

    def note(self, progress: float) -> None:
        """Say how far the training is, so that who starts it again and again sees that it gets further."""
        self.progress = progress
        self.say("running", stage="training")

    def say(self, state: State, **more: object) -> None:
        """Write the state, with how far the run is and how long it has taken."""
        self.folder.write_status(state, progress=self.progress, seconds=round(self.seconds, 1), **more)


def open_run(root: Path, *, key: Mapping[str, object]) -> RunFolder:
    """The folder of a run, made when it is not there.

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
    """Do a run, or go on with it, or find it done; ``status.json`` says how it stands, whatever happens.

    Args:
        folder: the run's.
        work: does it; leaves the result.
        proof: what is there when the run is finished, where that is not its result.

    Raises:
        BadInput: another process is at work on the run.
        Requeue: a stop was asked for.
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
        except Exception as fault:  # the caller tells the user; whoever watches the folder must hear of it too
            watch.say("failed", message=str(fault) or type(fault).__name__)
            if is_out_of_memory(fault):
                said = f"not enough memory ({first_line(fault)}): take smaller batches or pictures"
                raise NotTrainable(said) from None
            raise
        close_run(watch)


def is_out_of_memory(fault: Exception) -> bool:
    """Whether Python, a GPU or torch's allocator on the processor had no memory left."""
    return isinstance(fault, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(fault)


def first_line(fault: Exception) -> str:
    """What a fault says, without the stack and the advice that torch appends; its kind where it says nothing."""
    return str(fault).partition("\n")[0][:120] or type(fault).__name__


def close_run(watch: Watch) -> None:
    """Say that the run is done, and keep nothing that only a run under way needs."""
    Checkpoints(watch.folder.checkpoints).clear()
    watch.progress = 1.0
    watch.say("done")


@cache
def code_version() -> tuple[str | None, bool | None]:
    """Commit of the checkout that this code runs from, or was copied from, and whether it was changed; else Nones.

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
