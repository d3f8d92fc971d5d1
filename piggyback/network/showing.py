"""What the network should hold while it shows a task, and whether it does."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from piggyback.masks.packed_masks import shows_masked
from piggyback.network.task_state import TaskState
from piggyback.network.view import Place, count_writes, holds
from piggyback.numerics.precision import wide


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What is known of the adapter's last writing into the network.

    Attributes:
        rounded: compiled updates wrote, which may round otherwise than eager code does.
        writes: by weight, its tensors in training (their ids, as a copy of them knows nothing of this), and how often
            each had been written to by then, as torch counts it.
    """

    rounded: bool = False
    writes: Mapping[str, Mapping[int, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, state: TaskState | None, *, rounded: bool = False) -> "Shown":
        """What there is to know when a task, or the backbone, has just been written."""
        names = state.trained if state is not None else {}
        return cls(rounded=rounded, writes={name: writes_to(state, name) for name in names} if state else {})

    def is_behind(self, state: TaskState, name: str) -> bool:
        """Whether a weight's tensors in training have been written to since."""
        before, now = self.writes.get(name, {}), writes_to(state, name)
        return before.keys() == now.keys() and before != now


def writes_to(state: TaskState, name: str) -> dict[int, int]:
    """How often each of a weight's tensors in training has been written to, as torch counts it."""
    return {id(tensor): count_writes(tensor) or 0 for tensor in state.trained.get(name, {}).values()}


def shows_weight(place: Place, frozen: Tensor, *, state: TaskState | None, shown: Shown) -> bool:
    """Whether a tensor of the network has the value that a task, or the backbone, gives it.

    Args:
        place: of the tensor.
        frozen: what the backbone has there, or a task that moves no more has for itself.
        state: of the task; None for the backbone.
        shown: the adapter's last writing.
    """
    tensor, name = place.now, place.name
    if tensor is None or (isinstance(tensor, nn.Parameter) and tensor is not place.tensor):
        return False  # an optimizer would go on with the one that was there
    frozen = frozen.to(tensor.device)
    if state is None or not (name in state.trained or name in state.kept):
        return holds(tensor, frozen, rounded=False)
    if shown.is_behind(state, name) and not place.is_written:
        return True  # it is the real mask that has been written to by hand, and the network is yet to show it
    packed = state.packed_of(name)
    if packed is not None and packed.bits.device == tensor.device and shows_masked(tensor, frozen, packed):
        return True
    kept = {key: part.to(tensor.device) for key, part in state.kept_of(name).items()}
    return holds(tensor, state.method.apply(wide(frozen), kept), rounded=shown.rounded)
