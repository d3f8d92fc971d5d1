"""Piggyback: a learned 0/1 mask on every frozen weight.

Source: Mallya, Davis, Lazebnik, *Piggyback*, ECCV 2018, section 3, equations 4 to 7; the authors' threshold:
https://github.com/arunmallya/piggyback/blob/3529efd/src/modnets/layers.py#L19-L26
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Binary:
    r"""Effective weight :math:`W \odot [m^r > \tau]`, trained straight through the threshold.

    The paper's equation 4 has :math:`\ge`, the authors' code ``>``; we take the code's.  The loss gradient
    reaches the real mask as :math:`\partial L / \partial m^r = (\partial L / \partial W_{eff}) \odot W`
    (equation 7).

    Args:
        threshold: :math:`\tau`.
        init: every real mask value at the start.

    Raises:
        ValueError: `init` does not exceed `threshold`, so that all weights would start masked out.
    """

    threshold: float = 5e-3
    init: float = 1e-2
    name: Literal["piggyback"] = "piggyback"
    adapts: Literal["weights"] = "weights"
    stands_on: Literal["backbone"] = "backbone"
    merge: Literal["exact"] = "exact"

    def __post_init__(self) -> None:
        if not self.init > self.threshold:
            raise ValueError(f"init {self.init} must exceed the threshold {self.threshold}: all masks start at one")

    def start(self, weight: Tensor) -> dict[str, Tensor]:
        """The real mask, `init` everywhere."""
        return {"mask_real": torch.full_like(weight, self.init)}

    def keep(self, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The mask, one bit per weight."""
        return {"mask": trained["mask_real"] > self.threshold}

    def apply(self, weight: Tensor, kept: Mapping[str, Tensor]) -> Tensor:
        """The weights that the mask lets through; `where`, because 0 * inf is not 0."""
        return torch.where(kept["mask"], weight, 0.0)

    def pull_back(self, gradient: Tensor, weight: Tensor, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Equation 7: the gradient of the mask is passed on to the real mask unchanged."""
        return {"mask_real": gradient * weight}

    def bits(self, shape: tuple[int, ...], *, tasks: int = 1, masked: int = 0) -> int:
        """One bit per weight and task (section 6)."""
        return tasks * math.prod(shape)
