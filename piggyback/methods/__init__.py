"""Methods: what a task changes about a pretrained network.  One small file each.

A method works on one weight tensor at a time and is pure: the adapter owns the tensors, the optimizer the
moments.  Its contract is `Method`, with what only some need in `Follows`, `StoresSome` and `AddsModules`; the tests
run the same laws over every entry of `METHODS`.  ``docs/adding-a-method.md`` walks through one.
"""

from collections.abc import Mapping
from dataclasses import is_dataclass, replace
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any, Final, Literal, Protocol, cast, get_args, runtime_checkable

from torch import Tensor, nn

from piggyback.shell.errors import BadInput, UnknownName

Adapts = Literal["head", "norm", "weights", "modules", "everything", "anew"]
StandsOn = Literal["backbone", "pruned", "joint"]
GROUP: Final = "piggyback.methods"  # entry points: methods of other packages


@runtime_checkable
class Method(Protocol):
    """What a method promises.  A frozen dataclass: its fields are the settings that recipes and payloads carry.

    Attributes:
        name: the same in recipes, payloads and tables.
        adapts: ``head``: nothing of the network changes; ``norm``: norm layers are trained; ``weights``:
            convolution and linear weights, each through the four functions below; ``modules``: layers get modules
            behind them (`AddsModules`); ``everything``: all parameters are trained in place, from the backbone;
            ``anew``: the same from random ones.  All but ``everything`` and ``anew`` leave frozen weights alone.
        stands_on: the frozen weights: the backbone's, or those of a copy of its own that was ``pruned`` first or
            trained on all tasks (``joint``).
        merge: whether a merged plain network gives exactly the logits of the adapted one, or close ones (1e-5).
    """

    @property
    def name(self) -> str:
        """As above."""
        ...

    @property
    def adapts(self) -> Adapts:
        """As above."""
        ...

    @property
    def stands_on(self) -> StandsOn:
        """As above."""
        ...

    @property
    def merge(self) -> Literal["exact", "close"]:
        """As above."""
        ...

    def start(self, weight: Tensor) -> dict[str, Tensor]:
        """The tensors of a fresh task for `weight`; those without a gradient by `pull_back` stay as they are."""
        ...

    def keep(self, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What a finished task keeps of them; boolean tensors are stored as bits."""
        ...

    def apply(self, weight: Tensor, kept: Mapping[str, Tensor]) -> Tensor:
        """The effective weight, of the shape of `weight`."""
        ...

    def pull_back(self, gradient: Tensor, weight: Tensor, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The loss gradient for each tensor that is trained, from the one for the effective weight."""
        ...

    def bits(self, shape: tuple[int, ...], *, tasks: int = 1, masked: int = 0) -> int:
        """Bits that tasks add for one weight by the paper's convention: no heads, norm layers or biases.

        Args:
            shape: of the weight.
            tasks: how many are added to the backbone's own.
            masked: mask values that are off, for methods whose size depends on it.
        """
        ...


@runtime_checkable
class Follows(Protocol):
    """A method whose tasks build on one another, as PackNet's."""

    def follow(self, weight: Tensor, earlier: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """In place of `start`: from what the task before it keeps."""
        ...


@runtime_checkable
class StoresSome(Protocol):
    """A method of whose numbers only some mean anything, so that only those are stored."""

    def stored(self, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """For such parts, where their values are stored (bool, of the part's shape), told by the other parts.

        Elsewhere they are zero.
        """
        ...


@runtime_checkable
class AddsModules(Protocol):
    """A method that lets modules work on what layers give."""

    def module(self, layer: nn.Module) -> nn.Module | None:
        """A fresh module for a layer's output, of the same shape; None where the layer gets none."""
        ...

    def fold(self, weight: Tensor, bias: Tensor | None, module: nn.Module) -> tuple[Tensor, Tensor]:
        """Weight and bias of one layer that does what the layer and its module do in evaluation mode."""
        ...


@runtime_checkable
class HasMasks(Protocol):
    """A method with a threshold that its real masks start above."""

    @property
    def threshold(self) -> float:
        """Real masks above it are on."""
        ...

    @property
    def init(self) -> float:
        """Every real mask value at the start."""
        ...


def set_masks(method: Method, *, threshold: float, init: float) -> Method:
    """The method with these settings, where it has masks."""
    if isinstance(method, HasMasks):
        return cast(Method, replace(cast(Any, method), threshold=threshold, init=init))
    return method


def named_method(name: str) -> Method:
    """The method of that name with its default settings: one of ours, or one of an installed package.

    Raises:
        UnknownName: naming the nearest one.
        BadInput: a package offers it that cannot be loaded, or that keeps no contract.
    """
    if name in METHODS:
        return METHODS[name]
    offered = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in offered:
        raise UnknownName(name, known=(*METHODS, *offered), kind="method")
    entry = offered[name]
    try:
        made: object = entry.load()()
    except Exception as fault:  # whatever somebody's package raises; reported, not swallowed
        raise BadInput(f"method {name!r} of {entry.value} cannot be loaded: {fault}") from fault
    if not isinstance(made, Method) or made.name != name or not is_declared(made):
        raise BadInput(f"{entry.value} is no method called {name!r}: see docs/adding-a-method.md")
    return made


def is_declared(method: Method) -> bool:
    """Whether a method is a frozen dataclass, and declares what is known here."""
    kind: Any = type(method)  # a protocol says nothing of either
    frozen = is_dataclass(kind) and kind.__hash__ is not None  # equal settings are one method
    return (
        frozen
        and method.adapts in get_args(Adapts)
        and method.stands_on in get_args(StandsOn)
        and method.merge in ("exact", "close")
        and (method.adapts == "modules") == isinstance(method, AddsModules)
    )


from piggyback.methods.affine import Affine  # noqa: E402 -- the contract above must exist first
from piggyback.methods.binary import Binary  # noqa: E402
from piggyback.methods.dan import DAN  # noqa: E402
from piggyback.methods.feature import Feature  # noqa: E402
from piggyback.methods.finetune import Finetune  # noqa: E402
from piggyback.methods.joint import Joint  # noqa: E402
from piggyback.methods.ksm import KSM  # noqa: E402
from piggyback.methods.norm import Norms  # noqa: E402
from piggyback.methods.packnet import PackNet  # noqa: E402
from piggyback.methods.parallel import Parallel  # noqa: E402
from piggyback.methods.scratch import Scratch  # noqa: E402
from piggyback.methods.series import Series  # noqa: E402
from piggyback.methods.series_joint import SeriesJoint  # noqa: E402
from piggyback.methods.ternary import Ternary  # noqa: E402

METHODS: Final[Mapping[str, Method]] = MappingProxyType(
    {
        method.name: method
        for method in (
            Binary(),
            Ternary(),
            Feature(),
            Finetune(),
            Scratch(),
            Norms(),
            Affine(),
            KSM(),
            PackNet(),
            Joint(),
            Series(),
            SeriesJoint(),
            Parallel(),
            DAN(),
        )
    }
)
