"""The frozen network as a feature extractor: only the head is trained."""

from dataclasses import dataclass
from typing import Literal

from piggyback.methods.contract import LeavesWeights


@dataclass(frozen=True, kw_only=True)
class Feature(LeavesWeights):
    """Nothing of the network changes ("Feature" in the paper's table 8, "Classifier Only" in table 2)."""

    name: Literal["feature"] = "feature"
    adapts: Literal["head"] = "head"
    stands_on: Literal["backbone"] = "backbone"
    merge: Literal["exact"] = "exact"

    def bits(self, shape: tuple[int, ...], *, tasks: int = 1, masked: int = 0) -> int:
        """No bits."""
        return 0
