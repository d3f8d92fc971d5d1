"""What a run works on: its job, and the pictures, the backbone and the settings that belong to it."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from decathlon.backbone import Backbone, load_backbone
from decathlon.batches import Augmentation, normalise, training_batches
from decathlon.channels import Statistics, measure_statistics, official_statistics
from decathlon.packed import PackedSplit, open_split
from decathlon.recipes import Recipe, RunKey
from decathlon.tasks import BACKBONE_TASK, find_task
from piggyback.adapter import Adapter, attach
from piggyback.errors import BadInput
from piggyback.methods import Method, named_method
from piggyback.optimizer import AdamRule, AdapterOptimizer, Rule, SGDRule

HEAD: Final = "fc"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to train.

    Attributes:
        task, method, recipe: as their names say.
        data: folder of packed tasks.
        backbone: backbone file.
        out: folder under which the run's folder is made.
        folder: the run's, when somebody else has chosen it, such as a sweep.
        device: to train on.
        allow_other_environment: continue a checkpoint although its bits cannot be kept.
    """

    task: str
    method: str
    recipe: Recipe
    data: Path
    backbone: Path
    out: Path
    device: torch.device
    allow_other_environment: bool = False
    folder: Path | None = None

    @property
    def title(self) -> str:
        """What to call it in progress and notices."""
        return f"{self.task} {self.method}"


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A job with its pictures and its backbone opened."""

    job: Job
    backbone: Backbone
    train: PackedSplit
    val: PackedSplit
    test: PackedSplit

    @property
    def key(self) -> RunKey:
        """What identifies the run."""
        return RunKey(
            task=self.job.task,
            method=self.job.method,
            recipe=self.job.recipe,
            data=self.train.fingerprint,
            backbone=self.backbone.sha256,
        )

    @property
    def root(self) -> Path:
        """The run's folder."""
        return self.job.folder or self.job.out / "runs" / self.key.folder_name

    @property
    def method(self) -> Method:
        """The method with the recipe's settings."""
        method = named_method(self.job.method)
        if method.adapts != "weights":
            return method
        return cast(Method, replace(cast(Any, method), threshold=self.job.recipe.threshold, init=self.job.recipe.init))

    @cached_property
    def statistics(self) -> Statistics:
        """Mean and standard deviation with which pictures are normalised; measuring them takes a while."""
        match self.job.recipe.normalise:
            case "backbone":
                return Statistics(self.backbone.mean, self.backbone.std)
            case "official-task":
                return official_statistics(self.job.task)
            case "own-train":
                return measure_statistics(self.train)

    def augmentation(self, *, training: bool) -> Augmentation:
        """How pictures are brought to the network."""
        recipe, task = self.job.recipe, find_task(self.job.task)
        flip = training and recipe.flip and task.mirrored
        return Augmentation(size=recipe.size, view=recipe.view(task.name), flip=flip)

    def make_adapter(self) -> Adapter:
        """The frozen backbone with the fresh task on it; the same seed gives the same head for every method."""
        network = copy.deepcopy(self.backbone.network)
        network.to(device=self.job.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        recipe = self.job.recipe
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            head = nn.Linear(network.fc.in_features, self.train.classes)
        # "feature" is the head alone by definition; the recipe's choice is about methods that change weights
        norm = recipe.norm if self.method.adapts == "weights" else "fixed"
        adapter = attach(network, method=self.method, head=HEAD, norm=norm)
        adapter.add_task(self.job.task, head=head)
        return adapter

    def make_optimizer(self, adapter: Adapter, *, rate: float) -> AdapterOptimizer:
        """The optimizer at a base learning rate."""
        recipe = self.job.recipe
        rule = AdamRule(weight_decay=recipe.weight_decay)
        head_rule: Rule = rule if recipe.head_rule == "adam" else SGDRule(weight_decay=recipe.weight_decay)
        return adapter.optimizer(
            mask_lr=rate,
            head_lr=rate * recipe.head_lr_factor,
            norm_lr=recipe.norm_lr,
            rule=rule,
            head_rule=head_rule,
            update=recipe.update,
        )

    def inputs(self, pixels: Tensor) -> Tensor:
        """Normalised pictures on the device."""
        mean, std = self.statistics.mean, self.statistics.std
        return normalise(pixels.to(self.job.device, non_blocking=True), mean=mean, std=std)

    def batches(self, split: PackedSplit, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Training batches of an epoch from the `start`-th on."""
        recipe = self.job.recipe
        augmentation = self.augmentation(training=True)
        for batch in training_batches(
            split, augmentation=augmentation, batch_size=recipe.batch_size, seed=recipe.seed, epoch=epoch, start=start
        ):
            yield self.inputs(batch.pixels), batch.labels.to(self.job.device)


def open_bench(job: Job) -> Bench:
    """Open everything a job needs; quick, so that what is missing shows before anything is trained.

    Raises:
        BadInput: data or backbone are missing, the task is the backbone's own, or its pictures are too small.
        UnknownName: there is no such task or method.
    """
    find_task(job.task)
    named_method(job.method)
    if job.task == BACKBONE_TASK:
        raise BadInput(f"{BACKBONE_TASK} is the backbone's own task: see `piggyback decathlon backbone`")
    train, val, test = (open_split(job.data, job.task, split) for split in ("train", "val", "test"))
    if job.recipe.view(job.task) == "crop":
        refuse_small_pictures((train, val, test), size=job.recipe.size)
    return Bench(job=job, backbone=cached_backbone(job.backbone), train=train, val=val, test=test)


def refuse_small_pictures(splits: tuple[PackedSplit, ...], *, size: int) -> None:
    """Raise BadInput where no window of `size` pixels fits into a picture."""
    for split in splits:
        smallest = min(int(split.heights.min()), int(split.widths.min()))
        if smallest < size:
            raise BadInput(
                f"{split.task} {split.split} has a picture of {smallest} px, too small for a crop of {size} px: "
                "take a smaller --size, or name the task in --whole"
            )


@lru_cache(maxsize=2)
def cached_backbone(path: Path) -> Backbone:
    """A backbone file, read once per process; its network is never trained itself."""
    return load_backbone(path)
