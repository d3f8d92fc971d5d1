"""A network of its own for each task, from random weights: what the backbone is worth shows against it."""

import math
from dataclasses import dataclass
from typing import Literal

from piggyback.methods.contract import LeavesWeights


@dataclass(frozen=True, kw_only=True)
class Scratch(LeavesWeights):
    """All parameters are trained in place, from weights drawn for the task (table 8, "Scratch").

    Whoever adds the task gives the drawn weights (``add_task(begin=...)``): how a network is drawn is its own affair.
    """

    name: Literal["scratch"] = "scratch"
    adapts: Literal["anew"] = "anew"
    stands_on: Literal["backbone"] = "backbone"
    merge: Literal["exact"] = "exact"

    def bits(self, shape: tuple[int, ...], *, tasks: int = 1, masked: int = 0) -> int:
        """32 per weight and task."""
        return 32 * tasks * math.prod(shape)
