"""Joint training: one network for several tasks at once, each with its own norm layers, head and adapters.

Every task has a copy of the network, and all copies hold the *same* parameters except those that are the task's own.  A
step is a batch of one task, the one that has done the smallest fraction of its steps; so all end together, each after
as many epochs as it would have alone.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import torch
from torch import Tensor

from piggyback.adapter import Adapter, attach
from piggyback.device import autocast
from piggyback.shell.errors import BadInput
from piggyback.shell.files import write_bytes, write_json
from piggyback.shell.strict_json import read_json
from piggyback.suite.bench import (
    Bench,
    Part,
    attach_adapter,
    backbone_digest,
    benchmark_of,
    make_plan,
    method_of,
    open_bench,
    save_network,
)
from piggyback.suite.networks.making import NETWORK_FILE, Making
from piggyback.suite.ordering import sequence_of
from piggyback.suite.training.checkpoints import Checkpoints
from piggyback.suite.training.loop import Record, Training
from piggyback.suite.training.rate_trials import choose_rate, cut_batches

PAYLOADS: Final = "tasks"  # folder of what each task adds to the network
RECORD: Final = "joint.json"


@dataclass(frozen=True, kw_only=True)
class Member:
    """One task of a joint training: its copy of the network, and how many steps it takes on which pictures."""

    bench: Bench
    adapter: Adapter
    steps: int
    part: Part

    def batches(self, start: int) -> Iterator[Any]:
        """Its batches from batch `start` on, over all epochs."""
        cut = cut_batches(
            lambda epoch, first: self.bench.batches(self.part, epoch, first),
            epoch=self.bench.count_batches(self.part),
            total=self.steps,
        )
        return cut(0, start)


@dataclass(frozen=True, kw_only=True)
class Together:
    """All members under one optimizer: the `Learner` of joint training."""

    members: tuple[Member, ...]
    optimizer: torch.optim.Optimizer
    precision: str
    update: str = "none"

    @property
    def device(self) -> torch.device:
        return self.members[0].bench.job.device

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(member.bench.job.task for member in self.members)

    @property
    def steps(self) -> int:
        return sum(member.steps for member in self.members)

    def begin(self) -> None:
        for member in self.members:
            member.adapter.train()

    def loss(self, batch: tuple[int, Tensor, Tensor]) -> tuple[int, Tensor]:
        number, inputs, targets = batch[0], batch[1].to(self.device), batch[2].to(self.device)
        member = self.members[number]
        with autocast(self.device, precision=self.precision):
            return number, member.bench.loss(member.adapter.network(inputs), targets)

    def state(self) -> dict[str, Any]:
        """State of every copy; shared parameters are stored once per copy."""
        return {"networks": [member.adapter.network.state_dict() for member in self.members]}

    def load(self, state: dict[str, Any]) -> None:
        for member, saved in zip(self.members, state["networks"], strict=True):
            member.adapter.network.load_state_dict(saved)

    def batches(self, _: int, start: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Batches of all members in turn, each with its member's number, from step `start` on."""
        turns = self.turns()
        done = [0] * len(self.members)
        for _ in range(start):
            done[next(turns)] += 1
        own = [member.batches(first) for member, first in zip(self.members, done, strict=True)]
        for number in turns:
            yield number, *next(own[number])

    def turns(self) -> Iterator[int]:
        """Number of each step's member: the one that has done the smallest fraction of its steps."""
        done = [0] * len(self.members)
        for _ in range(self.steps):
            number = min(range(len(done)), key=lambda n: (done[n] / self.members[n].steps, n))
            done[number] += 1
            yield number


def train_jointly(bench: Bench, making: Making) -> None:
    """Train all tasks of the recipe's order, and write the network, what each task adds to it, and a record.

    Raises:
        BadInput: a task is not packed, or the recipe has a setting that joint training does not support.
        Diverged: a loss is not finite, at every learning rate.
        Requeue: a stop was requested.
    """
    recipe, benchmark, folder = bench.job.recipe, benchmark_of(bench), making.folder
    if recipe.accumulate != 1:
        raise BadInput("joint training takes a step after every batch: accumulate must be 1")
    benches = [open_bench(replace(bench.job, task=task, folder=None)) for task in sequence_of(benchmark, recipe)]

    def assemble(rate: float, *, share: float, part: Part) -> Together:
        members = share_weights(tuple(make_member(one, share=share, part=part) for one in benches))
        return Together(members=members, optimizer=make_optimizer(members, rate=rate), precision=recipe.precision)

    def train(together: Together, checkpoints: Checkpoints, **more: Any) -> list[Record]:
        return Training(
            learner=together,
            batches=together.batches,
            plan=make_plan(recipe, epochs=1, steps=together.steps),
            seed=recipe.seed,
            checkpoints=checkpoints,
            stop=making.stop,
            allow_other_environment=bench.job.allow_other_environment,
            **more,
        ).run()

    def try_rate(rate: float, number: int) -> tuple[int, float]:
        making.watch.say("running", stage=f"trying learning rate {rate:g}, {number} of {len(recipe.lr_grid)}")
        checkpoints = Checkpoints(folder.checkpoints / f"trial-{number}")
        trial = assemble(rate, share=recipe.trial_share, part="train")
        train(trial, checkpoints)
        values = [member.bench.measure(member.adapter.network) for member in trial.members]
        checkpoints.clear()
        return trial.steps, fmean(values)

    rate, trials = recipe.lr, list[Record]()
    if recipe.lr_grid:
        title, metric = f"{bench.job.method}, all tasks", benchmark.trial_metric
        rate, trials = choose_rate(recipe.lr_grid, file=folder.trials, metric=metric, title=title, measure=try_rate)
    together = assemble(rate, share=1.0, part=recipe.trained_on)
    (record,) = train(
        together,
        Checkpoints(folder.checkpoints),
        on_step=lambda step: making.on_step(step / together.steps),
        on_save=lambda step: making.watch.note(step / together.steps),
    )
    losses = [total / member.steps for total, member in zip(record["losses"], together.members, strict=True)]
    write_outcome(together.members, root=folder.root, losses=losses, rate=rate, trials=trials)


def make_member(bench: Bench, *, share: float, part: Part) -> Member:
    """A task on its own copy of the backbone, for the given share of the steps that it would take alone."""
    recipe = bench.job.recipe
    network = bench.build_network(bench.job.backbone)
    network.to(device=bench.job.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    adapter = attach(network, method=method_of(bench.job), head=bench.head, norm="trained")
    adapter.add_task(bench.job.task, head=bench.make_head(network))
    count = bench.count_batches(part)
    steps = max(1, round(share * recipe.epochs_for(count) * count))
    return Member(bench=bench, adapter=adapter, steps=steps, part=part)


def share_weights(members: tuple[Member, ...]) -> tuple[Member, ...]:
    """The same members, with the first one's weights and biases, now trainable, in all networks."""
    first = dict(members[0].adapter.network.named_parameters(remove_duplicate=False))
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
    """An optimizer over shared parameters, each once, and each task's own; heads and norm layers have their own rates.

    It skips parameters without a gradient, moments included, so a step changes no other task's own parameters.

    Raises:
        BadInput: the recipe has another optimizer for heads.
    """
    recipe, head = members[0].bench.job.recipe, members[0].bench.head
    if recipe.head_rule != recipe.rule:
        raise BadInput(f"joint training has one optimizer: head_rule must be {recipe.rule}, not {recipe.head_rule}")
    heads = [parameter for member in members for parameter in member.adapter.network.get_submodule(head).parameters()]
    named = [dict(member.adapter.network.named_parameters(remove_duplicate=False)) for member in members]
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
    members: tuple[Member, ...], *, root: Path, losses: list[float], rate: float, trials: list[Record]
) -> None:
    """Write what each task adds, the record, and last the network."""
    first = members[0].bench
    shared = first.build_network(first.job.backbone)
    trained = members[0].adapter.network.state_dict()
    anatomy = members[0].adapter.anatomy
    kept = {name: trained[name] for name in (*anatomy.weights, *anatomy.rest)}
    shared.load_state_dict(shared.state_dict() | kept)
    for member in members:
        # on a copy of the shared network, so that the payload carries that one's fingerprint
        copied = member.bench.build_network(first.job.backbone)
        copied.load_state_dict(copied.state_dict() | kept)
        adapter = attach(copied, method=method_of(member.bench.job), head=member.bench.head, norm="trained")
        adapter.add_task(member.bench.job.task, head=member.bench.make_head(copied))
        adapter.network.load_state_dict(member.adapter.network.state_dict())
        task = member.bench.job.task
        (root / PAYLOADS).mkdir(parents=True, exist_ok=True)
        adapter.save(root / PAYLOADS / f"{task}.safetensors", task=task)
    record = {
        "lr_used": rate,
        "lr_trials": trials,
        "loss": {member.bench.job.task: loss for member, loss in zip(members, losses, strict=True)},
    }
    write_json(root / RECORD, record)
    source: Mapping[str, Any] = {
        "made": first.job.method,
        "tasks": [member.bench.job.task for member in members],
        "backbone": backbone_digest(first.job.backbone),
    }
    save_network(first, root / NETWORK_FILE, shared.eval(), source)


def take_joint(bench: Bench, *, folder: Path, payload: Path) -> tuple[Adapter, dict[str, Any]]:
    """The adapter with a task as the joint training left it, and the record; copies the task's payload.

    Args:
        bench: the task's.
        folder: of the joint training.
        payload: file to copy to.

    Raises:
        BadInput: the record is missing or damaged.
    """
    record = read_json(folder / RECORD)
    if not isinstance(record, dict) or record.keys() != {"lr_used", "lr_trials", "loss"}:
        raise BadInput(f"{folder / RECORD} is damaged: remove {folder}, and the joint training is done again")
    write_bytes(payload, (folder / PAYLOADS / f"{bench.job.task}.safetensors").read_bytes())
    adapter = attach_adapter(bench, network=folder / NETWORK_FILE)
    adapter.load(payload)
    return adapter, record
