"""A network of its own for each task, from random weights: what the backbone is worth shows against it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Scratch:
    """All parameters are trained in place, from weights drawn for the task (table 8, "Scratch").

    Whoever adds the task gives the drawn weights (``add_task(begin=...)``): how a network is drawn is its own affair.
    """

    name: Literal["scratch"] = "scratch"
    adapts: Literal["anew"] = "anew"
    stands_on: Literal["backbone"] = "backbone"
    merge: Literal["exact"] = "exact"

    def start(self, weight: Tensor) -> dict[str, Tensor]:
        """The network's own parameters are the trained ones."""
        return {}

    def keep(self, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The adapter keeps the parameters themselves."""
        return {}

    def apply(self, weight: Tensor, kept: Mapping[str, Tensor]) -> Tensor:
        """Not asked: the task has parameters of its own."""
        return weight

    def pull_back(self, gradient: Tensor, weight: Tensor, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The network's own parameters get their own gradients."""
        return {}

    def bits(self, shape: tuple[int, ...], *, tasks: int = 1, masked: int = 0) -> int:
        """32 per weight and task."""
        return 32 * tasks * math.prod(shape)
