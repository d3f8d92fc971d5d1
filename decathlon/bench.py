"""The bench of a run: its job, with the pictures, the backbone and the settings that belong to it."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from decathlon.backbone.backbone_file import Backbone, load_backbone, save_backbone
from decathlon.backbone.wrn import WideResNet, wide_resnet
from decathlon.batches import Augmentation, epoch_length, evaluation_batches, normalise, training_batches
from decathlon.challenge.submission import Predictions
from decathlon.recipes import Recipe
from decathlon.release.channels import Statistics, measure_statistics, official_statistics
from decathlon.release.packed import open_split
from decathlon.tasks import BACKBONE_TASK, SPLITS, find_task
from piggyback.data.labelled import PackedSplit, join
from piggyback.shell.errors import BadInput
from piggyback.suite.accuracy import choose_classes, measure_accuracy
from piggyback.suite.bench import Finish, Job, Measured, Part, seeded
from piggyback.suite.recipe import Recipe as AnyRecipe

HEAD: Final = "fc"
EVALUATION_BATCH: Final = 100


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A job with its pictures and its backbone opened; see `piggyback.suite.bench.Bench`.

    Attributes:
        opened: the backbone.
        old_head: whether the task's head begins as a copy of the backbone's own.
    """

    job: Job[Recipe]
    opened: Backbone
    train: PackedSplit
    val: PackedSplit
    test: PackedSplit
    old_head: bool = False
    head: str = HEAD

    @property
    def recipe(self) -> Recipe:
        return self.job.recipe

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """Digest of the task's packed pictures, all splits together."""
        return {"data": self.train.fingerprint}

    @cached_property
    def statistics(self) -> Statistics:
        """Mean and standard deviation with which pictures are normalised; measuring them takes a while."""
        match self.recipe.normalise:
            case "backbone":
                return Statistics(self.opened.mean, self.opened.std)
            case "official-task":
                return official_statistics(self.job.task)
            case "own-train":
                return measure_statistics(self.train)

    def build_network(self, path: Path) -> WideResNet:
        """A copy of the network in a backbone file."""
        return copy.deepcopy(cached_backbone(path).network)

    def make_head(self, network: nn.Module) -> nn.Linear:
        """A linear layer over the network's features; see `old_head`."""
        old = cast(WideResNet, network).fc
        if self.old_head:
            return copy.deepcopy(old)
        with seeded(self.recipe.seed):
            return nn.Linear(old.in_features, self.train.classes)

    def draw_weights(self, network: nn.Module) -> Mapping[str, Tensor]:
        """Fresh weights of a wide residual network of the same size."""
        like = cast(WideResNet, network)
        return wide_resnet(like.depth, like.widen, classes=1, seed=self.recipe.seed).state_dict()

    def pictures(self, part: Part) -> PackedSplit:
        return self.train if part == "train" else join(self.train, self.val)

    def count_batches(self, part: Part) -> int:
        """Batches in an epoch; the last one may be smaller."""
        return epoch_length(len(self.pictures(part)), batch_size=self.recipe.batch_size)

    def batches(self, part: Part, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Augmented pictures and their places in the task's categories."""
        for batch in training_batches(
            self.pictures(part),
            augmentation=self.augmentation(training=True),
            batch_size=self.recipe.batch_size,
            seed=self.recipe.seed,
            epoch=epoch,
            start=start,
        ):
            yield self.inputs(batch.pixels), batch.labels.to(self.job.device)

    def augmentation(self, *, training: bool) -> Augmentation:
        recipe, task = self.recipe, find_task(self.job.task)
        flip = training and recipe.flip and task.mirrored
        return Augmentation(size=recipe.size, view=recipe.view(task.name), flip=flip)

    def inputs(self, pixels: Tensor) -> Tensor:
        """Normalised pictures on the device."""
        mean, std = self.statistics.mean, self.statistics.std
        return normalise(pixels.to(self.job.device, non_blocking=True), mean=mean, std=std)

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        return cross_entropy(outputs, targets)

    def predict(self, network: nn.Module, split: PackedSplit) -> NDArray[np.int64]:
        """The most likely class of each picture of a split, as places in its categories, int64 (n).

        Raises:
            Diverged: a logit is not finite.
        """
        seen = self.augmentation(training=False)
        batches = evaluation_batches(split, augmentation=seen, batch_size=EVALUATION_BATCH)
        return choose_classes(
            network,
            (self.inputs(batch.pixels) for batch in batches),
            job=self.job,
            split=split.split,
        )

    def measure(self, network: nn.Module) -> float:
        """Accuracy on val."""
        return float((self.predict(network, self.val) == self.val.labels).mean())

    def finish(self, finish: Finish) -> Measured:
        """Predict the test part without its labels, and count right pictures of val."""
        places = self.predict(finish.network, self.test)
        chosen = self.test.category_ids[places]
        Predictions(task=self.job.task, image_ids=self.test.image_ids, category_ids=chosen).save(
            finish.folder.predictions
        )
        right = self.predict(finish.network, self.val) == self.val.labels
        return measure_accuracy(right, split="val", evidence=finish.folder.predictions, official=self.train.official)

    def open_own_task(self, recipe: AnyRecipe) -> "Bench":
        """The bench of imagenet12 with the backbone's own head.

        Raises:
            BadInput: imagenet12 is not packed, or has another number of classes than the head.
        """
        whole = tuple(task for task in self.recipe.whole if task != BACKBONE_TASK)
        fed = replace(cast(Recipe, recipe), normalise="backbone", whole=whole)
        train, val, test = (open_split(self.job.data, BACKBONE_TASK, split) for split in SPLITS)
        if train.classes != self.opened.classes:
            found = f"a head of {self.opened.classes} classes, but {BACKBONE_TASK} has {train.classes}"
            raise BadInput(f"{self.opened.path} has {found}; take the backbone that was trained on these data")
        job = replace(self.job, task=BACKBONE_TASK, recipe=fed)
        return replace(self, job=job, train=train, val=val, test=test, old_head=True)

    def save_network(self, path: Path, network: nn.Module, source: Mapping[str, Any]) -> None:
        mean, std = self.opened.mean, self.opened.std
        save_backbone(path, cast(WideResNet, network), mean=mean, std=std, source=source, replace=True)


def open_bench(job: Job[Recipe]) -> Bench:
    """Open everything a job needs; quick, so that what is missing shows before anything is trained.

    Raises:
        BadInput: data or backbone are missing, or the task's pictures are too small.
    """
    train, val, test = (open_split(job.data, job.task, split) for split in SPLITS)
    if job.recipe.view(job.task) == "crop":
        refuse_small_pictures((train, val, test), size=job.recipe.size)
    return Bench(job=job, opened=cached_backbone(job.backbone), train=train, val=val, test=test)


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
