"""Learners that the loop trains: a task on an adapter, or a plain network."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from piggyback.adapter import Adapter
from piggyback.device import autocast
from piggyback.optimizer import AdapterOptimizer
from piggyback.suite.training.loop import Pair

Criterion = Callable[[Any, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class TaskLearner:
    """The current task of an adapter.

    Attributes:
        adapter: shows the task.
        criterion: the loss of outputs and targets, a mean over the batch.
        precision: of the forward pass, as in `piggyback.device.autocast`.
    """

    adapter: Adapter
    optimizer: AdapterOptimizer
    criterion: Criterion
    precision: str = "auto"
    parts: tuple[str, ...] = ("",)

    @property
    def device(self) -> torch.device:
        return next(self.adapter.network.parameters()).device

    @property
    def update(self) -> str:
        return self.optimizer.update_form()

    def begin(self) -> None:
        """Set training mode, except for fixed norm layers."""
        self.adapter.train()

    def loss(self, batch: Pair) -> tuple[int, Tensor]:
        inputs, targets = (part.to(self.device) for part in batch)
        with autocast(self.device, precision=self.precision):
            return 0, self.criterion(self.adapter.network(inputs), targets)

    def state(self) -> dict[str, Any]:
        """The task's own tensors."""
        return dict(self.adapter.training_state(self.optimizer.task_name))

    def load(self, state: dict[str, Any]) -> None:
        self.adapter.load_training_state(self.optimizer.task_name, state)


@dataclass(frozen=True, kw_only=True)
class NetworkLearner:
    """A plain network, all of it trained: how a benchmark makes its backbone.

    Attributes:
        network: on the device to train on.
        criterion: the loss of outputs and targets, a mean over the batch.
        precision: of the forward pass, as in `piggyback.device.autocast`.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    criterion: Criterion
    precision: str = "auto"
    update: str = "none"
    parts: tuple[str, ...] = ("",)

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def begin(self) -> None:
        self.network.train()

    def loss(self, batch: Pair) -> tuple[int, Tensor]:
        inputs, targets = (part.to(self.device) for part in batch)
        with autocast(self.device, precision=self.precision):
            return 0, self.criterion(self.network(inputs), targets)

    def state(self) -> dict[str, Any]:
        return {"network": self.network.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
