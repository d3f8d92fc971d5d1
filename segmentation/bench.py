"""What a run works on: its job, and the pictures, the backbone and the settings that belong to it."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from piggyback.adapter import Adapter, attach
from piggyback.methods.contract import Method
from piggyback.methods.registry import named_method, set_masks
from piggyback.optimizer import AdamRule, AdapterOptimizer, Rule, SGDRule
from piggyback.shell.errors import BadInput
from segmentation.backbone import Backbone, cached_backbone
from segmentation.batches import epoch_length, scaled_shape, training_batches
from segmentation.fcn import FCN32s, make_head
from segmentation.recipes import Recipe, RunKey, refuse_method
from segmentation.release.packed import PackedSplit, open_split, refuse_overlap
from segmentation.voc import CLASSES, VOID

HEAD: Final = "head"
TASK: Final = "pascal-voc"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to train.

    Attributes:
        method, recipe: as their names say.
        data: folder of packed splits.
        backbone: backbone file.
        out: folder under which the run's folder is made.
        folder: the run's, when somebody else has chosen it, such as a sweep.
        device: to train on.
        allow_overlap: evaluate although pictures were trained on.
        allow_other_environment: continue a checkpoint although its bits cannot be kept.
    """

    method: str
    recipe: Recipe
    data: Path
    backbone: Path
    out: Path
    device: torch.device
    allow_overlap: bool = False
    allow_other_environment: bool = False
    folder: Path | None = None

    @property
    def title(self) -> str:
        """What to call it in progress and notices."""
        return f"{self.method} seed {self.recipe.seed}"

    @property
    def waits_for(self) -> None:
        """No run builds on another."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A job with its pictures and its backbone opened."""

    job: Job
    backbone: Backbone
    train: PackedSplit
    evaluation: PackedSplit

    @property
    def key(self) -> RunKey:
        """What identifies the run."""
        return RunKey(
            method=self.job.method,
            recipe=self.job.recipe,
            train=self.train.fingerprint,
            evaluate=self.evaluation.fingerprint,
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
        return set_masks(named_method(self.job.method), threshold=recipe.threshold, init=recipe.init)

    @cached_property
    def held_out(self) -> tuple[int, ...]:
        """Places in train of the pictures on which learning rates are chosen: those whose ids' digests are lowest,
        so that the choice depends on no seed and on no order of a list."""
        digests = [hashlib.sha256(one.encode()).hexdigest() for one in self.train.ids]
        return tuple(sorted(range(len(digests)), key=digests.__getitem__)[: self.job.recipe.held_out])

    @cached_property
    def trial_places(self) -> tuple[int, ...]:
        """Places in train of all other pictures."""
        held_out = set(self.held_out)
        return tuple(place for place in range(len(self.train)) if place not in held_out)

    @property
    def places(self) -> tuple[int, ...]:
        """Places in train of the pictures of the final training."""
        return tuple(range(len(self.train))) if self.job.recipe.trained_on == "train+val" else self.trial_places

    @cached_property
    def average_pixels(self) -> float:
        """Of a training picture as the network sees it."""
        size = self.job.recipe.size
        sides = zip(self.train.heights.tolist(), self.train.widths.tolist(), strict=True)
        return fmean(math.prod(scaled_shape(*pair, size=size)) for pair in sides)

    def make_adapter(self) -> Adapter:
        """The frozen backbone with the fresh task on it; the same seed gives the same new layers for every method."""
        recipe = self.job.recipe
        network = self.backbone.build(margin=recipe.margin, dropout=recipe.dropout, new_hidden=recipe.new_hidden)
        network.to(device=self.job.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        adapter = attach(network, method=self.method, head=HEAD)
        begin = self.draw_weights(network) if self.method.adapts == "anew" else None
        adapter.add_task(TASK, head=self.make_head(network), begin=begin)
        return adapter

    def draw_weights(self, network: FCN32s) -> dict[str, Tensor]:
        """Random weights for the features and hidden layers of such a network, on the processor; the seed fixes them.

        He's rule, as for new hidden layers.  Unstated: the paper has no FCN-32s from scratch; torchvision's VGG is
        drawn by the same rule over the outputs instead of the inputs.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.job.recipe.seed)
            drawn = FCN32s(network.shape, hidden=not isinstance(network.hidden, nn.Identity))
            for layer in drawn.modules():
                if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                    nn.init.zeros_(layer.bias)
        return drawn.state_dict()

    def make_head(self, network: FCN32s) -> nn.Module:
        """The new layers at their start."""
        recipe = self.job.recipe
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            return make_head(network, classes=len(CLASSES), deconvolution=recipe.deconvolution)

    def make_optimizer(self, adapter: Adapter, *, rate: float) -> AdapterOptimizer:
        """The optimizer at a base learning rate."""
        recipe = self.job.recipe
        rule = AdamRule(weight_decay=recipe.weight_decay)
        head_rule: Rule = rule if recipe.head_rule == "adam" else SGDRule(weight_decay=recipe.weight_decay)
        return adapter.optimizer(
            mask_lr=rate,
            weight_lr=rate * recipe.weight_lr_factor,
            head_lr=rate * recipe.head_lr_factor,
            rule=rule,
            head_rule=head_rule,
            update=recipe.update,
        )

    def epoch_batches(self, places: Sequence[int]) -> int:
        """How many batches an epoch of these pictures has."""
        recipe = self.job.recipe
        return epoch_length(self.train, places, size=recipe.size, batch_size=recipe.batch_size)

    def batches(self, places: Sequence[int], epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and label maps of an epoch from the `start`-th batch on, on the device."""
        recipe, device = self.job.recipe, self.job.device
        for batch in training_batches(
            self.train,
            places=places,
            size=recipe.size,
            batch_size=recipe.batch_size,
            flip=recipe.flip,
            seed=recipe.seed,
            epoch=epoch,
            start=start,
        ):
            pictures = torch.from_numpy(batch.pictures).to(device)
            yield self.backbone.feed(pictures), torch.from_numpy(batch.labels).to(device)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy over the pixels that are not void.

        Args:
            logits: ``(n, 21, h, w)``.
            labels: uint8 ``(n, h, w)``.

        Pixels are laid out as a list: for maps, torch's loss has no deterministic form on GPUs.
        """
        listed = logits.permute(0, 2, 3, 1).reshape(-1, len(CLASSES))
        target = labels.reshape(-1).long()
        total = cross_entropy(listed.float(), target, ignore_index=VOID, reduction="sum")
        if self.job.recipe.loss == "sum":
            return total / (self.average_pixels * len(labels))
        return total / (target != VOID).sum().clamp(min=1)  # nothing but void is no reason for NaN


def open_bench(job: Job) -> Bench:
    """Open everything a job needs; quick, so that what is missing shows before anything is trained.

    Raises:
        BadInput: the method means nothing here, data or backbone are missing, pictures to evaluate on are among those
            to train on, or too few are left to train on.
        UnknownName: there is no such method.
    """
    named_method(job.method)
    refuse_method(job.method)
    recipe = job.recipe
    train, evaluation = open_split(job.data, recipe.train), open_split(job.data, recipe.evaluate)
    refuse_overlap(train, evaluation, allow=job.allow_overlap)
    if recipe.held_out >= len(train):
        raise BadInput(f"{recipe.train} has {len(train)} pictures: {recipe.held_out} held out leave none to train on")
    return Bench(job=job, backbone=cached_backbone(job.backbone), train=train, evaluation=evaluation)
