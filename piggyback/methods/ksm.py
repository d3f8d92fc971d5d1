"""Kernel-wise soft masks: one mask value per kernel, a number instead of zero where it is off.

Source: Yang, He, Zhang, Fan, *KSM: Fast Multiple Task Adaption via Kernel-wise Soft Mask Learning*, CVPR 2021, as in
its authors' code; the paper's own equations and tables could not be read.  The code draws no noise although it has a
flag for it.  The mask:
https://github.com/LYang-666/CVPR_2021_KSM/blob/135b675/src/modnets/layers.py#L104-L112
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class KSM:
    r"""Effective weight M W, with one M per kernel: 1 where :math:`m^r \ge \tau`, else a number in [0, 1/2].

    Off, M is half of :math:`a = (m^r - lo) / (hi - lo)`, where lo and hi are the least and the greatest over the layer
    of :math:`m^r` where it is off and zero where it is on.  The loss gradient reaches :math:`m^r` through
    :math:`\sigma(s (m^r - \tau))` and not through a.

    Where one equal value masks a whole layer, hi = lo, which gives NaN in the authors' code; here a is zero then.

    Args:
        threshold: :math:`\tau`.
        init: every real mask value at the start.
        steepness: s, their beta of 1200 over their temperature of 100.

    Raises:
        ValueError: `init` does not exceed `threshold`, or the steepness is not positive.
    """

    threshold: float = 5e-3
    init: float = 1e-2
    steepness: float = 12.0
    name: Literal["ksm"] = "ksm"
    adapts: Literal["weights"] = "weights"
    stands_on: Literal["backbone"] = "backbone"
    merge: Literal["exact"] = "exact"

    def __post_init__(self) -> None:
        if not self.init > self.threshold:
            raise ValueError(f"init {self.init} must exceed the threshold {self.threshold}: all masks start at one")
        if not 0 < self.steepness < math.inf:
            raise ValueError(f"the steepness must be positive, not {self.steepness}")

    def start(self, weight: Tensor) -> dict[str, Tensor]:
        """The real mask, `init` everywhere, of shape (O, I, 1, 1) for a weight (O, I, k, k)."""
        size = kernels(tuple(weight.shape))
        return {"mask_real": torch.full(size, self.init, dtype=weight.dtype, device=weight.device)}

    def keep(self, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The mask, one bit per kernel, and the soft values, which are zero where it is on."""
        real = trained["mask_real"]
        mask = real >= self.threshold
        off = torch.where(mask, 0.0, real)
        low, high = off.amin(), off.amax()
        spread = high - low
        scaled = torch.where(spread > 0, (off - low) / torch.where(spread > 0, spread, 1.0), 0.0)
        return {"mask": mask, "soft": torch.where(mask | (off == 0), 0.0, scaled)}

    def apply(self, weight: Tensor, kept: Mapping[str, Tensor]) -> Tensor:
        """The weights, those of masked kernels times half the soft value."""
        return torch.where(kept["mask"], weight, 0.5 * kept["soft"] * weight)

    def pull_back(self, gradient: Tensor, weight: Tensor, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The sum over each kernel, times the slope of the logistic function; not through lo, hi and a, as theirs."""
        product = gradient * weight
        if product.ndim > 2:
            product = product.sum(dim=tuple(range(2, product.ndim)), keepdim=True)
        soft = torch.sigmoid(self.steepness * (trained["mask_real"] - self.threshold))
        return {"mask_real": product * (self.steepness * soft * (1 - soft))}

    def stored(self, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Soft values where the mask is off; elsewhere they are zero by definition."""
        return {"soft": ~kept["mask"]}

    def bits(self, shape: tuple[int, ...], *, tasks: int = 1, masked: int = 0) -> int:
        """One bit per kernel, and 32 per masked kernel."""
        return tasks * (math.prod(kernels(shape)) + 32 * masked)


def kernels(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of one value per kernel."""
    return (*shape[:2], *(1 for _ in shape[2:]))
