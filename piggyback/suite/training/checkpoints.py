"""Checkpoints of a training, and the signals that ask for one."""

import hashlib
import io
import platform
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import torch

from piggyback.device import describe_device
from piggyback.shell.console import notice
from piggyback.shell.files import write_bytes

KEPT_CHECKPOINTS: Final = 2  # the newest may be damaged


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What the bits of a run depend on besides its recipe ("Bits" in ``docs/decisions.md``).

    Attributes:
        device: the GPU's name, or the processor's with the number of threads; and the number of processes if several.
        machine: the processor's architecture.
        update: form of the mask update: ``compiled``, ``eager``, or ``none`` without masks.
    """

    torch_version: str
    device: str
    machine: str
    update: str

    @staticmethod
    def here(device: torch.device, *, update: str, processes: int = 1) -> "Environment":
        """The environment of this process and of the others that train with it."""
        version = str(torch.__version__)  # its own class would not be loaded from a checkpoint again
        together = f", {processes} processes" if processes > 1 else ""
        return Environment(
            torch_version=version,
            device=f"{describe_device(device)}{together}",
            machine=platform.machine(),
            update=update,
        )

    def differences(self, other: Mapping[str, object]) -> list[str]:
        """Describe each difference from a saved environment."""
        return [
            f"{key} was {other.get(key)}, is {value}" for key, value in vars(self).items() if other.get(key) != value
        ]


@dataclass(frozen=True)
class Checkpoints:
    """Training states in a folder; the newest intact one counts."""

    folder: Path

    def save(self, state: Mapping[str, Any], *, step: int) -> None:
        """Write the state at a step atomically, and keep only the checkpoint before it.

        Those of later steps are removed too: they are damaged, or this run would not have started at an earlier one.
        """
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        data = buffer.getvalue()
        path = self.folder / f"step-{step:09d}.pt"
        write_bytes(path, hashlib.sha256(data).hexdigest().encode() + b"\n" + data)
        files = self._files()
        place = files.index(path)
        for other in files[: max(0, place + 1 - KEPT_CHECKPOINTS)] + files[place + 1 :] + self._begun():
            other.unlink(missing_ok=True)

    def load(self) -> dict[str, Any] | None:
        """The newest state whose digest is right; None if there is none."""
        for path in reversed(self._files()):
            data = path.read_bytes()
            digest, _, body = data.partition(b"\n")
            if hashlib.sha256(body).hexdigest().encode() != digest:
                fault = "is damaged"
            else:
                try:
                    return cast(dict[str, Any], torch.load(io.BytesIO(body), map_location="cpu", weights_only=True))
                except Exception:  # whole, so another torch or program wrote it; its reader raises whatever comes
                    fault = f"cannot be read by torch {torch.__version__}"
            notice(f"note: checkpoint {path} {fault}; an older one is used, or the run starts again")
        return None

    def clear(self) -> None:
        """Remove all checkpoints, once the run is finished."""
        for path in self._files() + self._begun():
            path.unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _begun(self) -> list[Path]:
        """Files left by a kill during writing; safe to remove, as one process at a time writes here."""
        return list(self.folder.glob(".step-*.tmp")) if self.folder.is_dir() else []

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.pt")) if self.folder.is_dir() else []


class StopFlag:
    """A flag set by SIGUSR2 or SIGTERM: the training writes a checkpoint at the next step boundary and ends."""

    def __init__(self) -> None:
        self.requested = False

    def request(self, *_: object) -> None:
        self.requested = True


@contextmanager
def stop_on_signal() -> Iterator[StopFlag]:
    """Yield a flag that SIGUSR2 and SIGTERM set while the block runs."""
    flag = StopFlag()
    before = {number: signal.signal(number, flag.request) for number in (signal.SIGUSR2, signal.SIGTERM)}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
