"""Deep adaptation networks: a trained matrix per layer, the controller, recombines its frozen filters.

Source: Rosenfeld and Tsotsos, *Incremental learning through deep adaptation*, arXiv 1705.04228 (row "DAN" of table 8),
and the authors' notebook (rosenfeldamir/incremental_learning): the controller is linear and starts at the identity;
norm layers keep their affine parameters, but their running statistics follow the task (``norm="statistics"`` here).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class DAN:
    """Effective weight (I + D) W over the output filters of W; D, of shape (O, O), starts at zero."""

    name: Literal["dan"] = "dan"
    adapts: Literal["weights"] = "weights"
    stands_on: Literal["backbone"] = "backbone"
    merge: Literal["exact"] = "exact"

    def start(self, weight: Tensor) -> dict[str, Tensor]:
        """The controller less the identity, shape (O, O) for a weight of O filters."""
        return {"controller": torch.zeros(len(weight), len(weight), dtype=weight.dtype, device=weight.device)}

    def keep(self, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The controller less the identity."""
        return {"controller": trained["controller"].clone()}

    def apply(self, weight: Tensor, kept: Mapping[str, Tensor]) -> Tensor:
        """The filters and their recombinations."""
        return weight + (kept["controller"] @ weight.reshape(len(weight), -1)).reshape(weight.shape)

    def pull_back(self, gradient: Tensor, weight: Tensor, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The chain rule for a product of matrices."""
        return {"controller": gradient.reshape(len(weight), -1) @ weight.reshape(len(weight), -1).T}

    def bits(self, shape: tuple[int, ...], *, tasks: int = 1, masked: int = 0) -> int:
        """32 per value of the controller."""
        return 32 * tasks * math.prod((shape[0], shape[0]))
