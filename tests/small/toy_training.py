"""A training of a net of three layers with dropout, so that random numbers count."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from piggyback.adapter import attach
from piggyback.methods.registry import named_method
from piggyback.suite.training.learners import NetworkLearner, TaskLearner
from piggyback.suite.training.loop import Plan, Training

STEPS = 4
CPU = torch.device("cpu")
PLAN = Plan(epochs=3, steps=STEPS, decay_after=0.5)


def batches(epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
    for number in range(start, STEPS):
        generator = torch.Generator().manual_seed(100 * epoch + number)
        yield torch.randn(5, 6, generator=generator), torch.randint(0, 3, (5,), generator=generator)


def make(
    method: str = "piggyback", *, plan: Plan = PLAN, calm: bool = False, criterion: Any = F.cross_entropy, **more: Any
) -> Training:
    """A task by a method, or, of none, the network itself; calm ones have no batch norm and no dropout."""
    torch.manual_seed(1)
    between = (nn.Identity(), nn.Identity()) if calm else (nn.BatchNorm1d(8), nn.Dropout(0.5))
    network = nn.Sequential(nn.Linear(6, 8), *between, nn.Linear(8, 8), nn.Linear(8, 3))
    if not method:
        sgd = torch.optim.SGD(network.parameters(), lr=1e-2, momentum=0.9)
        plain = NetworkLearner(network=network, optimizer=sgd, criterion=criterion)
        return Training(learner=plain, plan=plan, seed=7, **{"batches": batches, **more})
    adapter = attach(network, method=named_method(method), head="4", norm="trained")
    adapter.add_task("a", head=nn.Linear(8, 3))
    optimizer = adapter.optimizer(mask_lr=3e-3, head_lr=1e-2, norm_lr=1e-3, update="eager")
    learner = TaskLearner(adapter=adapter, optimizer=optimizer, criterion=criterion)
    return Training(learner=learner, plan=plan, seed=7, **{"batches": batches, **more})


def bits(done: Training) -> dict[str, Tensor]:
    learner = done.learner
    network = learner.network if isinstance(learner, NetworkLearner) else learner.adapter.network
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one | other)


def without_seconds(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in history]
