"""Series residual adapters on one network that is trained on all tasks together with them.

Source: "Res. Adapt. (J)" of table 8: Rebuffi, Bilen, Vedaldi, NIPS 2017, where the shared weights are fine-tuned on all
tasks at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from torch import Tensor, nn

from piggyback.methods.series import Series

ADAPTERS: Final = Series()


@dataclass(frozen=True, kw_only=True)
class SeriesJoint:
    """As `Series`, but on a backbone that was trained on all tasks, each through its own adapters and norm layers."""

    name: Literal["series-joint"] = "series-joint"
    adapts: Literal["modules"] = "modules"
    stands_on: Literal["joint"] = "joint"
    merge: Literal["close"] = "close"

    def start(self, weight: Tensor) -> dict[str, Tensor]:
        """Nothing of a weight is the task's alone."""
        return ADAPTERS.start(weight)

    def keep(self, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Nothing of a weight is the task's alone."""
        return ADAPTERS.keep(trained)

    def apply(self, weight: Tensor, kept: Mapping[str, Tensor]) -> Tensor:
        """The shared weight."""
        return ADAPTERS.apply(weight, kept)

    def pull_back(self, gradient: Tensor, weight: Tensor, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Nothing of a weight is the task's alone."""
        return ADAPTERS.pull_back(gradient, weight, trained)

    def module(self, layer: nn.Module) -> nn.Module | None:
        """As `Series.module`."""
        return ADAPTERS.module(layer)

    def fold(self, weight: Tensor, bias: Tensor | None, module: nn.Module) -> tuple[Tensor, Tensor]:
        """As `Series.fold`."""
        return ADAPTERS.fold(weight, bias, module)

    def bits(self, shape: tuple[int, ...], *, tasks: int = 1, masked: int = 0) -> int:
        """As `Series.bits`."""
        return ADAPTERS.bits(shape, tasks=tasks, masked=masked)
