"""The pre-activation wide residual network of the Decathlon experiments.

Source: Zagoruyko and Komodakis, *Wide Residual Networks*, BMVC 2016, in the form that Rosenfeld and
Tsotsos trained on the 64 px ImageNet of the Visual Decathlon (DAN, cells 37-38 of their notebook) and
that Piggyback uses (paper section 6): no convolution has a bias, and the first convolution of the first
block of *each* group has stride 2, so 64 px pictures leave the last group as 8 x 8 maps.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (16, 32, 64)  # channels of the three groups before widening; the first also of conv1


class Block(nn.Module):
    """Two 3x3 convolutions with batch norm and ReLU before each, and a shortcut around both.

    Where the channels or the resolution change, the shortcut is a 1x1 convolution of the normalised
    input; elsewhere it is the input itself.  Maps ``(n, inner, h, w)`` to ``(n, outer, h/stride, w/stride)``.
    """

    def __init__(self, inner: int, outer: int, *, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv1 = nn.Conv2d(inner, outer, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, padding=1, bias=False)
        self.has_shortcut_conv = inner != outer or stride != 1  # the latter alone only when widen is 1
        if self.has_shortcut_conv:
            # The name is the one that published checkpoints use.
            self.convShortcut = nn.Conv2d(inner, outer, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        shortcut = self.convShortcut(out) if self.has_shortcut_conv else x
        out = F.relu(self.bn2(self.conv1(out)))
        return cast(Tensor, self.conv2(out) + shortcut)


class Group(nn.Module):
    """Blocks of one width; only the first has a stride."""

    def __init__(self, inner: int, outer: int, *, blocks: int, stride: int) -> None:
        super().__init__()
        first = Block(inner, outer, stride=stride)
        rest = [Block(outer, outer, stride=1) for _ in range(blocks - 1)]
        self.layer = nn.Sequential(first, *rest)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, inner, h, w)`` to ``(n, outer, h/stride, w/stride)``."""
        return cast(Tensor, self.layer(x))


class WideResNet(nn.Module):
    """WRN-``depth``-``widen`` for pictures of any size from 8 px up; 64 and 72 px are the Decathlon's.

    Args:
        depth: 6 n + 4, where n is the number of blocks in each of the three groups.
        widen: factor on the widths 16, 32, 64.
        classes: length of the logits.

    Maps RGB pictures ``(n, 3, h, w)``, normalised, to logits ``(n, classes)``.  The pooling is adaptive:
    the fixed 8 x 8 average of the first implementations silently drops a row and a column at 72 px.

    Raises:
        ValueError: `depth` is not 6 n + 4 with n >= 1.
    """

    def __init__(self, depth: int = 28, widen: int = 4, *, classes: int) -> None:
        super().__init__()
        blocks, remainder = divmod(depth - 4, 6)
        if remainder or blocks < 1:
            raise ValueError(f"a wide residual network has depth 6 n + 4 (10, 16, 22, 28, ...), not {depth}")
        widths = [width * widen for width in WIDTHS]
        self.depth, self.widen = depth, widen
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)
        self.block1 = Group(WIDTHS[0], widths[0], blocks=blocks, stride=2)
        self.block2 = Group(widths[0], widths[1], blocks=blocks, stride=2)
        self.block3 = Group(widths[1], widths[2], blocks=blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(widths[2])
        self.fc = nn.Linear(widths[2], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, 3, h, w)`` to logits ``(n, classes)``."""
        out = self.block3(self.block2(self.block1(self.conv1(x))))
        out = F.relu(self.bn1(out))
        return cast(Tensor, self.fc(F.adaptive_avg_pool2d(out, 1).flatten(1)))


def wide_resnet(depth: int = 28, widen: int = 4, *, classes: int, seed: int) -> WideResNet:
    """A freshly drawn network; the same `seed` gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return WideResNet(depth, widen, classes=classes)
