"""A network of its own for each task, from random weights: the baseline that shows what the backbone is worth."""

import math
from dataclasses import dataclass
from typing import Literal

from piggyback.methods.contract import LeavesWeights


@dataclass(frozen=True, kw_only=True)
class Scratch(LeavesWeights):
    """All parameters are trained in place, from weights drawn for the task (table 8, "Scratch").

    The caller draws the weights (``add_task(begin=...)``), since how a network starts is the network's own affair.
    """

    name: Literal["scratch"] = "scratch"
    adapts: Literal["anew"] = "anew"
    stands_on: Literal["backbone"] = "backbone"
    merge: Literal["exact"] = "exact"

    def bits(self, shape: tuple[int, ...], *, tasks: int = 1, masked: int = 0) -> int:
        """32 per weight and task."""
        return 32 * tasks * math.prod(shape)
