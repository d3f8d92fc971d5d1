"""Norm layers alone: each task has affine parameters and running statistics of its own, and a head.

Source: the ``BN``-adapted rows of Bilen and Vedaldi, *Universal representations*, 2017, and of Rebuffi et al. 2017.
"""

from dataclasses import dataclass
from typing import Literal

from piggyback.methods.contract import LeavesWeights


@dataclass(frozen=True, kw_only=True)
class Norms(LeavesWeights):
    """Norm layers are trained; all else is the backbone's."""

    name: Literal["norm"] = "norm"
    adapts: Literal["norm"] = "norm"
    stands_on: Literal["backbone"] = "backbone"
    merge: Literal["exact"] = "exact"

    def bits(self, shape: tuple[int, ...], *, tasks: int = 1, masked: int = 0) -> int:
        """No bits: the paper's ratio leaves norm layers out."""
        return 0
