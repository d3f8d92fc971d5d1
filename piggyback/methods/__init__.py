"""Methods: what a task changes about a frozen network.  One small file each.

A method works on one weight tensor at a time and is pure: the adapter owns the tensors, the optimizer the
moments.  Its contract is `Method`; the tests run the same laws over every entry of `METHODS`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, Protocol

from torch import Tensor

from piggyback.errors import UnknownName

Adapts = Literal["head", "weights", "everything"]


class Method(Protocol):
    """What a method promises.

    Attributes:
        name: the same in recipes, payloads and tables.
        adapts: ``head``: nothing of the network changes; ``weights``: convolution and linear weights, each
            through the four functions below; ``everything``: all parameters are trained in place.
        merge: whether a merged plain network gives exactly the logits of the adapted one, or close ones.
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
    def merge(self) -> Literal["exact", "close"]:
        """As above."""
        ...

    def start(self, weight: Tensor) -> dict[str, Tensor]:
        """The trained tensors of a fresh task for `weight`, in its layout."""
        ...

    def keep(self, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What a finished task keeps of the trained tensors; boolean tensors are stored as bits."""
        ...

    def apply(self, weight: Tensor, kept: Mapping[str, Tensor]) -> Tensor:
        """The effective weight, of the shape of `weight`."""
        ...

    def pull_back(self, gradient: Tensor, weight: Tensor, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The loss gradient for each trained tensor, from the one for the effective weight."""
        ...

    def bits(self, weights: int) -> int:
        """Bits that one task needs for a tensor of that many weights, by the paper's convention."""
        ...


def named_method(name: str) -> Method:
    """The method of that name with its default settings.

    Raises:
        UnknownName: naming the nearest one.
    """
    try:
        return METHODS[name]
    except KeyError:
        raise UnknownName(name, known=METHODS, kind="method") from None


from piggyback.methods.binary import Binary  # noqa: E402 -- the contract above must exist first
from piggyback.methods.feature import Feature  # noqa: E402
from piggyback.methods.finetune import Finetune  # noqa: E402
from piggyback.methods.ternary import Ternary  # noqa: E402

METHODS: Final[Mapping[str, Method]] = MappingProxyType(
    {method.name: method for method in (Binary(), Ternary(), Feature(), Finetune())}
)
