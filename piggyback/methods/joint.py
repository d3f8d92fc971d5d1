"""Joint training: one network for all tasks, trained on all of them at once.

The trained network is a backbone file of its own; what a task adds to it is norm layers and a head.  Table 3 of
Piggyback has a jointly trained network as its first column, and does not say whether norm layers are shared.  Here each
task has its own, because tasks as different as the Decathlon's share no statistics.
"""

from dataclasses import dataclass
from typing import Literal

from piggyback.methods.contract import LeavesWeights


@dataclass(frozen=True, kw_only=True)
class Joint(LeavesWeights):
    """Weights are shared by all tasks and trained on all; norm layers and the head are the task's."""

    name: Literal["joint"] = "joint"
    adapts: Literal["norm"] = "norm"
    stands_on: Literal["joint"] = "joint"
    merge: Literal["exact"] = "exact"

    def bits(self, shape: tuple[int, ...], *, tasks: int = 1, masked: int = 0) -> int:
        """No bits: the one network counts as the backbone."""
        return 0
