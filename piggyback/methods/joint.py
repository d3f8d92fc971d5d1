"""Joint training: one network for all tasks, trained on all of them together.

The trained network is a backbone file of its own; what a task adds to it is norm layers and a head.  Table 3 of
Piggyback has a jointly trained network as its first column.  Whether norm layers are shared is not stated there; here
each task has its own, as tasks as different as the Decathlon's share no statistics.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Joint:
    """Weights are shared by all tasks and trained on all; norm layers and the head are the task's."""

    name: Literal["joint"] = "joint"
    adapts: Literal["norm"] = "norm"
    stands_on: Literal["joint"] = "joint"
    merge: Literal["exact"] = "exact"

    def start(self, weight: Tensor) -> dict[str, Tensor]:
        """Nothing of a weight is the task's alone."""
        return {}

    def keep(self, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Nothing of a weight is the task's alone."""
        return {}

    def apply(self, weight: Tensor, kept: Mapping[str, Tensor]) -> Tensor:
        """The shared weight."""
        return weight

    def pull_back(self, gradient: Tensor, weight: Tensor, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Nothing of a weight is the task's alone."""
        return {}

    def bits(self, shape: tuple[int, ...], *, tasks: int = 1, masked: int = 0) -> int:
        """None: the one network is counted as the backbone."""
        return 0
