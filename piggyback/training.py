"""The training loop: epochs of steps, checkpoints at step boundaries, and nothing about any benchmark."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import MultiStepLR

from piggyback.adapter import Adapter
from piggyback.device import autocast
from piggyback.errors import BadInput, Diverged, Requeue
from piggyback.optimizer import AdapterOptimizer
from piggyback.runs import Checkpoints, Environment, StopFlag

Batches = Callable[[int, int], Iterator[tuple[Tensor, Tensor]]]  # of (epoch, first batch): inputs and targets
LOOK_EVERY = 50  # steps between checks that the loss is finite; each waits for the device


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long, and how learning rates fall.

    Attributes:
        epochs: passes over the data.
        steps: per epoch.
        decay_after: share of all steps at full learning rate.
        decay_factor: what learning rates are multiplied with afterwards.
        precision: of forward and backward, as in `device.autocast`.
        checkpoint_s: seconds between checkpoints.
    """

    epochs: int
    steps: int
    decay_after: float = 0.75
    decay_factor: float = 0.1
    precision: str = "auto"
    checkpoint_s: float = 120.0


@dataclass(kw_only=True)
class Training:
    """A task being trained on an adapter.

    Attributes:
        adapter: showing the task.
        optimizer: the task's.
        batches: of an epoch from a given batch on, on the network's device.
        loss: of outputs and targets, a mean over the batch.
        plan: how long.
        checkpoints: where to; None for short trainings that start again after a break.
        stop: asks for a checkpoint and an end.
        environment: compared with that of a checkpoint.
        allow_other_environment: continue a checkpoint although its bits cannot be kept.
        on_step: told the share of the training that is done and the latest learning rate.
        on_epoch: told the epoch's record and may add to it, such as an accuracy on val.
    """

    adapter: Adapter
    optimizer: AdapterOptimizer
    batches: Batches
    loss: Callable[[Tensor, Tensor], Tensor]
    plan: Plan
    environment: Environment
    checkpoints: Checkpoints | None = None
    stop: StopFlag | None = None
    allow_other_environment: bool = False
    on_step: Callable[[int], None] = lambda step: None
    on_epoch: Callable[[list[dict[str, Any]]], None] = lambda history: None

    def run(self) -> list[dict[str, Any]]:
        """Train to the end, from the newest checkpoint when there is one.

        Returns:
            One record per epoch: ``epoch``, ``loss`` (mean over its steps), ``lr``, ``seconds``.

        Raises:
            Diverged: the loss is not finite.
            Requeue: a stop was asked for; a checkpoint is there.
            BadInput: the checkpoint comes from an environment in which the same bits are not promised.
        """
        plan = self.plan
        decay_at = round(plan.decay_after * plan.epochs * plan.steps)
        self.scheduler = MultiStepLR(self.optimizer, [decay_at], plan.decay_factor)
        epoch, step, total, history = self._resume()
        rate = self.scheduler.get_last_lr()[0]
        network = self.adapter.network
        device = next(network.parameters()).device
        saved = time.monotonic()
        while epoch < plan.epochs:
            self.adapter.train()
            begun = time.monotonic()
            for inputs, targets in self.batches(epoch, step):
                with autocast(device, precision=plan.precision):
                    loss = self.loss(network(inputs), targets)
                loss.backward()  # type: ignore[no-untyped-call]
                self.optimizer.step()
                rate = self.scheduler.get_last_lr()[0]
                self.scheduler.step()
                self.optimizer.zero_grad()
                total = total + loss.detach().double()
                step += 1
                self.on_step(epoch * plan.steps + step)
                if step % LOOK_EVERY == 0:
                    refuse_non_finite(total, epoch=epoch, step=step)
                stop = self.stop is not None and self.stop.requested
                if self.checkpoints is not None and (stop or time.monotonic() - saved > plan.checkpoint_s):
                    self._save(epoch, step, total, history)
                    saved = time.monotonic()
                if stop:
                    raise Requeue
            refuse_non_finite(total, epoch=epoch, step=step)
            seconds = round(time.monotonic() - begun, 3)
            history.append({"epoch": epoch + 1, "loss": float(total) / step, "lr": float(rate), "seconds": seconds})
            self.on_epoch(history)
            epoch, step, total = epoch + 1, 0, torch.zeros_like(total)
        return history

    def _resume(self) -> tuple[int, int, Tensor, list[dict[str, Any]]]:
        """Epoch, step in it, sum of its losses, and the records of the epochs before."""
        device = next(self.adapter.network.parameters()).device
        found = self.checkpoints.load() if self.checkpoints is not None else None
        if found is None:
            return 0, 0, torch.zeros((), dtype=torch.float64, device=device), []
        differences = self.environment.differences(found["environment"])
        if differences and not self.allow_other_environment:
            raise BadInput(
                f"the checkpoint comes from another environment, so the same bits cannot be promised: "
                f"{'; '.join(differences)}. Continue all the same with --allow-other-environment."
            )
        self.adapter.load_training_state(self.optimizer.task_name, found["task"])
        self.optimizer.load_state_dict(found["optimizer"])
        self.scheduler.load_state_dict(found["scheduler"])
        torch.set_rng_state(found["rng"])
        if found["cuda_rng"]:
            torch.cuda.set_rng_state_all(found["cuda_rng"])
        return found["epoch"], found["step"], found["total"].to(device), found["history"]

    def _save(self, epoch: int, step: int, total: Tensor, history: list[dict[str, Any]]) -> None:
        assert self.checkpoints is not None
        state = {
            "task": self.adapter.training_state(self.optimizer.task_name),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "epoch": epoch,
            "step": step,
            "total": total.cpu(),
            "history": history,
            "environment": dict(vars(self.environment)),
        }
        self.checkpoints.save(state, step=epoch * self.plan.steps + step)


def refuse_non_finite(total: Tensor, *, epoch: int, step: int) -> None:
    """Raise Diverged when a sum of losses is not finite."""
    if not torch.isfinite(total):
        raise Diverged(f"the loss is not finite at epoch {epoch + 1}, step {step}: lower the learning rate")
