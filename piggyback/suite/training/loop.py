"""The training loop: epochs of steps with checkpoints at step boundaries; it knows nothing of benchmarks.

All training goes through it: tasks on an adapter, several tasks jointly, backbones.  What is trained is a `Learner`;
the loop owns learning rates, random numbers, checkpoints, stops and records.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

import torch
from torch import Tensor

from piggyback.shell.console import notice
from piggyback.shell.errors import BadInput, Diverged, Requeue
from piggyback.suite.training.checkpoints import Checkpoints, Environment, StopFlag
from piggyback.suite.training.processes import Place

Record = dict[str, Any]  # what is known of an epoch, as JSON
Pair = tuple[Tensor, Tensor]  # inputs and targets
Batches = Callable[[int, int], Iterator[Any]]  # of (epoch, first batch)
CHECKPOINT: Final = {  # what one holds
    *("learner", "optimizer", "rng", "cuda_rng", "environment"),
    *("epoch", "step", "total", "seconds", "history"),
}
LOOK_EVERY: Final = 50  # steps between checks that the loss is finite; each waits for the device
AGREE_EVERY: Final = 20  # steps after which several processes ask each other whether to stop


class Schedule(Protocol):
    """Length of a training, and how its learning rates fall."""

    @property
    def epochs(self) -> int:
        """Passes over the data."""

    @property
    def steps(self) -> int:
        """Steps per epoch."""

    @property
    def accumulate(self) -> int:
        """Batches whose mean gradient makes one step."""

    @property
    def checkpoint_s(self) -> float:
        """Seconds between checkpoints."""

    def decay(self, step: int) -> float:
        """Factor of the learning rates in a step; steps are counted from 0 through all epochs."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A schedule by shares of all steps.

    Attributes:
        epochs: passes over the data.
        steps: per epoch.
        accumulate: batches whose mean gradient makes one step; an epoch's last step may have fewer.
        schedule: ``steps``, or ``cosine``: half a cosine's period, from the full learning rate to zero.
        decay_after: share of all steps at full learning rate.
        decay_again: share of all steps after which learning rates fall a second time; None for once only.
        decay_factor: factor of each fall.
        checkpoint_s: seconds between checkpoints.
    """

    epochs: int
    steps: int
    accumulate: int = 1
    schedule: Literal["steps", "cosine"] = "steps"
    decay_after: float = 0.75
    decay_again: float | None = None
    decay_factor: float = 0.1
    checkpoint_s: float = 120.0

    def decay(self, step: int) -> float:
        """Factor of the learning rates in a step; steps are counted from 0 through all epochs."""
        total = self.epochs * self.steps
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * step / total))
        marks = [self.decay_after] if self.decay_again is None else [self.decay_after, self.decay_again]
        return math.prod(self.decay_factor for mark in marks if step >= round(mark * total))


class Learner(Protocol):
    """What the loop trains: a forward pass, an optimizer and a state."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer of everything that is trained."""

    @property
    def device(self) -> torch.device:
        """The device that it computes on."""

    @property
    def update(self) -> str:
        """Form of the mask update, as in `Environment`."""

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts that have a loss of their own; one empty name if there is one part."""

    def begin(self) -> None:
        """Set training mode; called before each epoch, and when one is resumed."""

    def loss(self, batch: Any) -> tuple[int, Tensor]:
        """Forward pass: the number of the batch's part, and the mean loss."""

    def state(self) -> dict[str, Any]:
        """Everything a checkpoint needs besides the optimizer's state; called in all processes."""

    def load(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned; the optimizer's state is loaded afterwards."""


@dataclass(kw_only=True)
class Progress:
    """Position of a training; changes with every step.

    Attributes:
        epoch: the current one, from 0.
        step: steps done in it.
        total: sums of their losses by part, float64 on the device: reading them would make the device wait.
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
    """A training with its settings, all fixed; `run` keeps what changes to itself.

    Attributes:
        batches: batches of an epoch, from a given one on.
        seed: of torch's random numbers at the start.
        checkpoints: without them an interrupted training starts over.
        stop: set to ask for a checkpoint and an end.
        place: this process among those that train together; None if it is alone.
        allow_other_environment: continue a checkpoint even if the same bits cannot be promised.
        on_step: called after each step with the number of steps done, over all epochs.
        on_epoch: called after each epoch with the records so far; may add to the last one, such as an accuracy on
            val, and may leave the network in evaluation mode.
        on_save: called after each checkpoint with the number of steps in it, over all epochs.
    """

    learner: Learner
    batches: Batches
    plan: Schedule
    seed: int = 0
    checkpoints: Checkpoints | None = None
    stop: StopFlag | None = None
    place: Place | None = None
    allow_other_environment: bool = False
    on_step: Callable[[int], None] = lambda step: None
    on_epoch: Callable[[list[Record]], None] = lambda history: None
    on_save: Callable[[int], None] = lambda step: None

    @property
    def environment(self) -> Environment:
        """What the bits depend on; compared with that of a checkpoint."""
        world = 1 if self.place is None else self.place.world
        return Environment.here(self.learner.device, update=self.learner.update, processes=world)

    @property
    def is_alone(self) -> bool:
        return self.place is None or self.place.world == 1

    def run(self) -> list[Record]:
        """Train to the end, from the newest checkpoint if there is one.

        Returns:
            One record per epoch: ``epoch`` (from 1), ``loss`` (mean over its steps), ``lr`` (of the
            optimizer's first group in the last step), ``seconds``; with several parts also ``losses``, the sums by
            part.

        Raises:
            Diverged: the loss is not finite.
            Requeue: a stop was requested; there is a checkpoint, if `checkpoints` is given.
            BadInput: the checkpoint comes from an environment in which the same bits are not promised.
        """
        torch.manual_seed(self.seed)
        if self.learner.device.type == "cuda":
            torch.backends.cudnn.deterministic = True
        rates = [float(group["lr"]) for group in self.learner.optimizer.param_groups]
        progress = self._resume()
        while progress.epoch < self.plan.epochs:
            begun = time.monotonic() - progress.seconds
            self._train_epoch(progress, rates=rates, begun=begun)
            progress.history.append(self._record(progress, begun=begun))
            self.on_epoch(progress.history)
            progress.epoch, progress.step, progress.seconds = progress.epoch + 1, 0, 0.0
            progress.total = torch.zeros_like(progress.total)
        return progress.history

    def _record(self, progress: Progress, *, begun: float) -> Record:
        total = self._mean(progress.total)
        losses = {} if len(self.learner.parts) == 1 else {"losses": total.tolist()}
        return {
            "epoch": progress.epoch + 1,
            "loss": float(total.sum()) / progress.step,
            "lr": float(self.learner.optimizer.param_groups[0]["lr"]),
            "seconds": round(time.monotonic() - begun, 3),
            **losses,
        }

    def _train_epoch(self, progress: Progress, *, rates: list[float], begun: float) -> None:
        """Train the rest of the epoch with base `rates`; `begun` is when it would have begun without a break."""
        learner, plan, optimizer = self.learner, self.plan, self.learner.optimizer
        learner.begin()
        batches = self.batches(progress.epoch, progress.step * plan.accumulate)
        while group_of := list(itertools.islice(batches, plan.accumulate)):
            for batch in group_of:
                part, mean = learner.loss(batch)
                loss = mean / len(group_of)
                loss.backward()  # type: ignore[no-untyped-call]
                progress.total[part] += loss.detach().double()
            decay = plan.decay(progress.epoch * plan.steps + progress.step)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * decay
            progress.step += 1
            self._step(progress)
            optimizer.zero_grad()
            self.on_step(progress.epoch * plan.steps + progress.step)
            self._look(progress, begun=begun)
        self._refuse_non_finite(progress)

    def _step(self, progress: Progress) -> None:
        try:
            self.learner.optimizer.step()
        except Diverged as fault:  # a gradient is not finite; where the loss is not either, that says more
            self._refuse_non_finite(progress)
            raise Diverged(f"at epoch {progress.epoch + 1}, step {progress.step}: {fault}") from None

    def _look(self, progress: Progress, *, begun: float) -> None:
        """Check after a step whether the loss is finite, a checkpoint is due, or a stop was requested."""
        every = LOOK_EVERY if self.is_alone else AGREE_EVERY
        if progress.step % every == 0 or progress.step == self.plan.steps:  # an epoch may have fewer steps
            self._refuse_non_finite(progress)
        elif not self.is_alone:
            return
        stop = self.stop is not None and self.stop.requested
        due = time.monotonic() - progress.saved > self.plan.checkpoint_s
        if not self.is_alone:  # all of them, or none
            asked = torch.tensor([stop, due], dtype=torch.float64, device=self.learner.device)
            stop, due = (value > 0 for value in self._mean(asked).tolist())
        if stop or due:
            progress.seconds = time.monotonic() - begun
            self._save(progress)
        if stop:
            raise Requeue

    def _mean(self, values: Tensor) -> Tensor:
        """Mean of the processes' values; the values themselves in a single process."""
        if self.place is None or self.place.world == 1:
            return values
        return self.place.sum(values.clone()) / self.place.world

    def _refuse_non_finite(self, progress: Progress) -> None:
        total = self._mean(progress.total)
        if torch.isfinite(total).all():
            return
        part = int((~torch.isfinite(total)).nonzero()[0])
        of = f" of {self.learner.parts[part]}" if self.learner.parts[part] else ""
        raise Diverged(
            f"the loss{of} is not finite any more at epoch {progress.epoch + 1}, step {progress.step}: "
            "lower the learning rate"
        )

    def _resume(self) -> Progress:
        """Progress at the newest checkpoint, or at the start."""
        device = self.learner.device
        found = self.checkpoints.load() if self.checkpoints is not None else None
        if self.place is not None:
            self.place.wait()  # until all have read what the first process replaces
        if found is not None and found.keys() != CHECKPOINT:
            notice("note: the checkpoint is of another version of this program, so the training starts again")
            found = None
        if found is None:
            total = torch.zeros(len(self.learner.parts), dtype=torch.float64, device=device)
            return Progress(epoch=0, step=0, total=total, seconds=0.0, history=[])
        differences = self.environment.differences(found["environment"])
        if differences and not self.allow_other_environment:
            raise BadInput(
                f"the checkpoint comes from another environment, so the same bits cannot be promised: "
                f"{'; '.join(differences)}. To continue anyway, add --allow-other-environment."
            )
        self.learner.load(found["learner"])
        self.learner.optimizer.load_state_dict(found["optimizer"])
        torch.set_rng_state(found["rng"])
        if found["cuda_rng"] is not None and device.type == "cuda":
            torch.cuda.set_rng_state(found["cuda_rng"], device)
        place, totals = self.place or Place(rank=0, world=1, device=device), found["total"]
        if len(totals) != place.world:  # other processes than those that saved it: each goes on with their mean
            totals = totals.mean(0, keepdim=True).expand(place.world, -1)
        return Progress(
            epoch=found["epoch"],
            step=found["step"],
            total=totals[place.rank].clone().to(device),
            seconds=found["seconds"],
            history=found["history"],
        )

    def _save(self, progress: Progress) -> None:
        progress.saved = time.monotonic()
        if self.checkpoints is None:
            return
        device, learner = self.learner.device, self.learner.state()
        totals = [progress.total] if self.place is None else self.place.gather(progress.total)
        step = progress.epoch * self.plan.steps + progress.step
        if self.place is None or self.place.rank == 0:
            state = {
                "learner": learner,
                "optimizer": self.learner.optimizer.state_dict(),
                "rng": torch.get_rng_state(),
                "cuda_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
                "epoch": progress.epoch,
                "step": progress.step,
                "total": torch.stack(totals).cpu(),
                "seconds": progress.seconds,
                "history": progress.history,
                "environment": dict(vars(self.environment)),
            }
            self.checkpoints.save(state, step=step)
            progress.saved = time.monotonic()
        self.on_save(step)
