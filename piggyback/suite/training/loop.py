"""The training loop: epochs of steps, checkpoints at step boundaries, and nothing about any benchmark."""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import torch
from torch import Tensor

from piggyback.adapter import Adapter
from piggyback.device import autocast
from piggyback.optimizer import AdapterOptimizer
from piggyback.shell.console import notice
from piggyback.shell.errors import BadInput, Diverged, Requeue
from piggyback.suite.training.run_folder import Checkpoints, Environment, StopFlag

Batches = Callable[[int, int], Iterator[tuple[Tensor, Tensor]]]  # of (epoch, first batch): inputs and targets
Record = dict[str, Any]  # what is known of an epoch, as JSON
CHECKPOINT: Final = {  # what one holds
    *("task", "optimizer", "rng", "cuda_rng", "environment"),
    *("epoch", "step", "total", "seconds", "history"),
}
LOOK_EVERY = 50  # steps between checks that the loss is finite; each waits for the device


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long, and how learning rates fall.

    Attributes:
        epochs: passes over the data.
        steps: per epoch.
        accumulate: batches whose mean gradient makes one step; an epoch's last step may have fewer.
        schedule: ``steps``, or ``cosine``: half a cosine's period, from the full learning rate to zero.
        decay_after: share of all steps at full learning rate.
        decay_again: share of all steps after which learning rates fall once more; None: they do not.
        decay_factor: what learning rates are multiplied with each time.
        precision: of forward and backward, as in `device.autocast`.
        checkpoint_s: seconds between checkpoints.
    """

    epochs: int
    steps: int
    accumulate: int = 1
    schedule: Literal["steps", "cosine"] = "steps"
    decay_after: float = 0.75
    decay_again: float | None = None
    decay_factor: float = 0.1
    precision: str = "auto"
    checkpoint_s: float = 120.0

    def decay(self, step: int) -> float:
        """What learning rates are multiplied with in a step, counted from 0 through all epochs."""
        total = self.epochs * self.steps
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * step / total))
        marks = [self.decay_after] if self.decay_again is None else [self.decay_after, self.decay_again]
        return math.prod(self.decay_factor for mark in marks if step >= round(mark * total))


@dataclass(kw_only=True)
class Progress:
    """How far a training is; changes with every step.

    Attributes:
        epoch: the one under way, from 0.
        step: steps done in it.
        total: sum of their losses, a float64 scalar on the device: reading it would make the device wait.
        seconds: that earlier processes spent in the epoch.
        history: records of the epochs before.
        saved: when the last checkpoint was written, by the monotonic clock.
    """

    epoch: int
    step: int
    total: Tensor
    seconds: float
    history: list[Record]
    saved: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, kw_only=True)
class Training:
    """A task to be trained on an adapter: what is fixed about it; `run` keeps what changes to itself.

    Attributes:
        adapter: showing the task.
        optimizer: the task's.
        batches: of an epoch from a given batch on, on the network's device.
        loss: of outputs and targets, a mean over the batch.
        plan: how long.
        seed: of torch's random numbers at the start.
        checkpoints: where to; without them a training starts again after a break.
        stop: asks for a checkpoint and an end.
        allow_other_environment: continue a checkpoint although its bits cannot be kept.
        on_step: told after each step how many are done, of all epochs.
        on_epoch: told after each epoch the records so far; may add to the last one, such as an accuracy on
            val, and may leave the network in evaluation mode.
        on_save: told after each checkpoint how many steps are in it, of all epochs.
    """

    adapter: Adapter
    optimizer: AdapterOptimizer
    batches: Batches
    loss: Callable[[Tensor, Tensor], Tensor]
    plan: Plan
    seed: int = 0
    checkpoints: Checkpoints | None = None
    stop: StopFlag | None = None
    allow_other_environment: bool = False
    on_step: Callable[[int], None] = lambda step: None
    on_epoch: Callable[[list[Record]], None] = lambda history: None
    on_save: Callable[[int], None] = lambda step: None

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.adapter.network.parameters()).device

    @property
    def environment(self) -> Environment:
        """What the bits depend on, compared with that of a checkpoint."""
        return Environment.here(self.device, update=self.optimizer.update_form())

    def run(self) -> list[Record]:
        """Train to the end, from the newest checkpoint when there is one.

        Returns:
            One record per epoch: ``epoch`` (from 1), ``loss`` (mean over its steps), ``lr`` (of the
            optimizer's first group in the last step), ``seconds``.

        Raises:
            Diverged: the loss is not finite.
            Requeue: a stop was asked for; a checkpoint is there, if there is a place for it.
            BadInput: the checkpoint comes from an environment in which the same bits are not promised.
        """
        torch.manual_seed(self.seed)
        if self.device.type == "cuda":
            torch.backends.cudnn.deterministic = True
        rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        progress = self._resume()
        while progress.epoch < self.plan.epochs:
            begun = time.monotonic() - progress.seconds
            self._train_epoch(progress, rates=rates, begun=begun)
            progress.history.append(
                {
                    "epoch": progress.epoch + 1,
                    "loss": float(progress.total) / progress.step,
                    "lr": float(self.optimizer.param_groups[0]["lr"]),
                    "seconds": round(time.monotonic() - begun, 3),
                }
            )
            self.on_epoch(progress.history)
            progress.epoch, progress.step, progress.seconds = progress.epoch + 1, 0, 0.0
            progress.total = torch.zeros_like(progress.total)
        return progress.history

    def _train_epoch(self, progress: Progress, *, rates: list[float], begun: float) -> None:
        """The rest of the epoch, with the optimizer's base `rates`; without a break it would have begun at `begun`."""
        network, plan, device = self.adapter.network, self.plan, self.device
        self.adapter.train()
        batches = self.batches(progress.epoch, progress.step * plan.accumulate)
        while parts := list(itertools.islice(batches, plan.accumulate)):
            for inputs, targets in parts:
                with autocast(device, precision=plan.precision):
                    loss = self.loss(network(inputs), targets) / len(parts)
                loss.backward()  # type: ignore[no-untyped-call]
                progress.total = progress.total + loss.detach().double()
            decay = plan.decay(progress.epoch * plan.steps + progress.step)
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * decay
            self.optimizer.step()
            self.optimizer.zero_grad()
            progress.step += 1
            self.on_step(progress.epoch * plan.steps + progress.step)
            if progress.step % LOOK_EVERY == 0:
                refuse_non_finite(progress)
            stop = self.stop is not None and self.stop.requested
            if stop or time.monotonic() - progress.saved > plan.checkpoint_s:
                progress.seconds = time.monotonic() - begun
                self._save(progress)
            if stop:
                raise Requeue
        refuse_non_finite(progress)

    def _resume(self) -> Progress:
        """Where the newest checkpoint is, or the start."""
        device = self.device
        found = self.checkpoints.load() if self.checkpoints is not None else None
        if found is not None and found.keys() != CHECKPOINT:
            notice("note: the checkpoint is of another version of this program, so the training starts again")
            found = None
        if found is None:
            total = torch.zeros((), dtype=torch.float64, device=device)
            return Progress(epoch=0, step=0, total=total, seconds=0.0, history=[])
        differences = self.environment.differences(found["environment"])
        if differences and not self.allow_other_environment:
            raise BadInput(
                f"the checkpoint comes from another environment, so the same bits cannot be promised: "
                f"{'; '.join(differences)}. Continue all the same with --allow-other-environment."
            )
        self.adapter.load_training_state(self.optimizer.task_name, found["task"])
        self.optimizer.load_state_dict(found["optimizer"])
        torch.set_rng_state(found["rng"])
        if found["cuda_rng"] is not None and device.type == "cuda":
            torch.cuda.set_rng_state(found["cuda_rng"], device)
        return Progress(
            epoch=found["epoch"],
            step=found["step"],
            total=found["total"].to(device),
            seconds=found["seconds"],
            history=found["history"],
        )

    def _save(self, progress: Progress) -> None:
        """Write a checkpoint, if there is a place for it."""
        if self.checkpoints is None:
            return
        device = self.device
        state = {
            "task": self.adapter.training_state(self.optimizer.task_name),
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            "epoch": progress.epoch,
            "step": progress.step,
            "total": progress.total.cpu(),
            "seconds": progress.seconds,
            "history": progress.history,
            "environment": dict(vars(self.environment)),
        }
        step = progress.epoch * self.plan.steps + progress.step
        self.checkpoints.save(state, step=step)
        progress.saved = time.monotonic()
        self.on_save(step)


def refuse_non_finite(progress: Progress) -> None:
    """Raise Diverged when the sum of losses is not finite."""
    if not torch.isfinite(progress.total):
        raise Diverged(
            f"the loss is not finite any more at epoch {progress.epoch + 1}, step {progress.step}: "
            "lower the learning rate"
        )
