"""Norm layers alone: affine parameters and running statistics of its own for each task, and the head.

Source: the ``BN``-adapted rows of Bilen and Vedaldi, *Universal representations*, 2017, and of Rebuffi et al. 2017.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Norms:
    """Norm layers are trained, everything else of the network is the backbone's; the paper's ratio counts neither."""

    name: Literal["norm"] = "norm"
    adapts: Literal["norm"] = "norm"
    stands_on: Literal["backbone"] = "backbone"
    merge: Literal["exact"] = "exact"

    def start(self, weight: Tensor) -> dict[str, Tensor]:
        """Nothing of a weight is trained."""
        return {}

    def keep(self, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Nothing of a weight is kept."""
        return {}

    def apply(self, weight: Tensor, kept: Mapping[str, Tensor]) -> Tensor:
        """The backbone's weight."""
        return weight

    def pull_back(self, gradient: Tensor, weight: Tensor, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Nothing of a weight is trained."""
        return {}

    def bits(self, shape: tuple[int, ...], *, tasks: int = 1, masked: int = 0) -> int:
        """None."""
        return 0
