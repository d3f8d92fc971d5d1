"""Norm layers alone: affine parameters and running statistics of its own for each task, and the head.

Source: the ``BN``-adapted rows of Bilen and Vedaldi, *Universal representations*, 2017, and of Rebuffi et al. 2017.
"""

from dataclasses import dataclass
from typing import Literal

from piggyback.methods.contract import LeavesWeights


@dataclass(frozen=True, kw_only=True)
class Norms(LeavesWeights):
    """Norm layers are trained, everything else of the network is the backbone's; the paper's ratio counts neither."""

    name: Literal["norm"] = "norm"
    adapts: Literal["norm"] = "norm"
    stands_on: Literal["backbone"] = "backbone"
    merge: Literal["exact"] = "exact"

    def bits(self, shape: tuple[int, ...], *, tasks: int = 1, masked: int = 0) -> int:
        """None."""
        return 0
