"""Parallel residual adapters: a 1x1 convolution beside each larger one.

Source: Rebuffi, Bilen, Vedaldi, *Efficient parametrization of multi-domain deep neural networks*, CVPR 2018, and the
authors' code, which adds the outputs of both: https://github.com/srebuffi/residual_adapters/blob/349e141/models.py#L65-L66
That is one convolution whose centre tap has the 1x1 weights added; it is trained there, so merging is exact.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Parallel:
    """Effective weight W + A at the centre tap of every convolution larger than 1x1; other weights stay.

    A starts at zero, which is the backbone; the authors' code draws it at random.  The centre tap lies on the output's
    own place where the padding is half the kernel's size: in all of WRN-28-4, but not in FCN's first layer and fc6.
    """

    name: Literal["parallel"] = "parallel"
    adapts: Literal["weights"] = "weights"
    stands_on: Literal["backbone"] = "backbone"
    merge: Literal["exact"] = "exact"

    def start(self, weight: Tensor) -> dict[str, Tensor]:
        """A, of shape (O, I, 1, 1) for a weight (O, I, k, k); nothing for a 1x1 or linear weight."""
        if not is_spatial(tuple(weight.shape)):
            return {}
        return {"adapter": torch.zeros_like(weight[centre(weight)])}

    def keep(self, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A."""
        return {key: tensor.clone() for key, tensor in trained.items()}

    def apply(self, weight: Tensor, kept: Mapping[str, Tensor]) -> Tensor:
        """The weight with A added to its centre tap."""
        if not kept:
            return weight
        effective = weight.clone()
        effective[centre(weight)] += kept["adapter"]
        return effective

    def pull_back(self, gradient: Tensor, weight: Tensor, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The gradient at the centre tap."""
        return {key: gradient[centre(gradient)] for key in trained}

    def bits(self, shape: tuple[int, ...], *, tasks: int = 1, masked: int = 0) -> int:
        """32 per value of A."""
        return 32 * tasks * shape[0] * shape[1] if is_spatial(shape) else 0


def is_spatial(shape: tuple[int, ...]) -> bool:
    """Whether a weight has more than one tap."""
    return math.prod(shape[2:]) > 1


def centre(weight: Tensor) -> tuple[slice, ...]:
    """Where the centre tap of a weight is, as an index that keeps its dimensions."""
    return (slice(None), slice(None), *(slice(size // 2, size // 2 + 1) for size in weight.shape[2:]))
