"""Recipes: everything about a training that can change a number, as frozen data.

Source of the stated values: Piggyback, section 6 (60 epochs, decay by 10 after 45, Adam 1e-4 on masks,
augmentation by crop, flip and whole-image resize) and section 3 with the authors' code (threshold 5e-3,
masks start at 1e-2).  What the paper leaves open is a field here too, and its docstring says so.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from decathlon.tasks import find_task
from piggyback.errors import BadInput
from piggyback.recipes import run_id

View = Literal["crop", "whole"]

# Pictures far from square lose their subject in a 64 px crop of a 72 px side: aeroplanes are wide,
# pedestrians 72 x 144, signs up to 104 x 184 (reference: sizes in the official test files).
WHOLE: Final = ("aircraft", "daimlerpedcls", "gtsrb")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a task is trained.  Fields marked "unstated" are choices of ours where the paper is silent."""

    epochs: int = 60
    """Passes over the training pictures."""
    min_steps: int = 0
    """Unstated: small tasks get more epochs until they have so many steps; the same for all methods."""
    decay_after: float = 0.75
    """Share of the steps after which learning rates fall: those of 45 epochs of 60."""
    decay_factor: float = 0.1
    """What they are multiplied with then."""
    batch_size: int = 32
    """Unstated for the decathlon; 32 in the authors' code for other tasks."""
    lr: float = 1e-4
    """Adam's learning rate for real masks (stated), and for weights where a method trains them."""
    head_lr_factor: float = 1.0
    """Unstated: the head's learning rate as a multiple of `lr`; 1 in the authors' code for other tasks."""
    norm_lr: float | None = None
    """Unstated: for trained norm layers; `lr` when not given."""
    head_rule: Literal["adam", "sgd"] = "adam"
    """Unstated: the head's optimizer; Adam in the authors' code for other tasks."""
    weight_decay: float = 0.0
    """Unstated: L2 on head, norm layers and fine-tuned weights, never on masks; 0 in the authors' code."""
    lr_grid: tuple[float, ...] = ()
    """Unstated: learning rates to try; the best on val is used.  None tried when empty."""
    trial_share: float = 0.25
    """Unstated: a trial's length as a share of the epochs."""
    threshold: float = 5e-3
    """Binarizer threshold (stated)."""
    init: float = 1e-2
    """Start of every real mask value (stated)."""
    norm: Literal["fixed", "trained"] = "fixed"
    """Unstated for the decathlon: whether mask methods train norm layers per task (the paper's section 5.3 has
    both); `feature` never does, `finetune` always."""
    size: int = 64
    """Side of the pictures that the network sees, in pixels."""
    whole: tuple[str, ...] = WHOLE
    """Tasks whose whole picture is resized; of the others a crop is taken: random in training, central else.
    The paper chose by cross-validation and does not print the choice; ours is by the pictures' shapes."""
    flip: bool = True
    """Mirror half the training pictures, of tasks where a mirror image keeps its label."""
    normalise: Literal["backbone", "official-task", "own-train"] = "backbone"
    """Unstated: channel statistics that the backbone was trained with, or the task's."""
    trained_on: Literal["train", "train+val"] = "train"
    """Unstated: pictures for the final training; trials always train on train."""
    selected_on: Literal["last epoch", "val"] = "last epoch"
    """Which epoch's state is kept; val needs `trained_on` train.  Never test."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of forward and backward; auto is bf16 where the device has it."""
    update: Literal["auto", "compiled", "eager"] = "auto"
    """Form of the mask update; see docs/performance.md."""
    seed: int = 0
    """Fixes the head's start, the order of pictures and their augmentation."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "lr", "head_lr_factor", "size", "trial_share", "decay_factor"):
            if not 0 < getattr(self, name) < math.inf:
                raise BadInput(f"a recipe's {name} must be positive, not {getattr(self, name)}")
        for name in ("min_steps", "weight_decay", "seed"):
            if not 0 <= getattr(self, name) < 1 << 63:
                raise BadInput(f"a recipe's {name} must not be negative or huge, as {getattr(self, name)} is")
        if not 0 < self.decay_after <= 1 or not 0 < self.trial_share <= 1:
            raise BadInput("decay_after and trial_share are shares of the epochs: above 0, at most 1")
        if not self.init > self.threshold:
            raise BadInput(f"init {self.init} must exceed threshold {self.threshold}: all masks start at one")
        for rate in (*self.lr_grid, *(() if self.norm_lr is None else (self.norm_lr,))):
            if not 0 < rate < math.inf:
                raise BadInput(f"learning rates must be positive, not {rate}")
        if self.trained_on == "train+val" and self.selected_on == "val":
            raise BadInput("a state cannot be selected on val when val is trained on: take selected_on 'last epoch'")
        for name in self.whole:
            find_task(name)

    def view(self, task: str) -> View:
        """How pictures of the task are brought to `size`."""
        return "whole" if task in self.whole else "crop"

    def epochs_for(self, pictures: int) -> int:
        """Epochs for a task of that many training pictures."""
        steps = -(-pictures // self.batch_size)
        return max(self.epochs, -(-self.min_steps // steps))


@dataclass(frozen=True, kw_only=True)
class RunKey:
    """What identifies a run: the same key, the same numbers.

    Attributes:
        task, method: names.
        recipe: every setting.
        data: fingerprint of the task's packed pictures.
        backbone: SHA-256 of the backbone file.
    """

    task: str
    method: str
    recipe: Recipe
    data: str
    backbone: str

    @property
    def run_id(self) -> str:
        """Ten hexadecimal digits."""
        return run_id(self)

    @property
    def folder_name(self) -> str:
        """Readable, and different for different keys."""
        return f"{self.task}-{self.method}-seed{self.recipe.seed}-{self.run_id}"


RECIPES: Final[Mapping[str, Recipe]] = MappingProxyType(
    {
        "paper": Recipe(),
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
        "smoke": Recipe(epochs=1, lr=1e-3, size=32, batch_size=16),
    }
)

DESCRIPTIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "paper": "section 6 of the paper: 60 epochs, decay by 10 after 45, Adam 1e-4",
        "mini": "the small decathlon of real pictures on 2 cores, some 30 minutes a method; no benchmark result",
        "smoke": "one short epoch at 32 px: does it run?",
    }
)
