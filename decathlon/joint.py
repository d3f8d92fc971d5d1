"""Joint training: one network for several tasks at once, each with norm layers, a head and adapters of its own.

Every task has a copy of the network, and all copies hold the *same* parameters but for what is the task's own.  A step
is a batch of one task: of the one that has done the smallest share of its steps, so that all end together, each after
the epochs that it would have alone.
"""

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from decathlon.backbone.backbone_file import save_backbone
from decathlon.batches import epoch_length
from decathlon.bench import BACKBONE_FILE, HEAD, Bench, open_bench
from decathlon.prediction import measure
from piggyback.adapter import Adapter, attach
from piggyback.data.labelled import join
from piggyback.device import autocast
from piggyback.shell.errors import BadInput, Diverged, Requeue
from piggyback.shell.files import write_json
from piggyback.shell.strict_json import read_json
from piggyback.suite.loop import LOOK_EVERY, Plan, Record
from piggyback.suite.rate_trials import choose_rate, cut_batches
from piggyback.suite.run_folder import Checkpoints, Environment, RunFolder, StopFlag, Watch

PAYLOADS: Final = "tasks"  # folder of what each task adds to the network
RECORD: Final = "joint.json"
CHECKPOINT_S: Final = 120.0


@dataclass(frozen=True, kw_only=True)
class Member:
    """One task of a joint training: its pictures and settings, its copy of the network, and how many steps it takes."""

    bench: Bench
    adapter: Adapter
    steps: int

    def batches(self, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Its batches from the `start`-th on, over all epochs."""
        recipe = self.bench.job.recipe
        pictures = join(self.bench.train, self.bench.val) if recipe.trained_on == "train+val" else self.bench.train
        epoch = epoch_length(len(pictures), batch_size=recipe.batch_size)
        cut = cut_batches(lambda e, first: self.bench.batches(pictures, e, first), epoch=epoch, total=self.steps)
        return cut(0, start)


@dataclass(kw_only=True)
class Progress:
    """How far a joint training is.

    Attributes:
        done: steps of each member.
        totals: sums of their losses, float64 scalars on the device.
        saved: when the last checkpoint was written, by the monotonic clock.
    """

    done: list[int]
    totals: list[Tensor]
    saved: float = field(default_factory=time.monotonic)

    @property
    def step(self) -> int:
        """Steps of all."""
        return sum(self.done)


@dataclass(frozen=True, kw_only=True)
class Together:
    """A joint training at one learning rate: members, their optimizer, and where it leaves what it has."""

    members: tuple[Member, ...]
    optimizer: torch.optim.Optimizer
    plan: Plan
    checkpoints: Checkpoints
    stop: StopFlag | None
    on_step: Callable[[int], None] = lambda step: None
    on_save: Callable[[int], None] = lambda step: None

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.members[0].bench.job.device

    def run(self) -> list[float]:
        """Train to the end, from the newest checkpoint when there is one; the mean loss of each member.

        Raises:
            BadInput: the checkpoint comes from an environment in which the same bits are not promised.
            Diverged: a loss is not finite.
            Requeue: a stop was asked for.
        """
        torch.manual_seed(self.members[0].bench.job.recipe.seed)
        rates = [float(group["lr"]) for group in self.optimizer.param_groups]  # a checkpoint has those of its step
        progress = self._resume()
        batches = [member.batches(done) for member, done in zip(self.members, progress.done, strict=True)]
        for member in self.members:
            member.adapter.train()
        while progress.step < self.plan.steps:
            number = min(range(len(batches)), key=lambda n: (progress.done[n] / self.members[n].steps, n))
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * self.plan.decay(progress.step)
            inputs, targets = next(batches[number])
            with autocast(self.device, precision=self.plan.precision):
                loss = cross_entropy(self.members[number].adapter.network(inputs), targets)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.optimizer.zero_grad()
            progress.totals[number] = progress.totals[number] + loss.detach().double()
            progress.done[number] += 1
            self.on_step(progress.step)
            if progress.step % LOOK_EVERY == 0:
                self._refuse_non_finite(progress)
            stop = self.stop is not None and self.stop.requested
            if stop or time.monotonic() - progress.saved > CHECKPOINT_S:
                self._save(progress)
            if stop:
                raise Requeue
        self._refuse_non_finite(progress)
        return [float(total) / done for total, done in zip(progress.totals, progress.done, strict=True)]

    def _refuse_non_finite(self, progress: Progress) -> None:
        for member, total in zip(self.members, progress.totals, strict=True):
            if not torch.isfinite(total):
                raise Diverged(f"the loss of {member.bench.job.task} is not finite any more: lower the learning rate")

    def _environment(self) -> Environment:
        return Environment.here(self.device, update="none")

    def _save(self, progress: Progress) -> None:
        state = {
            "networks": [member.adapter.network.state_dict() for member in self.members],
            "optimizer": self.optimizer.state_dict(),
            "done": list(progress.done),
            "totals": [total.cpu() for total in progress.totals],
            "rng": torch.get_rng_state(),
            "environment": dict(vars(self._environment())),
        }
        self.checkpoints.save(state, step=progress.step)
        progress.saved = time.monotonic()
        self.on_save(progress.step)

    def _resume(self) -> Progress:
        found = self.checkpoints.load()
        if found is None:
            zeros = [torch.zeros((), dtype=torch.float64, device=self.device) for _ in self.members]
            return Progress(done=[0] * len(self.members), totals=zeros)
        differences = self._environment().differences(found["environment"])
        if differences and not self.members[0].bench.job.allow_other_environment:
            raise BadInput(
                f"the checkpoint comes from another environment, so the same bits cannot be promised: "
                f"{'; '.join(differences)}. Continue all the same with --allow-other-environment."
            )
        for member, state in zip(self.members, found["networks"], strict=True):
            member.adapter.network.load_state_dict(state)
        self.optimizer.load_state_dict(found["optimizer"])
        torch.set_rng_state(found["rng"])
        return Progress(done=found["done"], totals=[total.to(self.device) for total in found["totals"]])


def train_jointly(
    bench: Bench, *, folder: RunFolder, watch: Watch, stop: StopFlag | None, on_step: Callable[[float], None]
) -> None:
    """Train all tasks of the recipe's order, and write the network, what each task adds to it, and a record.

    Raises:
        BadInput: a task is not packed.
        Diverged: a loss is not finite, at every learning rate.
        Requeue: a stop was asked for.
    """
    recipe = bench.job.recipe
    benches = [open_bench(replace(bench.job, task=task, folder=None)) for task in recipe.sequence]

    def assemble(rate: float, share: float, checkpoints: Checkpoints) -> Together:
        members = share_weights(tuple(make_member(one, share=share) for one in benches))
        plan = Plan(
            epochs=1,
            steps=sum(member.steps for member in members),
            schedule=recipe.schedule,
            decay_after=recipe.decay_after,
            decay_again=recipe.decay_again,
            decay_factor=recipe.decay_factor,
            precision=recipe.precision,
        )
        optimizer = make_optimizer(members, rate=rate)
        return Together(members=members, optimizer=optimizer, plan=plan, checkpoints=checkpoints, stop=stop)

    def try_rate(rate: float, number: int) -> tuple[int, float]:
        watch.say("running", stage=f"trying learning rate {rate:g}, {number} of {len(recipe.lr_grid)}")
        checkpoints = Checkpoints(folder.checkpoints / f"trial-{number}")
        trial = assemble(rate, recipe.trial_share, checkpoints)
        trial.run()
        accuracies = [measure(member.bench, member.adapter.network, member.bench.val) for member in trial.members]
        checkpoints.clear()
        return trial.plan.steps, fmean(accuracies)

    rate, trials = recipe.lr, list[Record]()
    if recipe.lr_grid:
        title = f"{bench.job.method}, all tasks"
        rate, trials = choose_rate(
            recipe.lr_grid, file=folder.trials, metric="val_accuracy", title=title, measure=try_rate
        )
    together = assemble(rate, 1.0, Checkpoints(folder.checkpoints))
    total = together.plan.steps
    losses = replace(
        together, on_step=lambda step: on_step(step / total), on_save=lambda step: watch.note(step / total)
    ).run()
    write_outcome(together.members, folder=folder, losses=losses, rate=rate, trials=trials)


def make_member(bench: Bench, *, share: float) -> Member:
    """A task on a copy of the backbone of its own, for a share of the steps that it has alone."""
    recipe = bench.job.recipe
    network = copy.deepcopy(bench.backbone.network)
    network.to(device=bench.job.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    adapter = attach(network, method=bench.method, head=HEAD, norm="trained")
    adapter.add_task(bench.job.task, head=bench.make_head(network.fc.in_features))
    pictures = len(bench.train) + (len(bench.val) if recipe.trained_on == "train+val" else 0)
    steps = recipe.epochs_for(pictures) * epoch_length(pictures, batch_size=recipe.batch_size)
    return Member(bench=bench, adapter=adapter, steps=max(1, round(share * steps)))


def share_weights(members: tuple[Member, ...]) -> tuple[Member, ...]:
    """The same members, whose networks hold the first one's weights and biases, now trained."""
    first = dict(members[0].adapter.network.named_parameters())
    anatomy = members[0].adapter.anatomy
    for name in (*anatomy.weights, *anatomy.rest):
        if name not in first:  # a buffer: of no network of ours, and no task's alone
            continue
        first[name].requires_grad_(True)
        layer, _, part = name.rpartition(".")
        for member in members[1:]:
            setattr(member.adapter.network.get_submodule(layer), part, first[name])
    return members


def make_optimizer(members: tuple[Member, ...], *, rate: float) -> torch.optim.Optimizer:
    """Over what is shared, each once, and what each task has for itself; heads and norm layers at their own rates.

    A parameter without a gradient is left alone, moments included, so a step moves one task's own.

    Raises:
        BadInput: the recipe has another optimizer for heads.
    """
    recipe = members[0].bench.job.recipe
    if recipe.head_rule != recipe.rule:
        raise BadInput(f"joint training has one optimizer: head_rule must be {recipe.rule}, not {recipe.head_rule}")
    heads = [parameter for member in members for parameter in member.adapter.network.get_submodule(HEAD).parameters()]
    named = [dict(member.adapter.network.named_parameters()) for member in members]
    norm_names = members[0].adapter.anatomy.norm
    norms = [parameters[name] for parameters in named for name in norm_names if name in parameters]
    taken = {id(parameter) for parameter in (*heads, *norms)}
    found = (parameter for parameters in named for parameter in parameters.values())
    rest = [p for p in dict.fromkeys(found) if p.requires_grad and id(p) not in taken]
    groups: list[dict[str, Any]] = [
        {"params": rest, "lr": rate},
        {"params": norms, "lr": rate if recipe.norm_lr is None else recipe.norm_lr},
        {"params": heads, "lr": rate * recipe.head_lr_factor},
    ]
    if recipe.rule == "adam":
        return torch.optim.Adam(groups, weight_decay=recipe.weight_decay, fused=True)
    return torch.optim.SGD(groups, momentum=0.9, weight_decay=recipe.weight_decay)


def write_outcome(
    members: tuple[Member, ...], *, folder: RunFolder, losses: list[float], rate: float, trials: list[Record]
) -> None:
    """What each task adds, the record, and the network last."""
    backbone = members[0].bench.backbone
    shared = copy.deepcopy(backbone.network)
    trained = members[0].adapter.network.state_dict()
    anatomy = members[0].adapter.anatomy
    shared.load_state_dict(shared.state_dict() | {name: trained[name] for name in (*anatomy.weights, *anatomy.rest)})
    for member in members:
        job = member.bench.job
        adapter = attach(copy.deepcopy(shared), method=member.bench.method, head=HEAD, norm="trained")
        adapter.add_task(job.task, head=member.bench.make_head(shared.fc.in_features))
        adapter.network.load_state_dict(member.adapter.network.state_dict())
        adapter.save(folder.root / PAYLOADS / f"{job.task}.safetensors", task=job.task)
    record = {
        "lr_used": rate,
        "lr_trials": trials,
        "loss": {member.bench.job.task: loss for member, loss in zip(members, losses, strict=True)},
    }
    write_json(folder.root / RECORD, record)
    source: Mapping[str, object] = {
        "made": members[0].bench.job.method,
        "tasks": [member.bench.job.task for member in members],
        "backbone": backbone.sha256,
    }
    path = folder.root / BACKBONE_FILE
    save_backbone(path, shared.eval(), mean=backbone.mean, std=backbone.std, source=source, replace=True)


def read_record(folder: Path) -> dict[str, Any]:
    """What `write_outcome` noted beside the network.

    Raises:
        BadInput: it is missing or damaged.
    """
    record = read_json(folder / RECORD)
    if not isinstance(record, dict) or record.keys() != {"lr_used", "lr_trials", "loss"}:
        raise BadInput(f"{folder / RECORD} is damaged: remove {folder}, and the joint training is done again")
    return record
