"""The bench of a run: its job, with the pictures, the backbone and the settings that belong to it."""

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from leaderboard.result import Counts
from piggyback.shell.errors import BadInput
from piggyback.shell.files import sha256_of
from piggyback.suite.bench import Finish, Job, Measured, Part, seeded
from piggyback.suite.training.checkpoints import Environment
from piggyback.suite.training.run_folder import RunFolder
from segmentation.batches import epoch_length, scaled_shape, training_batches
from segmentation.metric.confusion import write_matrix
from segmentation.metric.miou import score, write_csv
from segmentation.metric.sheets import write_sheets
from segmentation.network.backbone_file import Backbone, cached_backbone
from segmentation.network.fcn import FCN32s, make_head
from segmentation.options import Overlap
from segmentation.prediction import Predictor, Scored, count_places, predict_split
from segmentation.recipes import FCNRecipe
from segmentation.release.packed import PackedSplit, open_split, refuse_overlap
from segmentation.voc import CLASSES, VOID

HEAD: Final = "head"
SHEET_PICTURES: Final = 4  # on the overlay sheet that lies beside a result


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A job with its pictures and its backbone opened; see `piggyback.suite.bench.Bench`.

    Attributes:
        opened: the backbone.
        train: pictures to train on, held-out ones among them.
    """

    job: Job[FCNRecipe]
    opened: Backbone
    train: PackedSplit
    evaluation: PackedSplit
    head: str = HEAD

    @property
    def recipe(self) -> FCNRecipe:
        return self.job.recipe

    @property
    def fingerprints(self) -> Mapping[str, str]:
        return {"train": self.train.fingerprint, "evaluate": self.evaluation.fingerprint}

    @cached_property
    def held_out(self) -> tuple[int, ...]:
        """Places in train of the pictures on which learning rates are chosen: those whose ids' digests are lowest,
        so that the choice depends on no seed and on no order of a list."""
        digests = [hashlib.sha256(one.encode()).hexdigest() for one in self.train.ids]
        return tuple(sorted(range(len(digests)), key=digests.__getitem__)[: self.recipe.held_out])

    @cached_property
    def trial_places(self) -> tuple[int, ...]:
        """Places in train of all other pictures."""
        held_out = set(self.held_out)
        return tuple(place for place in range(len(self.train)) if place not in held_out)

    def places(self, part: Part) -> tuple[int, ...]:
        """Places in train of the pictures to train on."""
        return self.trial_places if part == "train" else tuple(range(len(self.train)))

    @cached_property
    def average_pixels(self) -> float:
        """Mean number of pixels of a training picture at the size that the network sees."""
        size = self.recipe.size
        sides = zip(self.train.heights.tolist(), self.train.widths.tolist(), strict=True)
        return fmean(math.prod(scaled_shape(*pair, size=size)) for pair in sides)

    @property
    def predictor(self) -> Predictor:
        return Predictor(
            feed=self.opened.feed, size=self.recipe.size, device=self.job.device, precision=self.recipe.precision
        )

    def build_network(self, path: Path) -> FCN32s:
        """The network with copies of the backbone's weights, and no head yet."""
        recipe = self.recipe
        return cached_backbone(path).build(margin=recipe.margin, dropout=recipe.dropout, new_hidden=recipe.new_hidden)

    def make_head(self, network: nn.Module) -> nn.Module:
        """The new layers at their start."""
        recipe = self.recipe
        with seeded(recipe.seed):
            return make_head(cast(FCN32s, network), classes=len(CLASSES), deconvolution=recipe.deconvolution)

    def draw_weights(self, network: nn.Module) -> Mapping[str, Tensor]:
        """Random weights for the features and hidden layers of such a network, on the processor; the seed fixes them.

        He's rule, as for new hidden layers.  Unstated: the paper has no FCN-32s from scratch; torchvision's VGG is
        drawn by the same rule over the outputs instead of the inputs.
        """
        with seeded(self.recipe.seed):
            like = cast(FCN32s, network)
            drawn = FCN32s(like.shape, hidden=not isinstance(like.hidden, nn.Identity))
            for layer in drawn.modules():
                if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                    nn.init.zeros_(layer.bias)
        return drawn.state_dict()

    def count_batches(self, part: Part) -> int:
        """Batches in an epoch; the last one of each shape may be smaller."""
        recipe = self.recipe
        return epoch_length(self.train, self.places(part), size=recipe.size, batch_size=recipe.batch_size)

    def batches(self, part: Part, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Pictures, as the backbone is fed, and label maps, uint8 with void."""
        recipe, device = self.recipe, self.job.device
        for batch in training_batches(
            self.train,
            places=self.places(part),
            size=recipe.size,
            batch_size=recipe.batch_size,
            flip=recipe.flip,
            seed=recipe.seed,
            epoch=epoch,
            start=start,
        ):
            pictures = torch.from_numpy(batch.pictures).to(device)
            yield self.opened.feed(pictures), torch.from_numpy(batch.labels).to(device)

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """Cross-entropy over the pixels that are not void.

        Args:
            outputs: ``(n, 21, h, w)``.
            targets: uint8 ``(n, h, w)``.

        Pixels are laid out as a list: for maps, torch's loss has no deterministic form on GPUs.
        """
        listed = outputs.permute(0, 2, 3, 1).reshape(-1, len(CLASSES))
        target = targets.reshape(-1).long()
        total = cross_entropy(listed.float(), target, ignore_index=VOID, reduction="sum")
        if self.recipe.loss == "sum":
            return total / (self.average_pixels * len(targets))
        return total / (target != VOID).sum().clamp(min=1)  # nothing but void is no reason for NaN

    def measure(self, network: nn.Module) -> float:
        """Mean IoU on the held-out pictures, a fraction."""
        matrix = count_places(self.predictor, network, self.train, self.held_out)
        return score(matrix, pictures=len(self.held_out)).mean_iou

    def finish(self, finish: Finish) -> Measured:
        """Predict and score the evaluation split; write label maps, confusion, scores by class and a sheet."""
        folder, split = finish.folder, self.evaluation
        finish.say(f"evaluating on {split.name}")
        scored = predict_split(
            self.predictor,
            finish.network,
            split,
            folder=folder.root / "predictions" / split.name,
            source=prediction_source(folder, split, environment=finish.environment),
            stop=finish.stop,
        )
        evidence = folder.root / "confusion.json"
        write_matrix(evidence, scored.matrix)
        write_csv(folder.root / "scores.csv", score(scored.matrix, pictures=scored.pictures))
        write_sheets(folder.root / "sheet.png", split, predictions=scored.folder, pictures=SHEET_PICTURES)
        return self.describe(scored, evidence=evidence)

    def describe(self, scored: Scored, *, evidence: Path) -> Measured:
        """The scores of a confusion matrix, with the counts of pictures that a result must state."""
        scores, train = score(scored.matrix, pictures=scored.pictures), self.train
        used = len(self.places(self.recipe.trained_on))
        return Measured(
            split=self.recipe.evaluate,
            metrics={
                "mean_iou": scores.mean_iou,
                "pixel_accuracy": scores.pixel_accuracy,
                "mean_accuracy": scores.mean_accuracy,
                "frequency_weighted_iou": scores.frequency_weighted_iou,
                "classes": float(len(scores.iou) - len(scores.absent)),
            },
            counts=Counts(n=int(scored.matrix.sum()), correct=int(scored.matrix.trace())),
            evidence=evidence,
            official=train.official and self.evaluation.official,
            noted={
                "pictures_trained_on": f"{used}; {train.name} has {train.completeness}",
                "pictures_evaluated": self.evaluation.completeness,
                "pictures_in_both": len(set(train.ids) & set(self.evaluation.ids)),
            },
        )


def prediction_source(folder: RunFolder, split: PackedSplit, *, environment: Environment) -> dict[str, Any]:
    """The inputs that a run's predictions depend on: where one differs, they are made again."""
    return {"payload": sha256_of(folder.payload), "split": split.fingerprint, "environment": vars(environment)}


def open_bench(job: Job[FCNRecipe]) -> Bench:
    """Open everything a job needs; quick, so that what is missing shows before anything is trained.

    Raises:
        BadInput: data or backbone are missing, pictures to evaluate on are among those to train on, or too few are
            left to train on.
    """
    recipe = job.recipe
    train, evaluation = open_split(job.data, recipe.train), open_split(job.data, recipe.evaluate)
    # a finished run's result states the overlap
    refuse_overlap(train, evaluation, allow=job.finished or (isinstance(job.own, Overlap) and job.own.allow_overlap))
    if recipe.held_out >= len(train):
        raise BadInput(f"{recipe.train} has {len(train)} pictures: {recipe.held_out} held out leave none to train on")
    return Bench(job=job, opened=cached_backbone(job.backbone), train=train, evaluation=evaluation)
