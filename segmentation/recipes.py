"""Recipes: everything about a training that can change a number, as frozen data.

Source of the stated values: Piggyback, section 6 (PASCAL 2011 + SBD by the splits of FCN's repository, 15 epochs,
VGG-16 with a score layer and a deconvolution of stride 32) and section 3 with the authors' code (threshold 5e-3,
masks start at 1e-2).  The paper says nothing of optimizer, learning rate, batch, picture size, normalisation, biases
or whether the deconvolution is learned in this task, and its authors' repository has no code for it: all of these
are fields, and "unstated".  The 7.5 MB of new layers that it reports are those of a learned, full deconvolution.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from piggyback.shell.errors import BadInput
from piggyback.suite.recipe import run_id
from segmentation.release.splits import EVALUATION_SPLIT, TRAIN_SPLIT, find_split

HUGE: Final = (1 << 63) - 1  # the last number that fits into C's
RATE: Final = 1_000_000  # far beyond use, and its products are still float32 numbers
MAY_BE_ZERO: Final = ("weight_decay", "held_out", "size", "seed")
LARGEST: Final = MappingProxyType(
    {
        **dict.fromkeys(("epochs", "batch_size", "accumulate", "held_out", "seed"), HUGE),
        **dict.fromkeys(("lr", "weight_lr_factor", "head_lr_factor", "decay_factor", "weight_decay"), RATE),
        "size": 1 << 13,  # no picture is packed with a longer side
        "new_hidden": 1 << 16,  # no backbone file has more
    }
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How FCN-32s is trained.  Fields marked "unstated" are choices of ours where the paper is silent."""

    epochs: int = 15
    """Passes over the training pictures (stated)."""
    decay_after: float = 1.0
    """Unstated: share of the steps after which learning rates fall; never, as in FCN's solver."""
    decay_factor: float = 0.1
    """What they are multiplied with then."""
    batch_size: int = 1
    """Unstated: pictures of one shape that go through together; 1 in FCN."""
    accumulate: int = 1
    """Unstated: batches whose mean gradient makes one step."""
    lr: float = 1e-4
    """Unstated here: Adam's learning rate for real masks (stated for classification)."""
    weight_lr_factor: float = 1.0
    """Unstated: learning rate of the backbone's own weights, where a method trains them, as a multiple of `lr`."""
    head_lr_factor: float = 1.0
    """Unstated: learning rate of the layers trained from scratch, as a multiple of `lr`."""
    head_rule: Literal["adam", "sgd"] = "adam"
    """Unstated: their optimizer."""
    weight_decay: float = 0.0
    """Unstated: L2 on new layers and fine-tuned weights, never on masks."""
    loss: Literal["mean", "sum"] = "mean"
    """Unstated: every batch counts alike, or by its scored pixels as in FCN.  The sum is divided by the pixels that a
    training picture has on average, so that learning rates mean the same for both: of some 180,000 pixels, FCN's
    1e-10 on the plain sum is 1.8e-5 here."""
    lr_grid: tuple[float, ...] = ()
    """Unstated: learning rates to try; the best on the held-out pictures is used.  None tried when empty."""
    trial_share: float = 0.4
    """Unstated: a trial's length as a share of the epochs."""
    held_out: int = 0
    """Unstated: training pictures kept out of trials, to choose the learning rate on."""
    trained_on: Literal["train", "train+val"] = "train"
    """Unstated: whether the final training leaves the held-out pictures out too, or takes all."""
    threshold: float = 5e-3
    """Binarizer threshold (stated)."""
    init: float = 1e-2
    """Start of every real mask value (stated)."""
    deconvolution: Literal["learned", "fixed"] = "learned"
    """By the size reported: a full learned deconvolution; FCN's own is fixed."""
    margin: Literal["fcn", "same"] = "fcn"
    """Padding: FCN's 100 pixels, or just enough to cover the picture."""
    dropout: float = 0.5
    """After fc6 and fc7 (FCN)."""
    new_hidden: int = 4096
    """Width of fc6 and fc7 where the backbone has none; those are then trained from scratch."""
    size: int = 0
    """Longer side in pixels to which pictures are scaled for the network; 0 leaves them as they are (FCN).  Scores are
    always those of the picture's own pixels: logits are scaled up before the best class is taken."""
    flip: bool = False
    """Unstated: mirror half the training pictures; FCN does not."""
    train: str = TRAIN_SPLIT
    """Split to train on."""
    evaluate: str = EVALUATION_SPLIT
    """Split to evaluate on."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of forward and backward; auto is bf16 where the device has it."""
    update: Literal["auto", "compiled", "eager"] = "auto"
    """Form of the mask update; see docs/performance.md."""
    seed: int = 0
    """Fixes the new layers' start, the order of pictures, dropout and mirroring."""

    def __post_init__(self) -> None:
        for name, most in LARGEST.items():
            value, may_be_zero = getattr(self, name), name in MAY_BE_ZERO
            if not (0 <= value <= most and (value or may_be_zero)):
                least = "at least" if may_be_zero else "above"
                raise BadInput(f"a recipe's {name} must be {least} 0 and at most {most:,}, not {value}")
        if not 0 < self.decay_after <= 1 or not 0 < self.trial_share <= 1:
            raise BadInput("decay_after and trial_share are shares of the epochs: above 0, at most 1")
        if not 0 <= self.dropout < 1:
            raise BadInput(f"dropout is a share below 1, not {self.dropout}")
        if not -RATE < self.threshold < self.init < RATE:
            raise BadInput(f"init {self.init} must exceed threshold {self.threshold}: all masks start at one")
        if not all(0 < rate <= RATE for rate in self.lr_grid):
            raise BadInput(f"learning rates must be above 0 and at most {RATE:,}, not {self.lr_grid}")
        if self.lr_grid and not self.held_out:
            raise BadInput("learning rates are chosen on held-out training pictures: give held_out with lr_grid")
        if not find_split(self.train).labelled or not find_split(self.evaluate).labelled:
            raise BadInput(f"a split without label maps can neither train nor score: {self.train}, {self.evaluate}")


WITHOUT: Final[Mapping[str, str]] = MappingProxyType(
    {
        "packnet": "it begins with the backbone's own pictures, those of ImageNet",
        **dict.fromkeys(("joint", "series-joint"), "it trains several tasks together, and here is one"),
        "norm": "VGG-16 has no norm layers, so it would be the same as feature",
    }
)
"""Methods that mean nothing here, and why."""


def refuse_method(name: str) -> None:
    """Raise BadInput for a method that means nothing here."""
    if name in WITHOUT:
        raise BadInput(f"segmentation has no {name}: {WITHOUT[name]}; take another method")


@dataclass(frozen=True, kw_only=True)
class RunKey:
    """What identifies a run: the same key, the same numbers.

    Attributes:
        method: name.
        recipe: every setting.
        train, evaluate: fingerprints of the packed splits.
        backbone: SHA-256 of the backbone file.
    """

    method: str
    recipe: Recipe
    train: str
    evaluate: str
    backbone: str

    @property
    def run_id(self) -> str:
        """Ten hexadecimal digits."""
        return run_id(self)

    @property
    def folder_name(self) -> str:
        """Readable, and different for different keys."""
        return f"{self.recipe.evaluate}-{self.method}-seed{self.recipe.seed}-{self.run_id}"


RECIPES: Final[Mapping[str, Recipe]] = MappingProxyType(
    {
        "paper": Recipe(),
        "mini": Recipe(
            epochs=8,
            batch_size=2,
            lr=1e-4,
            weight_lr_factor=0.1,
            head_lr_factor=3.0,
            decay_after=0.75,
            lr_grid=(1e-4, 2e-4),
            trial_share=0.4,
            held_out=20,
            trained_on="train+val",
            deconvolution="fixed",
            margin="same",
            dropout=0.0,
            new_hidden=128,
            size=128,
            flip=True,
        ),
        "smoke": Recipe(epochs=1, batch_size=4, lr=1e-3, margin="same", new_hidden=32, size=64),
    }
)

DESCRIPTIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "paper": "section 6 of the paper: 15 epochs at full size, FCN-32s exactly",
        "mini": "the small sample of real pictures on 2 cores, at 128 px; no benchmark result",
        "smoke": "one short epoch at 64 px: does it run?",
    }
)
