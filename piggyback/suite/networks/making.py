"""The state of a network being made, shared by the modules that make one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from piggyback.suite.training.checkpoints import StopFlag
from piggyback.suite.training.run_folder import RunFolder, Watch

NETWORK_FILE: Final = "backbone.safetensors"  # of a file of the backbone's kind; written last


@dataclass(frozen=True, kw_only=True)
class Making:
    """A network being made in this process.

    Attributes:
        watch: keeps ``status.json`` up to date.
        stop: set when asked to write a checkpoint and end.
        on_step: called with the fraction completed.
    """

    folder: RunFolder
    watch: Watch
    stop: StopFlag | None
    on_step: Callable[[float], None]
