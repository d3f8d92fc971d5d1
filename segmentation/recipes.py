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
from typing import ClassVar, Final, Literal

from piggyback.shell.errors import BadInput
from piggyback.suite.recipe import HUGE, Recipe, refuse_beyond
from segmentation.release.splits import EVALUATION_SPLIT, TRAIN_SPLIT, find_split

LONGEST_SIDE: Final = 1 << 13  # no picture is packed with a longer one
WIDEST: Final = 1 << 16  # as in backbone files: none has wider hidden layers


@dataclass(frozen=True, kw_only=True)
class FCNRecipe(Recipe):
    """How FCN-32s is trained: the suite's fields with those of segmentation.  Here "val" are the held-out pictures."""

    LATER: ClassVar[tuple[str, ...]] = (
        *("min_steps", "schedule", "decay_again", "rule", "norm_lr", "norm", "selected_on"),
    )

    epochs: int = 15
    """Passes over the training pictures (stated)."""
    decay_after: float = 1.0
    """Unstated: share of the steps after which learning rates fall; never, as in FCN's solver."""
    batch_size: int = 1
    """Unstated: pictures of one shape that go through together; 1 in FCN."""
    loss: Literal["mean", "sum"] = "mean"
    """Unstated: every batch counts alike, or by its scored pixels as in FCN.  The sum is divided by the pixels that a
    training picture has on average, so that learning rates mean the same for both: of some 180,000 pixels, FCN's
    1e-10 on the plain sum is 1.8e-5 here."""
    trial_share: float = 0.4
    """Unstated: a trial's length as a share of the epochs."""
    held_out: int = 0
    """Unstated: training pictures kept out of trials, to choose the learning rate on, and the epoch with `selected_on`
    val; `trained_on` says whether the final training leaves them out too."""
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

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_beyond(self, ("held_out",), most=HUGE, zero=True)
        refuse_beyond(self, ("size",), most=LONGEST_SIDE, zero=True)
        refuse_beyond(self, ("new_hidden",), most=WIDEST)
        if not 0 <= self.dropout < 1:
            raise BadInput(f"dropout is a share below 1, not {self.dropout}")
        if self.lr_grid and not self.held_out:
            raise BadInput("learning rates are chosen on held-out training pictures: give held_out with lr_grid")
        if self.selected_on == "val" and not self.held_out:
            raise BadInput("epochs are selected on held-out training pictures: give held_out with selected_on val")
        if not find_split(self.train).labelled or not find_split(self.evaluate).labelled:
            raise BadInput(f"a split without label maps can neither train nor score: {self.train}, {self.evaluate}")


def label_run(task: str, recipe: FCNRecipe) -> str:
    """The first word of a run's folder: what it is evaluated on, as there is one task."""
    return recipe.evaluate


def words_to_prepare(recipe: FCNRecipe) -> tuple[str, ...]:
    """Arguments of ``prepare`` that pack the splits of a recipe."""
    return "--splits", ",".join(dict.fromkeys((recipe.train, recipe.evaluate)))


def words_to_report(recipe: FCNRecipe) -> tuple[str, ...]:
    """Arguments of ``report`` that show the runs of a recipe."""
    return "--split", recipe.evaluate


WITHOUT: Final[Mapping[str, str]] = MappingProxyType(
    {
        "packnet": "it begins with the backbone's own pictures, those of ImageNet",
        **dict.fromkeys(("joint", "series-joint"), "it trains several tasks together, and here is one"),
        "norm": "VGG-16 has no norm layers, so it would be the same as feature",
    }
)
"""Methods that mean nothing here, and why."""


RECIPES: Final[Mapping[str, FCNRecipe]] = MappingProxyType(
    {
        "paper": FCNRecipe(),
        "mini": FCNRecipe(
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
        "smoke": FCNRecipe(epochs=1, batch_size=4, lr=1e-3, margin="same", new_hidden=32, size=64),
    }
)

DESCRIPTIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "paper": "section 6 of the paper: 15 epochs at full size, FCN-32s exactly",
        "mini": "the small sample of real pictures on 2 cores, at 128 px; no benchmark result",
        "smoke": "one short epoch at 64 px: does it run?",
    }
)
