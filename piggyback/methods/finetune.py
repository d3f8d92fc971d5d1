"""A network of its own for each task, starting from the backbone: the expensive upper baseline."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Finetune:
    """All parameters are trained in place; the task keeps a copy of the whole network (table 8, "Finetune")."""

    name: Literal["finetune"] = "finetune"
    adapts: Literal["everything"] = "everything"
    stands_on: Literal["backbone"] = "backbone"
    merge: Literal["exact"] = "exact"

    def start(self, weight: Tensor) -> dict[str, Tensor]:
        """The network's own parameters are the trained ones."""
        return {}

    def keep(self, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The adapter keeps the parameters themselves."""
        return {}

    def apply(self, weight: Tensor, kept: Mapping[str, Tensor]) -> Tensor:
        """Where every task starts: the backbone's weight."""
        return weight

    def pull_back(self, gradient: Tensor, weight: Tensor, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The network's own parameters get their own gradients."""
        return {}

    def bits(self, shape: tuple[int, ...], *, tasks: int = 1, masked: int = 0) -> int:
        """32 per weight and task."""
        return 32 * tasks * math.prod(shape)
