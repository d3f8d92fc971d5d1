"""Piggyback with masks of three values.

Source: Mallya, Davis, Lazebnik, *Piggyback*, ECCV 2018, section 3 (mentioned there without a gain), and the authors'
``Ternarizer``: https://github.com/arunmallya/piggyback/blob/3529efd/src/modnets/layers.py#L36-L41
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Ternary:
    r"""Effective weight :math:`W \odot m` with m = -1 where :math:`m^r < 0`, 1 where :math:`m^r > \tau`, else 0.

    Args:
        threshold: :math:`\tau`.
        init: every real mask value at the start.

    Raises:
        ValueError: the threshold is negative, or `init` does not exceed it.
    """

    threshold: float = 5e-3
    init: float = 1e-2
    name: Literal["piggyback-ternary"] = "piggyback-ternary"
    adapts: Literal["weights"] = "weights"
    stands_on: Literal["backbone"] = "backbone"
    merge: Literal["exact"] = "exact"

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < self.init:
            raise ValueError(f"a ternary mask needs 0 <= threshold < init, not {self.threshold} and {self.init}")

    def start(self, weight: Tensor) -> dict[str, Tensor]:
        """The real mask, `init` everywhere."""
        return {"mask_real": torch.full_like(weight, self.init)}

    def keep(self, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Two bits per weight: whether it is used, and whether its sign is turned."""
        real = trained["mask_real"]
        negative = real < 0
        return {"mask": (real > self.threshold) | negative, "negative": negative}

    def apply(self, weight: Tensor, kept: Mapping[str, Tensor]) -> Tensor:
        """The weights that the mask lets through, some with their sign turned."""
        return torch.where(kept["mask"], torch.where(kept["negative"], -weight, weight), 0.0)

    def pull_back(self, gradient: Tensor, weight: Tensor, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Straight through, as for binary masks."""
        return {"mask_real": gradient * weight}

    def bits(self, shape: tuple[int, ...], *, tasks: int = 1, masked: int = 0) -> int:
        """log2(3) bits per weight and task, rounded up over the tensor."""
        return tasks * math.ceil(math.prod(shape) * math.log2(3))
