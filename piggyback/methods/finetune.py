"""A network of its own for each task, from the backbone: the expensive upper baseline."""

import math
from dataclasses import dataclass
from typing import Literal

from piggyback.methods.contract import LeavesWeights


@dataclass(frozen=True, kw_only=True)
class Finetune(LeavesWeights):
    """All parameters are trained in place; the task keeps a copy of the whole network (table 8, "Finetune")."""

    name: Literal["finetune"] = "finetune"
    adapts: Literal["everything"] = "everything"
    stands_on: Literal["backbone"] = "backbone"
    merge: Literal["exact"] = "exact"

    def bits(self, shape: tuple[int, ...], *, tasks: int = 1, masked: int = 0) -> int:
        """32 per weight and task."""
        return 32 * tasks * math.prod(shape)
