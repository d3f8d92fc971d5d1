"""One finished task in the place of another: compared and written in one pass over memory."""

from collections.abc import Mapping
from typing import cast

from torch import Tensor

from piggyback.masks.packed_masks import PackedMask, exchange_masked
from piggyback.masks.shelf import Shelf
from piggyback.network.task_state import TaskState
from piggyback.network.view import Place


def are_alike(before: TaskState, after: TaskState) -> bool:
    """Whether two tasks are finished and differ in the bits of their masks, norm layers and heads alone."""
    return (
        isinstance(before.own, Shelf)
        and isinstance(after.own, Shelf)
        and before.own.keys() == after.own.keys()
        and before.kept.keys() == after.kept.keys()
        and not (before.modules or after.modules)
        and all(state.packed_of(name) is not None for state in (before, after) for name in after.kept)
        and before.trunk_type == after.trunk_type
    )


def exchange_weights(
    places: Mapping[str, Place], frozen: Mapping[str, Tensor], *, before: TaskState, after: TaskState
) -> bool:
    """Write the weights of one task over those of another.

    Args:
        places: of the network's tensors.
        frozen: weights of the backbone.
        before: the task that the network shows.
        after: the task that it shall show.

    Returns:
        Whether the network held what `before` has; where it did not, it holds the same again.
    """
    done: list[str] = []
    for name in after.kept:
        held = exchange_masked(places[name].tensor, frozen[name], *pair_of(before, after, name))
        done.append(name)
        if not held:
            for back in reversed(done):
                exchange_masked(places[back].tensor, frozen[back], *pair_of(after, before, back))
            return False
    return True


def pair_of(before: TaskState, after: TaskState, name: str) -> tuple[PackedMask, PackedMask]:
    """The masks of one weight in two tasks that are alike."""
    return cast(PackedMask, before.packed_of(name)), cast(PackedMask, after.packed_of(name))
