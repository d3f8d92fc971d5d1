"""PackNet: one network whose weights are dealt out to tasks, one task after the other.

Source: Mallya and Lazebnik, *PackNet: Adding multiple tasks to a single network by iterative pruning*, CVPR 2018, as in
the authors' code (the paper's text could not be read), with Piggyback's section 4 for the shares that it was compared
with.  The pruning: https://github.com/arunmallya/packnet/blob/de4ff7e/src/prune.py#L30-L40

The frozen weights are those of a copy of the backbone that was pruned first: its zeros are the free weights.  A task
trains all free weights, gives back the smallest of them, layer by layer, and goes on with the rest; it uses its own
and those of all tasks before it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

import torch
from torch import Tensor

from piggyback.shell.errors import BadInput

BACKBONE: Final = 1  # owner of the weights that the pruned backbone uses; 0 is nobody, 2 the first task
MOST: Final = 254  # an owner's number is a byte, and 0 and 1 are taken


@dataclass(frozen=True, kw_only=True)
class PackNet:
    """Effective weight: the backbone's own weights, and those of this task and the tasks before it; zero elsewhere.

    Args:
        tasks: how many will be added; fixes the bits of an owner's number.

    Raises:
        ValueError: fewer than one, or more than a byte has numbers for.
    """

    tasks: int = 9
    name: Literal["packnet"] = "packnet"
    adapts: Literal["weights"] = "weights"
    stands_on: Literal["pruned"] = "pruned"
    merge: Literal["exact"] = "exact"

    def __post_init__(self) -> None:
        if type(self.tasks) is not int or not 1 <= self.tasks < MOST:
            raise ValueError(f"PackNet adds 1 to {MOST - 1} tasks, not {self.tasks}")

    def for_tasks(self, count: int) -> "PackNet":
        """With as many bits in an owner's number as so many tasks need."""
        return replace(self, tasks=count)

    def first(self, share: float) -> "FirstPruning":
        """The pruning of the backbone, before all tasks."""
        return FirstPruning(share=share)

    def start(self, weight: Tensor) -> dict[str, Tensor]:
        """``owner`` (uint8; all free weights are the first task's), ``value`` (zeros) and ``task``, its number."""
        return deal(torch.where(weight != 0, BACKBONE, 0).to(torch.uint8), torch.zeros_like(weight), BACKBONE + 1)

    def follow(self, weight: Tensor, earlier: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same for a later task, which gets what the tasks before it left free.

        Raises:
            BadInput: all planned tasks are there already, or no weight is free.
        """
        if int(earlier["task"]) > self.tasks:
            raise BadInput(f"the network has its {self.tasks} tasks already: plan for more of them from the start")
        owner = torch.where(weight != 0, BACKBONE, 0).to(torch.uint8) + join_planes(earlier)
        if bool((owner != 0).all()):
            raise nothing_free(f"a weight of shape {tuple(weight.shape)}", task=int(earlier["task"]))
        return deal(owner, earlier["value"], int(earlier["task"]) + 1)

    def keep(self, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Owners as planes of bits, the values of all tasks so far, and this task's number.

        The backbone's own weights are left out: they are where the frozen weight is not zero.
        """
        owner = trained["owner"]
        later = torch.where(owner > BACKBONE, owner, 0)
        planes = split_planes(later, count=(self.tasks + 1).bit_length())
        return {**planes, "value": torch.where(later > 0, trained["value"], 0.0), "task": trained["task"].clone()}

    def apply(self, weight: Tensor, kept: Mapping[str, Tensor]) -> Tensor:
        """The backbone's weight where it uses one, else the tasks' value; free weights are zero in both."""
        return torch.where(weight != 0, weight, kept["value"])

    def pull_back(self, gradient: Tensor, weight: Tensor, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The gradient for the task's own weights; zero for all others."""
        return {"value": torch.where(trained["owner"] == trained["task"], gradient, 0.0)}

    def stored(self, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Values where some task owns the weight."""
        return {"value": join_planes(kept) > 0}

    def bits(self, shape: tuple[int, ...], *, tasks: int = 1, masked: int = 0) -> int:
        """ceil(log2(T + 1)) per weight for all tasks together, T counting the backbone's own."""
        return math.prod(shape) * math.ceil(math.log2(tasks + 2)) if tasks else 0

    def prune(self, trained: Mapping[str, Tensor], *, share: float, name: str) -> None:
        """Give back the smallest `share` of the task's own weights, in place; ties are given back together.

        Raises:
            BadInput: the task owns nothing here.
        """
        own = trained["owner"] == trained["task"]
        sizes = trained["value"][own].abs()
        if not len(sizes):
            raise nothing_free(name, task=int(trained["task"]) - BACKBONE)
        rank = round(share * len(sizes))  # theirs fails where this rounds to 0
        if rank:
            free = own & (trained["value"].abs() <= sizes.kthvalue(rank).values)
            trained["owner"][free] = 0
            trained["value"][free] = 0.0


def nothing_free(where: str, *, task: int) -> BadInput:
    """The error when a task, counted from 1, finds nothing to train."""
    return BadInput(
        f"no free weights are left in {where} for task {task}: prune more of each task before it (the recipe's "
        "first_prune and prune)"
    )


def deal(owner: Tensor, value: Tensor, task: int) -> dict[str, Tensor]:
    """The state in which `task` owns all that was free."""
    number = torch.tensor(task, dtype=torch.uint8, device=owner.device)
    return {"owner": torch.where(owner == 0, number, owner), "value": value.clone(), "task": number}


def split_planes(owner: Tensor, *, count: int) -> dict[str, Tensor]:
    """The bits of owners' numbers, lowest first."""
    return {f"owner{bit}": (owner >> bit) & 1 == 1 for bit in range(count)}


def join_planes(kept: Mapping[str, Tensor]) -> Tensor:
    """Owners' numbers from their bits, uint8."""
    planes = sorted(key for key in kept if key.startswith("owner"))  # fewer than ten: names sort as numbers
    return torch.stack([kept[key].to(torch.uint8) << bit for bit, key in enumerate(planes)]).sum(0, dtype=torch.uint8)


@dataclass(frozen=True, kw_only=True)
class FirstPruning:
    """The pruning before all tasks: the smallest `share` of each layer's weights goes, the rest is trained on."""

    share: float = 0.5
    name: Literal["packnet-first"] = "packnet-first"
    adapts: Literal["weights"] = "weights"
    stands_on: Literal["backbone"] = "backbone"
    merge: Literal["exact"] = "exact"

    def start(self, weight: Tensor) -> dict[str, Tensor]:
        """``used`` (bool: the weights that stay) and ``value``."""
        rank = round(self.share * weight.numel())
        used = weight.abs() > weight.abs().flatten().kthvalue(rank).values if rank else weight != 0
        return {"used": used, "value": torch.where(used, weight, 0.0)}

    def keep(self, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Both, with zeros where nothing stays."""
        return {"used": trained["used"].clone(), "value": torch.where(trained["used"], trained["value"], 0.0)}

    def apply(self, weight: Tensor, kept: Mapping[str, Tensor]) -> Tensor:
        """The weights that stay, as trained."""
        return torch.where(kept["used"], kept["value"], 0.0)

    def pull_back(self, gradient: Tensor, weight: Tensor, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The gradient for the weights that stay; zero for the others."""
        return {"value": torch.where(trained["used"], gradient, 0.0)}

    def bits(self, shape: tuple[int, ...], *, tasks: int = 1, masked: int = 0) -> int:
        """None: the outcome becomes the backbone."""
        return 0
