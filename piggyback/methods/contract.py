"""The contract of a method.

A method works on one weight tensor at a time and is pure: the adapter owns the tensors, the optimizer the moments.
`Method` is what all of them promise; `Follows`, `Prunes`, `StoresSome`, `AddsModules` and `HasMasks` are what only some
do.  The tests run the same laws over every method of the table.
"""

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from torch import Tensor, nn

from piggyback.methods.table import StandsOn

Adapts = Literal["head", "norm", "weights", "modules", "everything", "anew"]


@runtime_checkable
class Method(Protocol):
    """What every method promises.

    A method is a frozen dataclass: its fields are the settings that recipes and payloads carry.
    """

    @property
    def name(self) -> str:
        """The same in recipes, payloads and tables."""

    @property
    def adapts(self) -> Adapts:
        """What a task changes.

        ``head``: nothing of the network; ``norm``: norm layers are trained; ``weights``: convolution and linear
        weights, each through the four functions below; ``modules``: layers get modules behind them (`AddsModules`);
        ``everything``: all parameters are trained in place, from the backbone's; ``anew``: the same from random ones.
        """

    @property
    def stands_on(self) -> StandsOn:
        """The network whose weights are frozen.

        The ``backbone`` itself, a copy that was ``pruned`` first (`Prunes`), or a copy that was trained on all tasks
        together (``joint``).
        """

    @property
    def merge(self) -> Literal["exact", "close"]:
        """Whether a merged plain network gives the logits of the adapted one exactly, or close to 1e-5."""

    def start(self, weight: Tensor) -> dict[str, Tensor]:
        """The tensors of a fresh task for `weight`; `pull_back` need not have a gradient for each."""

    def keep(self, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What a finished task keeps of them; boolean tensors are stored as bits."""

    def apply(self, weight: Tensor, kept: Mapping[str, Tensor]) -> Tensor:
        """The effective weight, of the shape of `weight`."""

    def pull_back(self, gradient: Tensor, weight: Tensor, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The loss gradient for each tensor that is trained, computed from that for the effective weight."""

    def bits(self, shape: tuple[int, ...], *, tasks: int = 1, masked: int = 0) -> int:
        """Bits that tasks add for one weight by the paper's convention: no heads, norm layers or biases.

        Args:
            shape: of the weight.
            tasks: how many are added to the backbone's own.
            masked: mask values that are off, for methods whose size depends on it.
        """


@runtime_checkable
class Follows(Protocol):
    """A method each of whose tasks builds on the one before it."""

    def for_tasks(self, count: int) -> Method:
        """The method set up for a sequence of so many tasks."""

    def follow(self, weight: Tensor, earlier: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Called in place of `start` for all tasks but the first, with what the task before keeps of the weight."""


@runtime_checkable
class Prunes(Protocol):
    """A method whose tasks give weights back, on a network that was pruned before the first of them."""

    def first(self, share: float) -> Method:
        """The method by which that network is made: it prunes so large a share of each weight, and trains the rest."""

    def prune(self, trained: Mapping[str, Tensor], *, share: float, name: str) -> None:
        """Give back a share of what the task owns of one weight, in place.

        Args:
            trained: the tensors of the task for that weight.
            share: of the weights that the task owns there.
            name: the weight's, for messages.
        """


@runtime_checkable
class StoresSome(Protocol):
    """A method some of whose numbers mean nothing, so that payloads leave them out."""

    def stored(self, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """For each such part, the places of the values that are stored (bool, of the part's shape); others are zero.

        A reader has only the other parts to compute them from.
        """


@runtime_checkable
class AddsModules(Protocol):
    """A method that puts modules behind layers, to work on their outputs."""

    def module(self, layer: nn.Module) -> nn.Module | None:
        """A fresh module for a layer's output, of the same shape; None where the layer gets none."""

    def fold(self, weight: Tensor, bias: Tensor | None, module: nn.Module) -> tuple[Tensor, Tensor]:
        """Weight and bias of a single layer that does what the layer and its module do in evaluation mode."""


@runtime_checkable
class HasMasks(Protocol):
    """A method with real masks, which start above a threshold."""

    @property
    def threshold(self) -> float:
        """Real masks above it are on."""

    @property
    def init(self) -> float:
        """The value of every real mask at the start."""


class LeavesWeights:
    """The four functions of a method that changes no weight by them: it trains something else, or nothing."""

    def start(self, weight: Tensor) -> dict[str, Tensor]:
        """No tensors."""
        return {}

    def keep(self, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """No tensors."""
        return {}

    def apply(self, weight: Tensor, kept: Mapping[str, Tensor]) -> Tensor:
        """The frozen weight itself."""
        return weight

    def pull_back(self, gradient: Tensor, weight: Tensor, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """No gradients."""
        return {}


def keeps_contract(method: Method) -> bool:
    """Whether a method is a frozen dataclass whose declarations are known here and agree with what it has."""
    kind: Any = type(method)  # a protocol says nothing of either
    frozen = is_dataclass(kind) and kind.__hash__ is not None  # equal settings are one method
    return (
        frozen
        and method.adapts in get_args(Adapts)
        and method.stands_on in get_args(StandsOn)
        and method.merge in ("exact", "close")
        and (method.adapts == "modules") == isinstance(method, AddsModules)
        and (method.stands_on == "pruned") == isinstance(method, Prunes)
    )
