"""The frozen network as a feature extractor: only the head is trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Feature:
    """Nothing of the network changes ("Feature" in the paper's table 8, "Classifier Only" in table 2)."""

    name: Literal["feature"] = "feature"
    adapts: Literal["head"] = "head"
    stands_on: Literal["backbone"] = "backbone"
    merge: Literal["exact"] = "exact"

    def start(self, weight: Tensor) -> dict[str, Tensor]:
        """Nothing is trained."""
        return {}

    def keep(self, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Nothing is kept."""
        return {}

    def apply(self, weight: Tensor, kept: Mapping[str, Tensor]) -> Tensor:
        """The backbone's weight."""
        return weight

    def pull_back(self, gradient: Tensor, weight: Tensor, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Nothing is trained."""
        return {}

    def bits(self, shape: tuple[int, ...], *, tasks: int = 1, masked: int = 0) -> int:
        """None."""
        return 0
