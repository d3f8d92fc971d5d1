"""Recipes: everything about a training that can change a number, as frozen data.

Source of the stated values: Piggyback, section 6 (60 epochs, decay by 10 after 45, Adam 1e-4 on masks,
augmentation by crop, flip and whole-image resize) and section 3 with the authors' code (threshold 5e-3,
masks start at 1e-2); of the other
methods, what ``docs/methods.md`` names.  What the paper leaves open is a field here too, and its docstring says so.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

from decathlon.tasks import BACKBONE_TASK, MASKED_TASKS, find_task
from piggyback.shell.errors import BadInput
from piggyback.suite.recipe import run_id

if TYPE_CHECKING:
    from piggyback.methods.table import StandsOn

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
    schedule: Literal["steps", "cosine"] = "steps"
    """Whether learning rates fall at once after a share of the steps (stated), or by half a cosine's period."""
    decay_after: float = 0.75
    """Share of the steps after which learning rates fall: those of 45 epochs of 60."""
    decay_again: float | None = None
    """Share of the steps after which they fall once more; not at all when not given."""
    decay_factor: float = 0.1
    """What they are multiplied with then."""
    batch_size: int = 32
    """Unstated for the decathlon; 32 in the authors' code for other tasks."""
    rule: Literal["adam", "sgd"] = "adam"
    """Optimizer of everything but the head: Adam for real masks (stated); sgd has a momentum of 0.9."""
    lr: float = 1e-4
    """Learning rate for real masks (stated), and for whatever else a method trains beside the head."""
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
    norm: Literal["fixed", "statistics", "trained"] = "fixed"
    """Unstated for the decathlon: whether norm layers are trained per task (the paper's section 5.3 has both);
    `statistics`: they keep their affine parameters, and running statistics follow the task, as DAN's.  `feature` and
    `packnet` never train them, `norm`, `joint`, `finetune` and `scratch` always."""
    order: tuple[str, ...] = ()
    """Tasks of methods that do not treat them one by one: PackNet adds them in this order, joint training has all of
    them (and imagenet12 when it is named).  The nine in alphabetical order when empty."""
    first_prune: float = 0.5
    """PackNet: share of each layer's weights that the backbone gives back before the first task (stated in section 4
    of Piggyback)."""
    first_epochs: int = 10
    """PackNet: passes over imagenet12 after that (its authors' code)."""
    first_lr_factor: float = 0.1
    """PackNet: their learning rate, as a multiple of `lr` (its authors' code: 1e-4 to 1e-3)."""
    prune: float = 0.75
    """PackNet: share of its weights that each task but the last gives back, layer by layer (section 4)."""
    retrain: float = 1 / 3
    """PackNet: share of a task's steps that come after its pruning: 15 epochs after 30 in section 4, 10 after 20 in its
    authors' code."""
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
        refuse_numbers(self)
        if not self.init > self.threshold:
            raise BadInput(f"init {self.init} must exceed threshold {self.threshold}: all masks start at one")
        if self.trained_on == "train+val" and self.selected_on == "val":
            raise BadInput("a state cannot be selected on val when val is trained on: take selected_on 'last epoch'")
        if len(set(self.order)) < len(self.order):
            raise BadInput(f"the order names a task twice: {', '.join(self.order)}")
        for name in (*self.whole, *self.order):
            find_task(name)

    def view(self, task: str) -> View:
        """How pictures of the task are brought to `size`."""
        return "whole" if task in self.whole else "crop"

    @property
    def sequence(self) -> tuple[str, ...]:
        """The tasks of methods that do not treat them one by one, in their order."""
        return self.order or MASKED_TASKS

    def epochs_for(self, pictures: int) -> int:
        """Epochs for a task of that many training pictures."""
        steps = -(-pictures // self.batch_size)
        return max(self.epochs, -(-self.min_steps // steps))


def refuse_numbers(recipe: Recipe) -> None:
    """Raise BadInput for a number out of its range."""
    counts, factors = ("epochs", "batch_size", "size", "first_epochs"), ("head_lr_factor", "first_lr_factor")
    for name in (*counts, *factors, "lr", "trial_share", "decay_factor"):
        if not 0 < getattr(recipe, name) < math.inf:
            raise BadInput(f"a recipe's {name} must be positive, not {getattr(recipe, name)}")
    for name in ("min_steps", "weight_decay", "seed"):
        if not 0 <= getattr(recipe, name) < 1 << 63:
            raise BadInput(f"a recipe's {name} must not be negative or huge, as {getattr(recipe, name)} is")
    if not 0 < recipe.decay_after <= 1 or not 0 < recipe.trial_share <= 1:
        raise BadInput("decay_after and trial_share are shares of the epochs: above 0, at most 1")
    if recipe.decay_again is not None and not recipe.decay_after <= recipe.decay_again <= 1:
        raise BadInput(f"decay_again must lie between decay_after and 1, not at {recipe.decay_again}")
    for name in ("first_prune", "prune", "retrain"):
        if not 0 < getattr(recipe, name) < 1:
            raise BadInput(f"a recipe's {name} is a share between 0 and 1, not {getattr(recipe, name)}")
    for rate in (*recipe.lr_grid, *(() if recipe.norm_lr is None else (recipe.norm_lr,))):
        if not 0 < rate < math.inf:
            raise BadInput(f"learning rates must be positive, not {rate}")


def recipe_for(recipe: Recipe, *, stands_on: "StandsOn", tasks: Sequence[str]) -> Recipe:
    """The recipe; methods that do not treat tasks one by one take those that are run, in their order.

    Args:
        recipe: as it was asked for.
        stands_on: as the method declares.
        tasks: that are run.
    """
    if recipe.order or stands_on == "backbone" or set(tasks) == set(MASKED_TASKS):
        return recipe
    return replace(recipe, order=tuple(tasks))


def tasks_of(recipe: Recipe, *, method: str, stands_on: "StandsOn", tasks: Sequence[str]) -> list[str]:
    """The tasks to run with a method: PackNet's in its order, and the backbone's own where it is trained jointly.

    Raises:
        BadInput: the method does not have one of them.
    """
    for task in tasks:
        refuse_task(recipe, task=task, method=method, stands_on=stands_on)
    match stands_on:
        case "pruned":
            return sorted(tasks, key=recipe.sequence.index)
        case "joint" if BACKBONE_TASK in recipe.order:
            return [*(task for task in tasks if task != BACKBONE_TASK), BACKBONE_TASK]
        case _:
            return list(tasks)


def refuse_task(recipe: Recipe, *, task: str, method: str, stands_on: "StandsOn") -> None:
    """Raise BadInput for a task that a method does not have by this recipe."""
    if task == BACKBONE_TASK and not (stands_on == "joint" and task in recipe.order):
        raise BadInput(f"{BACKBONE_TASK} is the backbone's own task: see `piggyback decathlon backbone`")
    if stands_on != "backbone" and task not in recipe.sequence:
        named = ", ".join(recipe.sequence)
        raise BadInput(f"{task} is not among the tasks of {method}, which are {named}: see the recipe's order")
    if stands_on == "pruned" and BACKBONE_TASK in recipe.order:
        raise BadInput(f"{BACKBONE_TASK} is PackNet's first task in any case: leave it out of the order")


def task_before(recipe: Recipe, *, task: str) -> str | None:
    """The task that comes before in the order, for methods whose tasks build on one another."""
    place = recipe.sequence.index(task) if task in recipe.sequence else 0
    return recipe.sequence[place - 1] if place else None


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


@dataclass(frozen=True, kw_only=True)
class GroundKey:
    """What identifies a network that is changed for a method before any task's run.

    Attributes:
        method: name.
        recipe: every setting.
        data: per task trained on, the fingerprint of its packed pictures.
        backbone: SHA-256 of the backbone file.
    """

    method: str
    recipe: Recipe
    data: Mapping[str, str]
    backbone: str

    @property
    def folder_name(self) -> str:
        """Readable, and different for different keys."""
        return f"{self.method}-seed{self.recipe.seed}-{run_id(self)}"


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
