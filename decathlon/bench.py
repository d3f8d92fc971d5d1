"""What a run works on: its job, and the pictures, the backbone and the settings that belong to it."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from decathlon.backbone.backbone_file import Backbone, load_backbone
from decathlon.backbone.wrn import wide_resnet
from decathlon.batches import Augmentation, normalise, training_batches
from decathlon.recipes import GroundKey, Recipe, RunKey, refuse_task, task_before
from decathlon.release.channels import Statistics, measure_statistics, official_statistics
from decathlon.release.packed import open_split
from decathlon.tasks import BACKBONE_TASK, SPLITS, find_task
from piggyback.adapter import Adapter, attach
from piggyback.data.labelled import PackedSplit
from piggyback.methods.contract import Follows, Method
from piggyback.methods.registry import named_method, set_masks
from piggyback.optimizer import AdamRule, AdapterOptimizer, Rule, SGDRule
from piggyback.shell.errors import BadInput

HEAD: Final = "fc"
GROUNDS: Final = "grounds"  # folder, beside that of the runs, of networks that were changed for a method first
BACKBONE_FILE: Final = "backbone.safetensors"


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
        after: folder of the run that this one builds on, when somebody else has chosen that.
        ground: folder to take the network from that the method stands on, when it was made elsewhere.
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
    after: Path | None = None
    ground: Path | None = None

    @property
    def title(self) -> str:
        """What to call it in progress and notices."""
        return f"{self.task} {self.method}"

    @property
    def waits_for(self) -> str | None:
        """Title of the job that must be done before this one."""
        before = previous_task(self)
        return None if before is None else replace(self, task=before).title


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
        recipe = self.job.recipe
        method = set_masks(named_method(self.job.method), threshold=recipe.threshold, init=recipe.init)
        return method.for_tasks(len(recipe.sequence)) if isinstance(method, Follows) else method

    @property
    def standing(self) -> Backbone:
        """The network that the method stands on: the backbone, or a copy that was changed for it first.

        Raises:
            BadInput: there is no such copy yet.
        """
        if self.method.stands_on == "backbone":
            return self.backbone
        path = ground_folder(self) / BACKBONE_FILE
        if not path.exists():
            raise BadInput(f"{self.job.method} stands on {path}, which is not there: `piggyback decathlon ground`")
        return cached_backbone(path)

    @property
    def previous(self) -> Path | None:
        """Payload of the task that this one builds on.

        Raises:
            BadInput: its run is not finished.
        """
        before = previous_task(self.job)
        if before is None:
            return None
        root = self.job.after
        if root is None:
            root = open_bench(replace(self.job, task=before, folder=None)).root
        if not (root / "result.json").exists():
            raise BadInput(f"{self.job.task} by {self.job.method} builds on {before}, whose run {root} is not finished")
        return root / "payload.safetensors"

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

    def attach_adapter(self) -> Adapter:
        """The frozen weights that the method stands on, without any task."""
        network = copy.deepcopy(self.standing.network)
        network.to(device=self.job.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        # "feature" is the head alone by definition; on a pruned network the first pruning's norm layers serve all tasks
        free = self.method.adapts in ("weights", "modules") and self.method.stands_on != "pruned"
        return attach(network, method=self.method, head=HEAD, norm=self.job.recipe.norm if free else "fixed")

    def make_head(self, features: int) -> nn.Linear:
        """A fresh head; the same seed gives the same one for every method."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.job.recipe.seed)
            return nn.Linear(features, self.train.classes)

    def make_adapter(self) -> Adapter:
        """The frozen weights with the fresh task on them."""
        adapter = self.attach_adapter()
        network, recipe = self.standing.network, self.job.recipe
        begin, after = None, None
        if self.method.adapts == "anew":
            drawn = wide_resnet(network.depth, network.widen, classes=1, seed=recipe.seed)
            begin = drawn.state_dict()
        if self.previous is not None:
            after = adapter.load(self.previous)
        adapter.add_task(self.job.task, head=self.make_head(network.fc.in_features), begin=begin, after=after)
        return adapter

    def make_optimizer(self, adapter: Adapter, *, rate: float) -> AdapterOptimizer:
        """The optimizer at a base learning rate."""
        recipe = self.job.recipe
        adam, sgd = AdamRule(weight_decay=recipe.weight_decay), SGDRule(weight_decay=recipe.weight_decay)
        rule: Rule = adam if recipe.rule == "adam" else sgd
        head_rule: Rule = adam if recipe.head_rule == "adam" else sgd
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
    method = named_method(job.method)
    refuse_task(job.recipe, task=job.task, method=job.method, stands_on=method.stands_on)
    train, val, test = (open_split(job.data, job.task, split) for split in SPLITS)
    if job.recipe.view(job.task) == "crop":
        refuse_small_pictures((train, val, test), size=job.recipe.size)
    return Bench(job=job, backbone=cached_backbone(job.backbone), train=train, val=val, test=test)


def previous_task(job: Job) -> str | None:
    """The task that this one builds on, for methods whose tasks do."""
    return task_before(job.recipe, task=job.task) if isinstance(named_method(job.method), Follows) else None


def ground_key(bench: Bench) -> GroundKey:
    """What identifies the network that the bench's method stands on."""
    job, kind = bench.job, bench.method.stands_on
    if kind == "pruned":
        tasks: tuple[str, ...] = (BACKBONE_TASK,)
        recipe = replace(job.recipe, order=())  # the same network for every order
    else:
        tasks, recipe = job.recipe.sequence, job.recipe
    data = {task: open_split(job.data, task, "train").fingerprint for task in tasks}
    return GroundKey(method=job.method, recipe=recipe, data=data, backbone=bench.backbone.sha256)


def ground_folder(bench: Bench) -> Path:
    """Where the network that the bench's method stands on is made."""
    return bench.job.out / GROUNDS / ground_key(bench).folder_name


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
