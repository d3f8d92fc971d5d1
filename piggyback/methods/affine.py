"""Affine binary masks: a masked and an unmasked copy of each weight, mixed by four scalars per layer and task.

Source: Mancini, Ricci, Caputo, Rota Bulo, *Boosting binary masks for multi-domain learning through affine
transformations*, arXiv 2103.13894 (footnote 3 has the parameter count) and 1805.11119.  How the scalars start and which
of them are trained was read in code of the same group (fcdl94/RobotChallenge, ``custom_layers.py``): all start at zero
but k0, which is 1 there and not trained.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor

SCALARS: Final = 4


@dataclass(frozen=True, kw_only=True)
class Affine:
    r"""Effective weight :math:`k_0 W + k_1 + k_2 M + k_3 (W \odot M)` with M = 1 where :math:`m^r > \tau`.

    The scalars start at (1, 0, 0, 0), which is the backbone.  Until k2 or k3 has moved, no gradient reaches the mask.

    Args:
        threshold: :math:`\tau`.
        init: every real mask value at the start; the published code draws from 1e-5 to 2e-5 with a threshold of 0.
        train_k0: whether the factor of the weights is trained too; the published code keeps it at 1.

    Raises:
        ValueError: `init` does not exceed `threshold`.
    """

    threshold: float = 5e-3
    init: float = 1e-2
    train_k0: bool = True
    name: Literal["affine"] = "affine"
    adapts: Literal["weights"] = "weights"
    stands_on: Literal["backbone"] = "backbone"
    merge: Literal["exact"] = "exact"

    def __post_init__(self) -> None:
        if not self.init > self.threshold:
            raise ValueError(f"init {self.init} must exceed the threshold {self.threshold}: all masks start at one")

    def start(self, weight: Tensor) -> dict[str, Tensor]:
        """The real mask, and the scalars k0 to k3, shape (4,)."""
        scalars = torch.zeros(SCALARS, dtype=weight.dtype, device=weight.device)
        scalars[0] = 1.0
        return {"mask_real": torch.full_like(weight, self.init), "scalars": scalars}

    def keep(self, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The mask, one bit per weight, and the scalars."""
        return {"mask": trained["mask_real"] > self.threshold, "scalars": trained["scalars"].clone()}

    def apply(self, weight: Tensor, kept: Mapping[str, Tensor]) -> Tensor:
        """The sum of the four terms, by cases of M; at the start it has the bits of the weight itself."""
        k0, k1, k2, k3 = kept["scalars"].unbind()
        return torch.where(kept["mask"], (k0 + k3) * weight + (k1 + k2), k0 * weight + k1)

    def pull_back(self, gradient: Tensor, weight: Tensor, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Straight through the threshold for the mask, sums over the layer for the scalars."""
        mask = trained["mask_real"] > self.threshold
        _, _, k2, k3 = trained["scalars"].unbind()
        product = gradient * weight
        sums = [
            product.sum() if self.train_k0 else torch.zeros_like(k2),
            gradient.sum(),
            torch.where(mask, gradient, 0.0).sum(),
            torch.where(mask, product, 0.0).sum(),
        ]
        return {"mask_real": k2 * gradient + k3 * product, "scalars": torch.stack(sums)}

    def bits(self, shape: tuple[int, ...], *, tasks: int = 1, masked: int = 0) -> int:
        """One bit per weight, and 32 for each of the four scalars."""
        return tasks * (math.prod(shape) + SCALARS * 32)
