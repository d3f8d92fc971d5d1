"""Recipes: everything about a training that can change a number, as frozen data.

Source of the stated values: Piggyback, section 6 (60 epochs, decay by 10 after 45, Adam 1e-4 on masks,
augmentation by crop, flip and whole-image resize) and section 3 with the authors' code (threshold 5e-3,
masks start at 1e-2); of the other methods, what ``docs/methods.md`` names.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Final, Literal

from decathlon.tasks import find_task
from piggyback.suite.recipe import HUGE, SequenceRecipe, refuse_beyond

View = Literal["crop", "whole"]

# Pictures far from square lose their subject in a 64 px crop of a 72 px side: aeroplanes are wide,
# pedestrians 72 x 144, signs up to 104 x 184 (reference: sizes in the official test files).
WHOLE: Final = ("aircraft", "daimlerpedcls", "gtsrb")


@dataclass(frozen=True, kw_only=True)
class Recipe(SequenceRecipe):
    """How a task is trained: the suite's fields with those of pictures at 64 px.  PackNet's own are in ``order`` to
    ``retrain``; `batch_size` is unstated for the decathlon, and 32 in the authors' code for other tasks."""

    LATER: ClassVar[tuple[str, ...]] = ("accumulate", "weight_lr_factor")

    size: int = 64
    """Side of the pictures that the network sees, in pixels."""
    whole: tuple[str, ...] = WHOLE
    """Tasks whose whole picture is resized; of the others a crop is taken: random in training, central else.
    The paper chose by cross-validation and does not print the choice; ours is by the pictures' shapes."""
    flip: bool = True
    """Mirror half the training pictures, of tasks where a mirror image keeps its label."""
    normalise: Literal["backbone", "official-task", "own-train"] = "backbone"
    """Unstated: channel statistics that the backbone was trained with, or the task's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_beyond(self, ("size",), most=HUGE)
        for name in (*self.whole, *self.order):
            find_task(name)

    def view(self, task: str) -> View:
        return "whole" if task in self.whole else "crop"


RECIPES: Final[Mapping[str, Recipe]] = MappingProxyType(
    {
        "paper": Recipe(),
        "packnet": Recipe(epochs=30, rule="sgd", head_rule="sgd", lr=1e-3, decay_after=1 / 3),
        "ksm": Recipe(epochs=30, schedule="cosine", lr=2e-4, norm="trained"),
        "affine": Recipe(head_rule="sgd", head_lr_factor=10.0, norm="trained"),
        "adapters": Recipe(
            epochs=120,
            decay_after=80 / 120,
            decay_again=100 / 120,
            batch_size=128,
            rule="sgd",
            head_rule="sgd",
            lr=0.1,
            weight_decay=5e-4,
            norm="trained",
        ),
        "dan": Recipe(epochs=50, decay_after=0.5, batch_size=64, norm="statistics"),
        "baselines": Recipe(epochs=30, decay_after=0.5, rule="sgd", head_rule="sgd", lr=1e-3),
        "mini": Recipe(
            epochs=1,
            min_steps=125,
            batch_size=16,
            lr=4e-4,
            head_lr_factor=10.0,
            norm="trained",
            lr_grid=(2e-4, 4e-4, 8e-4),
            trial_share=0.4,
        ),
        "methods": Recipe(
            epochs=1,
            min_steps=80,
            batch_size=16,
            lr=4e-4,
            head_lr_factor=10.0,
            norm="trained",
            lr_grid=(2e-4, 8e-4),
            trial_share=0.25,
            first_epochs=1,
        ),
        "smoke": Recipe(epochs=1, lr=1e-3, size=32, batch_size=16, first_epochs=1),
    }
)

DESCRIPTIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "paper": "section 6 of the paper: 60 epochs, decay by 10 after 45, Adam 1e-4",
        "packnet": "PackNet's code: 20 epochs and 10 after pruning, SGD 1e-3, decay by 10 after 10",
        "ksm": "KSM's code: 30 epochs, Adam 2e-4, cosine, trained norm layers",
        "affine": "code by the group of affine masks: as the paper, SGD 1e-3 on the head, trained norm layers",
        "adapters": "residual adapters' code: 120 epochs, SGD 0.1, decay after 80 and 100, batches of 128",
        "dan": "DAN's notebook: 50 epochs, decay after 25, batches of 64; Adam in the place of its YellowFin",
        "baselines": "Piggyback's code for head only and fine-tuning: 30 epochs, SGD 1e-3, decay after 15",
        "mini": "the small decathlon of real pictures on 2 cores, some 30 minutes a method; no benchmark result",
        "methods": "every method on a few small tasks in little over an hour on 2 cores; no benchmark result",
        "smoke": "one short epoch at 32 px: does it run?",
    }
)
