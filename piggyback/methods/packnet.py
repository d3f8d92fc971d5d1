"""PackNet: one network whose weights are dealt out to tasks, one task after the other.

Source: Mallya and Lazebnik, *PackNet: Adding multiple tasks to a single network by iterative pruning*, CVPR 2018, as in
the authors' code (arunmallya/packnet; the paper's text was not to be had), with Piggyback's section 4 for the shares it
was compared with.

The frozen weights are those of a copy of the backbone that was pruned first: its zeros are the free weights.  A task
trains all that are free, gives back the smallest of them, layer by layer, and goes on with the rest; it uses its own
and those of all before it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

import torch
from torch import Tensor

from piggyback.shell.errors import BadInput

BACKBONE: Final = 1  # owner of what the pruned backbone uses; 0 is nobody, 2 the first task that is added
MOST: Final = 254  # owners' numbers are bytes, of which 0 and 1 are not those of tasks


@dataclass(frozen=True, kw_only=True)
class PackNet:
    """Effective weight: the backbone's own and those that this task and tasks before it own; zero elsewhere.

    Args:
        tasks: how many are to be added; fixes the bits of an owner's number.

    Raises:
        ValueError: there are none, or more than the numbers of a byte.
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
        """Room for the numbers of so many tasks."""
        return replace(self, tasks=count)

    def first(self, share: float) -> "FirstPruning":
        """The backbone's own pruning, before all tasks."""
        return FirstPruning(share=share)

    def start(self, weight: Tensor) -> dict[str, Tensor]:
        """All free weights for the first task: ``owner`` (uint8), ``value`` (zero at first), ``task`` (its number)."""
        return deal(torch.where(weight != 0, BACKBONE, 0).to(torch.uint8), torch.zeros_like(weight), BACKBONE + 1)

    def follow(self, weight: Tensor, earlier: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All that the tasks so far have left free.

        Raises:
            BadInput: there are as many tasks already as were to be added, or nothing is free.
        """
        if int(earlier["task"]) > self.tasks:
            raise BadInput(f"the network has its {self.tasks} tasks already: plan for more of them from the start")
        owner = torch.where(weight != 0, BACKBONE, 0).to(torch.uint8) + join_planes(earlier)
        if bool((owner != 0).all()):
            raise nothing_free(f"a weight of shape {tuple(weight.shape)}", task=int(earlier["task"]))
        return deal(owner, earlier["value"], int(earlier["task"]) + 1)

    def keep(self, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Owners as planes of bits, the values of all tasks so far, and how many there are.

        The backbone's own are left out: they are those that it has not zero.
        """
        owner = trained["owner"]
        later = torch.where(owner > BACKBONE, owner, 0)
        planes = split_planes(later, count=(self.tasks + 1).bit_length())
        return {**planes, "value": torch.where(later > 0, trained["value"], 0.0), "task": trained["task"].clone()}

    def apply(self, weight: Tensor, kept: Mapping[str, Tensor]) -> Tensor:
        """The backbone's where it has one, else the tasks'; free weights are zero in both."""
        return torch.where(weight != 0, weight, kept["value"])

    def pull_back(self, gradient: Tensor, weight: Tensor, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What is not the task's own gets no gradient."""
        return {"value": torch.where(trained["owner"] == trained["task"], gradient, 0.0)}

    def stored(self, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Values of owned weights."""
        return {"value": join_planes(kept) > 0}

    def bits(self, shape: tuple[int, ...], *, tasks: int = 1, masked: int = 0) -> int:
        """ceil(log2(T + 1)) per weight for all tasks together, T counting the backbone's own."""
        return math.prod(shape) * math.ceil(math.log2(tasks + 2)) if tasks else 0

    def prune(self, trained: Mapping[str, Tensor], *, share: float, name: str) -> None:
        """Give back the smallest `share` of the task's own weights, in place; ties go with the cutoff.

        Raises:
            BadInput: the task owns nothing here.
        """
        own = trained["owner"] == trained["task"]
        sizes = trained["value"][own].abs()
        if not len(sizes):
            raise nothing_free(name, task=int(trained["task"]) - BACKBONE)
        rank = round(share * len(sizes))  # as the authors' code; none for few weights, where kthvalue would fail
        if rank:
            free = own & (trained["value"].abs() <= sizes.kthvalue(rank).values)
            trained["owner"][free] = 0
            trained["value"][free] = 0.0


def nothing_free(where: str, *, task: int) -> BadInput:
    """What to say when there is nothing to train for a task, of which the first is 1."""
    return BadInput(
        f"no free weights are left in {where} for task {task}: prune more of each task before it (the recipe's "
        "first_prune and prune)"
    )


def deal(owner: Tensor, value: Tensor, task: int) -> dict[str, Tensor]:
    """The state in which `task` owns all that was free."""
    number = torch.tensor(task, dtype=torch.uint8, device=owner.device)
    return {"owner": torch.where(owner == 0, number, owner), "value": value.clone(), "task": number}


def split_planes(owner: Tensor, *, count: int) -> dict[str, Tensor]:
    """Bits of owners' numbers, lowest first."""
    return {f"owner{bit}": (owner >> bit) & 1 == 1 for bit in range(count)}


def join_planes(kept: Mapping[str, Tensor]) -> Tensor:
    """Owners' numbers from their bits, uint8."""
    planes = sorted(key for key in kept if key.startswith("owner"))  # fewer than ten
    return torch.stack([kept[key].to(torch.uint8) << bit for bit, key in enumerate(planes)]).sum(0, dtype=torch.uint8)


@dataclass(frozen=True, kw_only=True)
class FirstPruning:
    """What precedes all tasks: the backbone's own weights without the smallest `share` of each layer, trained on."""

    share: float = 0.5
    name: Literal["packnet-first"] = "packnet-first"
    adapts: Literal["weights"] = "weights"
    stands_on: Literal["backbone"] = "backbone"
    merge: Literal["exact"] = "exact"

    def start(self, weight: Tensor) -> dict[str, Tensor]:
        """Which weights stay (bool), and their values."""
        rank = round(self.share * weight.numel())
        used = weight.abs() > weight.abs().flatten().kthvalue(rank).values if rank else weight != 0
        return {"used": used, "value": torch.where(used, weight, 0.0)}

    def keep(self, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same."""
        return {"used": trained["used"].clone(), "value": torch.where(trained["used"], trained["value"], 0.0)}

    def apply(self, weight: Tensor, kept: Mapping[str, Tensor]) -> Tensor:
        """Those that stay."""
        return torch.where(kept["used"], kept["value"], 0.0)

    def pull_back(self, gradient: Tensor, weight: Tensor, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those that stay are trained."""
        return {"value": torch.where(trained["used"], gradient, 0.0)}

    def bits(self, shape: tuple[int, ...], *, tasks: int = 1, masked: int = 0) -> int:
        """None: it becomes a backbone."""
        return 0
