"""Frozen weights and masks follow the network's parameters to other devices and memory layouts."""

from collections.abc import Collection, Mapping

from torch import Tensor

from piggyback.masks.packed_masks import PackedMask, move_mask
from piggyback.masks.shelf import Shelf
from piggyback.network.anatomy import like
from piggyback.network.task_state import TaskState


def follow(tensors: Mapping[str, Tensor], *, frozen: dict[str, Tensor], tasks: Collection[TaskState]) -> None:
    """Carry what an overlay keeps to where the network's tensors are.

    Args:
        tensors: of the network, by name.
        frozen: weights of the backbone; those that have to follow are replaced.
        tasks: all of them.
    """
    moved = {name: tensors[name] for name, weight in frozen.items() if is_elsewhere(tensors[name], weight)}
    if not moved:  # there may be a thousand tasks to look through
        return
    for name, target in moved.items():
        frozen[name] = like(frozen[name], target)
        for state in tasks:
            follow_weight(state, name, target)
    for state in tasks:
        own = {name: tensor.to(tensors[name].device) for name, tensor in state.own.items()}
        state.own = Shelf(own) if isinstance(state.own, Shelf) else own


def follow_weight(state: TaskState, name: str, target: Tensor) -> None:
    """Carry what a task has for one weight."""
    kept = state.kept.get(name, {})
    for key, part in [*state.trained.get(name, {}).items(), *kept.items()]:
        if isinstance(part, PackedMask):
            kept[key] = move_mask(part, target)
        # .data: optimizers and checkpoints hold the tensor itself, which must stay the same object
        elif part.shape == target.shape:
            part.data = like(part, target)
        else:
            part.data = part.data.to(target.device)


def is_elsewhere(tensor: Tensor, other: Tensor) -> bool:
    """Whether two tensors differ in device or memory layout."""
    return tensor.device != other.device or tensor.stride() != other.stride()
