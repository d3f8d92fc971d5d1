"""FCN-32s on a VGG-style network, for pictures of any size.

Source: Long, Shelhamer and Darrell, CVPR 2015, and ``voc-fcn32s/net.py`` of
github.com/shelhamer/fcn.berkeleyvision.org: padding of 100 in the first convolution, 2x2 pooling that rounds up, fc6
as a 7x7 convolution, a score layer that starts at zero, a 64x64 deconvolution of stride 32 that starts as bilinear
interpolation, and a crop at 19.

With torch's usual pooling, which rounds down, the upscored map would be smaller than the picture for 360 heights
below 1000, 375 among them, and there would be no map at all for heights up to 25.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import conv_transpose2d

Margin = Literal["fcn", "same"]
Deconvolution = Literal["learned", "fixed"]

STRIDE: Final = 32
KERNEL: Final = 64
FC6_KERNEL: Final = 7
# Padding of the first convolution and of fc6.  "fcn" is the published one; with "same" the maps just cover the
# picture, which costs a fifth of the time for pictures of 128 pixels.
PADDINGS: Final[dict[Margin, tuple[int, int]]] = {"fcn": (100, 0), "same": (1, 3)}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Widths of a VGG-style network.

    Attributes:
        channels: of the convolutions of each of the five stages.
        hidden: channels of fc6 and fc7.
    """

    channels: tuple[tuple[int, ...], ...]
    hidden: int

    def __post_init__(self) -> None:
        if len(self.channels) != 5 or not all(self.channels) or min(map(min, self.channels)) < 1 or self.hidden < 1:
            raise ValueError(f"a VGG has five stages with a convolution each and hidden layers, not {self}")


VGG16: Final = Shape(channels=((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3), hidden=4096)


class FCN32s(nn.Module):
    """Features, hidden layers and a slot for a task's head; from ``(n, 3, h, w)`` to logits ``(n, classes, h, w)``.

    Args:
        shape: the widths.
        hidden: whether fc6 and fc7 are the backbone's; else they belong to the head.
        margin: the paddings, see `PADDINGS`.
        dropout: after fc6 and fc7, element-wise.

    The convolutions are called as in torchvision's VGG-16: ``features.0``, ``features.2``, ``features.5`` ...
    """

    def __init__(self, shape: Shape, *, hidden: bool = True, margin: Margin = "fcn", dropout: float = 0.5) -> None:
        super().__init__()
        self.shape, self.margin, self.dropout = shape, margin, dropout
        first, fc6 = PADDINGS[margin]
        self.offset = crop_offset(first, fc6)
        self.features = make_features(shape, padding=first)
        self.hidden = make_hidden(shape, padding=fc6, dropout=dropout) if hidden else nn.Identity()
        self.head: nn.Module = nn.Identity()

    def forward(self, pictures: Tensor) -> Tensor:
        height, width = pictures.shape[-2:]
        maps: Tensor = self.head(self.hidden(self.features(pictures)))
        here = self.offset
        return maps[..., here : here + height, here : here + width]


def crop_offset(first: int, fc6: int) -> int:
    """Where the picture begins in the upscored map, by the paddings of the first convolution and of fc6.

    A cell of fc6's output is centred at 32 (k + 3 - fc6) + 15.5 - (first - 1) pixels, the kernel that draws it at
    32 k + 31.5 of the upscored map; the difference is the offset, 19 for (100, 0).
    """
    return first + STRIDE * fc6 - 81


def make_features(shape: Shape, *, padding: int) -> nn.Sequential:
    """Five stages of 3x3 convolutions, each with ReLU, and pooling that rounds up."""
    layers: list[nn.Module] = []
    before = 3
    for stage in shape.channels:
        for channels in stage:
            layers += [nn.Conv2d(before, channels, 3, padding=1 if layers else padding), nn.ReLU(inplace=True)]
            before = channels
        layers.append(nn.MaxPool2d(2, 2, ceil_mode=True))
    return nn.Sequential(*layers)


def make_hidden(shape: Shape, *, padding: int, dropout: float) -> nn.Sequential:
    """Fc6 and fc7 as convolutions, each with ReLU and dropout."""
    return nn.Sequential(
        OrderedDict(
            fc6=nn.Conv2d(shape.channels[-1][-1], shape.hidden, FC6_KERNEL, padding=padding),
            relu6=nn.ReLU(inplace=True),
            drop6=nn.Dropout(dropout),
            fc7=nn.Conv2d(shape.hidden, shape.hidden, 1),
            relu7=nn.ReLU(inplace=True),
            drop7=nn.Dropout(dropout),
        )
    )


def make_head(network: FCN32s, *, classes: int, deconvolution: Deconvolution) -> nn.Sequential:
    """Layers that a task trains from scratch: score layer, deconvolution, and fc6 and fc7 if the backbone has none.

    New hidden layers start by He's rule, as ReLUs follow them; the score layer starts at zero, so that the first
    loss is ln(classes).
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if isinstance(network.hidden, nn.Identity):
        hidden = make_hidden(network.shape, padding=PADDINGS[network.margin][1], dropout=network.dropout)
        for layer in hidden:
            if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
        layers["hidden"] = hidden
    score = nn.Conv2d(network.shape.hidden, classes, 1)
    nn.init.zeros_(score.weight)
    if score.bias is not None:
        nn.init.zeros_(score.bias)
    layers["score"] = score
    layers["upscore"] = LearnedUpscore(classes) if deconvolution == "learned" else BilinearUpscore(classes)
    return nn.Sequential(layers)


def bilinear_kernel(side: int) -> Tensor:
    """Weights ``(side, side)`` with which a deconvolution of stride side / 2 interpolates bilinearly."""
    centre = (side - 1) / 2
    slope = 1 - (torch.arange(side, dtype=torch.float64) - centre).abs() / (side // 2)
    return torch.outer(slope, slope).float()


class BilinearUpscore(nn.Module):
    """Bilinear interpolation by a fixed deconvolution; nothing is trained and nothing is stored."""

    kernel: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("kernel", bilinear_kernel(KERNEL).repeat(classes, 1, 1, 1), persistent=False)

    def forward(self, scores: Tensor) -> Tensor:
        """Maps 32 times as large, and 32 more pixels."""
        return conv_transpose2d(scores, self.kernel.to(scores.dtype), stride=STRIDE, groups=len(self.kernel))


class LearnedUpscore(nn.ConvTranspose2d):
    """A full deconvolution, from every class to every class, that starts as bilinear interpolation."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes, classes, KERNEL, stride=STRIDE, bias=False)
        with torch.no_grad():
            self.weight.zero_()
            self.weight[range(classes), range(classes)] = bilinear_kernel(KERNEL)


def shape_of(channels: Sequence[Sequence[int]], *, hidden: int) -> Shape:
    """A shape from lists, as JSON has them."""
    return Shape(channels=tuple(tuple(stage) for stage in channels), hidden=hidden)
