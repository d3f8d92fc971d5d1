"""The watch over a network's tensors: has anybody written to them since the adapter did?

torch counts the in-place writes to a tensor in ``_version`` (its notes on autograd mechanics, "In-place correctness
checks"), so that a look costs a comparison of integers.  Not counted are, in torch 2.14, writes through ``.data``, by
fused optimizers and by batch norm to its statistics; they are found by the values, which `Overlay.look` compares.
"""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from piggyback.network.anatomy import join, persistent_tensors, walk
from piggyback.shell.errors import BadInput, NetworkChanged

SHOWN = WeakTensorKeyDictionary()
"""By parameter, the name of the task that an adapter shows there; it outlives the adapter, as the task's weights do."""


@dataclass
class Place:
    """Where a module keeps a tensor.

    Attributes:
        name: of the tensor, in the network.
        kind: the module's class, for messages.
        holder: the module's own dict of parameters or of buffers.
        key: in that dict.
        tensor: what the adapter found there.
        version: how often the tensor had been written to when the adapter last did; None for one that was made in
            inference mode, whose writes torch does not count.
    """

    name: str
    kind: str
    holder: dict[str, Any]
    key: str
    tensor: Tensor
    version: int | None

    @property
    def is_written(self) -> bool:
        """Whether torch has counted a write to the tensor since."""
        return self.version is not None and self.tensor._version != self.version

    @property
    def now(self) -> Tensor | None:
        """What stands there now: ``network.to()`` replaces buffers, and assigning replaces parameters."""
        found: Tensor | None = self.holder.get(self.key)
        return found


class View:
    """Parameters and buffers of a network as the adapter left them.

    Attributes:
        places: of parameters and persistent buffers, by name.
        caches: of other buffers, by name: what no state dict has, and no payload.
    """

    def __init__(self, network: nn.Module, task: str | None = None) -> None:
        self.network = network
        self.task = task
        self.places: dict[str, Place] = {}
        self.caches: dict[str, Place] = {}
        self.remember(task)

    def __reduce__(self) -> tuple[type["View"], tuple[nn.Module, str | None]]:
        return View, (self.network, self.task)  # copies of tensors are counted from the beginning

    def remember(self, task: str | None) -> None:
        """Take what the network holds now for the adapter's own writing.

        Args:
            task: the one that it shows; None for the backbone.
        """
        self.task = task
        self.places, self.caches = find_places(self.network)
        for place in self.places.values():
            if task is not None:
                SHOWN[place.tensor] = task
            elif place.tensor in SHOWN:
                del SHOWN[place.tensor]

    def accept(self, names: Iterable[str]) -> None:
        """The same for some tensors, after a step."""
        for name in names:
            place = self.places[name]
            place.tensor = cast(Tensor, place.now)
            place.version = count_writes(place.tensor)

    def touched(self, watched: Container[str]) -> list[str]:
        """Names of watched tensors that were replaced, or written to by others in a way that torch counts."""
        return [
            name
            for name, place in self.places.items()
            if (place.is_written or place.now is not place.tensor) and name in watched
        ]

    def put_back(self, watched: Container[str]) -> None:
        """Put parameters back that were replaced by others: ties and optimizers have the ones that were there."""
        ours = {id(place.tensor) for name, place in self.places.items() if name in watched}
        for place in self.places.values():
            if isinstance(place.tensor, nn.Parameter) and place.now is not place.tensor and id(place.tensor) in ours:
                place.holder[place.key] = place.tensor

    def refuse_moved_caches(self) -> None:
        """Raise NetworkChanged if a buffer that no payload holds was written to; one replaced by another is a cache."""
        for name, place in self.caches.items():
            if place.now is place.tensor and place.is_written:
                raise NetworkChanged(
                    f"the buffer {name!r} of a {place.kind} moves in training, and as it is not persistent no payload "
                    "could hold it: put that module into evaluation mode after adapter.train(), or leave it out"
                )

    def refuse_replaced(self, stepped: Mapping[str, Tensor]) -> None:
        """Raise NetworkChanged unless the network still has the parameters that an optimizer steps, by name."""
        for name, parameter in stepped.items():
            place = self.places.get(name)
            if place is None or place.now is not parameter:
                raise NetworkChanged(
                    f"{name!r} is another tensor than when the optimizer was made, which would train one that the "
                    "network does not use: fill the head's slot by add_task(head=...) alone, or make a new optimizer"
                )

    def explain(self, changed: Sequence[str]) -> str:
        """The message for tensors that were changed by others."""
        others = f" ({len(changed)} tensors in all)" if len(changed) > 1 else ""
        return (
            f"{self._guess(changed[0])}{others}. The network only shows what the adapter keeps, so the change would be "
            "lost: train with adapter.optimizer(), load weights before the first task, and keep buffers from moving. "
            "adapter.restore() puts back what the network showed"
        )

    def _guess(self, name: str) -> str:
        """What has likely become of a tensor, in words."""
        place = self.places[name]
        if isinstance(place.tensor, nn.Parameter):
            if place.now is not place.tensor:
                return f"{name!r} was replaced, as load_state_dict(assign=True), pruning and parametrizations do"
            return (
                f"{name!r} was changed by something else than the adapter, such as another optimizer over "
                "network.parameters(), load_state_dict or a second adapter"
            )
        return f"the buffer {name!r} was changed, by its own {place.kind} in the forward pass or by load_state_dict"


def count_writes(tensor: Tensor) -> int | None:
    """How often a tensor has been written to, as torch counts it; None for one that was made in inference mode."""
    return None if tensor.is_inference() else tensor._version


def find_places(network: nn.Module) -> tuple[dict[str, Place], dict[str, Place]]:
    """Where a network keeps its parameters and persistent buffers, and its other buffers, by plain name.

    Shared ones are there under each of their names.
    """
    found: dict[str, Place] = {}
    caches: dict[str, Place] = {}
    for prefix, module in walk(network):
        for holder in (module._parameters, module._buffers):
            for key, tensor in holder.items():
                if tensor is not None:
                    name = join(prefix, key)
                    kept = caches if key in module._non_persistent_buffers_set else found
                    kept[name] = Place(name, type(module).__name__, holder, key, tensor, count_writes(tensor))
    return found, caches


def refuse_if_shown(network: nn.Module) -> None:
    """Raise BadInput if the network holds the weights of some adapter's task, which are not a backbone's."""
    places, _ = find_places(network)
    for place in places.values():
        if place.tensor in SHOWN:
            raise BadInput(
                f"the network shows task {SHOWN[place.tensor]!r} of another adapter, whose weights are no backbone's: "
                "call that adapter's base() first, or attach to a copy made by its merged(task)"
            )


@contextmanager
def kept_if_failing(network: nn.Module) -> Iterator[None]:
    """Put modes and gradients of a network back as they were if the block raises."""
    modes = {module: module.training for module in network.modules()}
    gradients = {parameter: parameter.grad for parameter in network.parameters()}
    try:
        yield
    except BaseException:
        for module, mode in modes.items():
            module.training = mode
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
        raise


def holds(tensor: Tensor, expected: Tensor, *, rounded: bool) -> bool:
    """Whether a tensor of the network has the values that it should.

    Args:
        tensor: of the network.
        expected: in any floating-point type.
        rounded: small differences are fine, since compiled code may round otherwise than eager code does.
    """
    if tensor.shape != expected.shape:
        return False
    if equal_bits(tensor, expected.to(tensor.dtype)):
        return True
    if not tensor.is_floating_point():
        return False
    for kind in (torch.float16, torch.bfloat16):  # network.half() and float() again
        if equal_bits(tensor, expected.to(kind).to(tensor.dtype)):
            return True
    size = float(expected.abs().max()) if expected.numel() else 0.0
    near = max(1e-5, torch.finfo(tensor.dtype).eps)  # half precision may round to the next number
    return rounded and torch.allclose(tensor, expected.to(tensor.dtype), rtol=near, atol=1e-6 * size)


def equal_bits(tensor: Tensor, other: Tensor) -> bool:
    """Whether all values are equal, where NaN counts as equal to itself."""
    if torch.equal(tensor, other):
        return True
    return tensor.is_floating_point() and bool(((tensor == other) | (tensor.isnan() & other.isnan())).all())


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What an overlay found and left of the parameters' ``requires_grad``, by name.

    Attributes:
        found: parameters outside the heads that asked for no gradients before the network was attached.
        left: all that ask for none since the overlay has last shown something.
    """

    found: frozenset[str]
    left: frozenset[str]


FLAGS: Final[WeakKeyDictionary[nn.Module, Flags]] = WeakKeyDictionary()


def frozen_by_user(network: nn.Module) -> frozenset[str]:
    """Names of parameters that ask for no gradients because the user wants it so.

    An adapter leaves parameters so as well, and may be gone by now: while nobody else has touched them since, what it
    found counts.
    """
    now = asking_for_none(network)
    before = FLAGS.get(network)
    return before.found if before is not None and before.left == now else now


def asking_for_none(network: nn.Module) -> frozenset[str]:
    """Names of parameters that could ask for gradients and do not."""
    return frozenset(
        name
        for name, tensor in persistent_tensors(network).items()
        if isinstance(tensor, nn.Parameter) and not tensor.requires_grad and tensor.is_floating_point()
    )
