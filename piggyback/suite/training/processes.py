"""Processes that train one network together.

They find each other through the variables that torchrun sets: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR,
MASTER_PORT; submitit's TorchDistributedEnvironment exports the same.  Without them there is one process.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import torch
import torch.distributed as dist
from torch import Tensor, nn

from piggyback.device import pick_device
from piggyback.shell.errors import BadInput

VARIABLES: Final = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, kw_only=True)
class Place:
    """This process among the `world` that train together."""

    rank: int
    world: int
    device: torch.device

    def sum(self, values: Tensor) -> Tensor:
        """Sum the processes' values, in place; the same bits in all of them."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def gather(self, values: Tensor) -> list[Tensor]:
        """The values of all processes, in rank order; they must have one shape."""
        if self.world == 1:
            return [values]
        found = [torch.empty_like(values) for _ in range(self.world)]
        dist.all_gather(found, values.contiguous())
        return found

    def wait(self) -> None:
        """Wait until all processes have reached this call."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def join_processes(device: str | None) -> Iterator[Place]:
    """Connect to the other processes of this run, if the environment names any.

    Raises:
        BadInput: one of the environment's variables is missing or not a number.
    """
    chosen = pick_device(device)
    world = int_variable("WORLD_SIZE", default=1)
    rank = int_variable("RANK", default=0)
    if chosen.type == "cuda":
        if ":" not in str(chosen):
            local = int_variable("LOCAL_RANK", default=rank % torch.cuda.device_count())
            chosen = torch.device("cuda", local)
        torch.cuda.set_device(chosen)
    if world <= 1:
        yield Place(rank=0, world=1, device=chosen)
        return
    missing = [name for name in VARIABLES if name not in os.environ]
    if missing:
        names = ", ".join(missing)
        raise BadInput(f"WORLD_SIZE is {world}, but {names} is not set; start through torchrun or submitit")
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", rank=rank, world_size=world)
    try:
        yield Place(rank=rank, world=world, device=chosen)
    finally:
        dist.destroy_process_group()


def int_variable(name: str, *, default: int) -> int:
    """A whole number from the environment.

    Raises:
        BadInput: the variable is something else.
    """
    text = os.environ.get(name, str(default))
    if not text.isascii() or not text.isdigit():
        raise BadInput(f"the environment variable {name} is {text!r}; it must be a whole number")
    return int(text)


def average_statistics(network: nn.Module, *, place: Place) -> None:
    """Set batch norm's running statistics in every process to the mean over all processes."""
    if place.world == 1:
        return
    for buffer in network.buffers():
        if buffer.is_floating_point():
            place.sum(buffer).div_(place.world)
