"""Series residual adapters: batch norm and a 1x1 convolution behind each larger convolution, with a skip around both.

Source: Rebuffi, Bilen, Vedaldi, *Learning multiple visual domains with residual adapters*, NIPS 2017 ("Res. Adapt." of
table 8), and the authors' code, where they come behind the 3x3 convolutions, before the norm layer; 1x1 shortcuts have
none: https://github.com/srebuffi/residual_adapters/blob/349e141/models.py#L25-L39
"""

from dataclasses import dataclass
from typing import Final, Literal, cast

import torch
from torch import Tensor, nn

from piggyback.methods.contract import LeavesWeights
from piggyback.methods.parallel import is_spatial

FOUR: Final = 4  # dimensions of a two-dimensional convolution's weight


class SeriesAdapter(nn.Module):
    """``y + A norm(y)`` for a layer's output ``(n, c, h, w)``.

    A starts at zero, so that a fresh task is the backbone; the authors' code draws it at random.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.mix = nn.Conv2d(channels, channels, 1, bias=False)
        nn.init.zeros_(self.mix.weight)

    def forward(self, y: Tensor) -> Tensor:
        """The output and its adaptation."""
        return cast(Tensor, y + self.mix(self.norm(y)))


class AddsSeriesAdapters(LeavesWeights):
    """Adapters behind every convolution larger than 1x1, whatever network they are put into."""

    def module(self, layer: nn.Module) -> nn.Module | None:
        """An adapter for a two-dimensional convolution larger than 1x1."""
        if not isinstance(layer, nn.Conv2d) or not is_spatial(tuple(layer.weight.shape)):
            return None
        return SeriesAdapter(layer.out_channels)

    def fold(self, weight: Tensor, bias: Tensor | None, module: nn.Module) -> tuple[Tensor, Tensor]:
        """``(I + A S) W`` and ``(I + A S) b + A t`` for a norm layer that is S y + t, in double precision."""
        adapter = cast(SeriesAdapter, module)
        norm = adapter.norm
        mean, variance = cast(Tensor, norm.running_mean).double(), cast(Tensor, norm.running_var).double()
        scale = norm.weight.double() / torch.sqrt(variance + norm.eps)
        shift = norm.bias.double() - scale * mean
        mix = adapter.mix.weight.double().flatten(1)
        both = torch.eye(len(mix), dtype=mix.dtype, device=mix.device) + mix * scale
        folded = (both @ weight.double().flatten(1)).reshape(weight.shape)
        offset = mix @ shift if bias is None else both @ bias.double() + mix @ shift
        return folded.to(weight.dtype), offset.to(weight.dtype)

    def bits(self, shape: tuple[int, ...], *, tasks: int = 1, masked: int = 0) -> int:
        """32 per value of A; norm layers are not counted.

        A transposed convolution has no adapter, but no other shape than one that has: who knows the layers charges
        only for those that have (`piggyback.budget.parameter_ratio`, `reached`).
        """
        return 32 * tasks * shape[0] ** 2 if len(shape) == FOUR and is_spatial(shape) else 0


@dataclass(frozen=True, kw_only=True)
class Series(AddsSeriesAdapters):
    """Adapters behind every convolution larger than 1x1; weights stay frozen."""

    name: Literal["series"] = "series"
    adapts: Literal["modules"] = "modules"
    stands_on: Literal["backbone"] = "backbone"
    merge: Literal["close"] = "close"
