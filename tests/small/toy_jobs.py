"""Jobs that train nothing, for tests of processes; in a module, so that pickle can name them."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from piggyback.shell.errors import BadInput
from piggyback.suite.training.checkpoints import StopFlag
from piggyback.suite.training.run_folder import RunFolder

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class ToyJob:
    """What `train` notes the process and the threads of."""

    title: str
    out: Path
    waits_for: str | None = None
    device: torch.device = CPU


def train(job: ToyJob, /, *, stop: StopFlag | None, on_step: Callable[[float], None]) -> RunFolder:
    if job.title == "bad":
        raise BadInput("it cannot be")
    on_step(0.5)
    folder = RunFolder(job.out / job.title)
    folder.root.mkdir(parents=True)
    (folder.root / "pid").write_text(f"{os.getpid()} {torch.get_num_threads()}")
    return folder
