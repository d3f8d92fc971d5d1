"""Recipes: everything about a training that can change a number, as frozen data.

`Recipe` has the fields that every benchmark's trainings share, `SequenceRecipe` those of methods that do not treat
tasks one by one.  A benchmark takes one of them and adds its own.  Source of the stated values: Piggyback, section 3
with the authors' code (threshold 5e-3, masks start at 1e-2, Adam 1e-4 on masks) and section 6.  What the paper leaves
open is a field here too, and its docstring says "unstated".
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, TypeVar, get_args, get_origin, get_type_hints

from piggyback.shell.errors import BadInput, PiggybackError, UnknownName

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

R = TypeVar("R")
D = TypeVar("D", bound="DataclassInstance")

HUGE: Final = (1 << 63) - 1  # the last number that fits into C's
RATE: Final = 1_000_000  # far beyond use, and its products are still float32 numbers
COUNTS: Final = ("epochs", "batch_size", "accumulate")
FACTORS: Final = ("lr", "weight_lr_factor", "head_lr_factor", "decay_factor")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a task is trained.  Fields marked "unstated" are choices of ours where the paper is silent."""

    LATER: ClassVar[tuple[str, ...]] = ()
    """Fields that came after results of the benchmark existed: at their default they stay out of run ids and files."""

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
    """Pictures that go through the network together."""
    accumulate: int = 1
    """Unstated: batches whose mean gradient makes one step."""
    rule: Literal["adam", "sgd"] = "adam"
    """Optimizer of everything but the head: Adam for real masks (stated); sgd has a momentum of 0.9."""
    lr: float = 1e-4
    """Learning rate for real masks (stated), and for whatever else a method trains beside the head."""
    weight_lr_factor: float = 1.0
    """Unstated: learning rate of the backbone's own weights, where a method trains them, as a multiple of `lr`."""
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
    """Unstated: whether norm layers are trained per task (the paper's section 5.3 has both);
    `statistics`: they keep their affine parameters, and running statistics follow the task, as DAN's.  `feature` and
    `packnet` never train them, `norm`, `joint`, `finetune` and `scratch` always."""
    trained_on: Literal["train", "train+val"] = "train"
    """Unstated: pictures for the final training; trials never train on val."""
    selected_on: Literal["last epoch", "val"] = "last epoch"
    """Which epoch's state is kept; val needs `trained_on` train.  Never test."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of forward and backward; auto is bf16 on GPUs that have it."""
    update: Literal["auto", "compiled", "eager"] = "auto"
    """Form of the mask update; see docs/performance.md."""
    seed: int = 0
    """Fixes the head's start, the order of pictures and their augmentation."""

    def __post_init__(self) -> None:
        refuse_numbers(self)
        if self.trained_on == "train+val" and self.selected_on == "val":
            raise BadInput("a state cannot be selected on val when val is trained on: take selected_on 'last epoch'")

    def epochs_for(self, batches: int) -> int:
        """Epochs of `batches` batches each: `epochs`, or more until there are `min_steps` steps."""
        return max(self.epochs, -(-self.min_steps // -(-batches // self.accumulate)))


@dataclass(frozen=True, kw_only=True)
class SequenceRecipe(Recipe):
    """A recipe with the fields of methods that do not treat tasks one by one."""

    order: tuple[str, ...] = ()
    """Tasks of methods that do not treat them one by one: PackNet adds them in this order, joint training has all of
    them (and the backbone's own when it is named).  All in the benchmark's order when empty."""
    first_prune: float = 0.5
    """PackNet: share of each layer's weights that the backbone gives back before the first task (stated in section 4
    of Piggyback)."""
    first_epochs: int = 10
    """PackNet: passes over the backbone's own pictures after that (its authors' code)."""
    first_lr_factor: float = 0.1
    """PackNet: their learning rate, as a multiple of `lr` (its authors' code: 1e-4 to 1e-3)."""
    prune: float = 0.75
    """PackNet: share of its weights that each task but the last gives back, layer by layer (section 4)."""
    retrain: float = 1 / 3
    """PackNet: share of a task's steps that come after its pruning: 15 epochs after 30 in section 4, 10 after 20 in its
    authors' code."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_beyond(self, ("first_epochs",), most=HUGE)
        refuse_beyond(self, ("first_lr_factor",), most=RATE)
        for name in ("first_prune", "prune", "retrain"):
            if not 0 < getattr(self, name) < 1:
                raise BadInput(f"a recipe's {name} is a share between 0 and 1, not {getattr(self, name)}")
        if len(set(self.order)) < len(self.order):
            raise BadInput(f"the order names a task twice: {', '.join(self.order)}")


def refuse_numbers(recipe: Recipe) -> None:
    """Raise BadInput for a number out of its range."""
    refuse_beyond(recipe, COUNTS, most=HUGE)
    refuse_beyond(recipe, FACTORS, most=RATE)
    refuse_beyond(recipe, ("min_steps", "seed"), most=HUGE, zero=True)
    refuse_beyond(recipe, ("weight_decay",), most=RATE, zero=True)
    if not 0 < recipe.decay_after <= 1 or not 0 < recipe.trial_share <= 1:
        raise BadInput("decay_after and trial_share are shares of the epochs: above 0, at most 1")
    if recipe.decay_again is not None and not recipe.decay_after <= recipe.decay_again <= 1:
        raise BadInput(f"decay_again must lie between decay_after and 1, not at {recipe.decay_again}")
    if not -RATE < recipe.threshold < recipe.init < RATE:
        raise BadInput(f"init {recipe.init} must exceed threshold {recipe.threshold}: all masks start at one")
    for rate in (*recipe.lr_grid, *(() if recipe.norm_lr is None else (recipe.norm_lr,))):
        if not 0 < rate <= RATE:
            raise BadInput(f"learning rates must be positive and at most {RATE:,}, not {rate}")


def refuse_beyond(recipe: object, names: Sequence[str], *, most: float, zero: bool = False) -> None:
    """Raise BadInput for a field above `most` or not positive; with `zero` a field may be 0."""
    for name in names:
        value = getattr(recipe, name)
        if not (0 <= value <= most and (value or zero)) or math.isnan(value):
            least = "at least 0" if zero else "positive"
            raise BadInput(f"a recipe's {name} must be {least} and at most {most:,}, not {value}")


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """The fields that identify a recipe, as result files hold them; fields added later only where they are in use."""
    defaults = {entry.name: entry.default for entry in fields(recipe) if entry.default is not MISSING}
    return {
        name: value
        for name, value in asdict(recipe).items()
        if name not in recipe.LATER or value != defaults.get(name, MISSING)
    }


def run_id(key: Mapping[str, Any]) -> str:
    """Ten hexadecimal digits that identify a run by everything its numbers depend on."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:10]


def find_recipe(name: str, *, recipes: Mapping[str, R]) -> R:
    """The recipe of that name.

    Raises:
        UnknownName: suggests the nearest one.
    """
    try:
        return recipes[name]
    except KeyError:
        raise UnknownName(name, known=recipes, kind="recipe") from None


def recipe_named_in(arguments: Sequence[str], *, recipes: Mapping[str, R], default: str) -> R:
    """The recipe that ``--recipe`` names in arguments not yet parsed; the last one counts, as for the parser."""
    name = default
    for position, argument in enumerate(arguments):
        if argument.startswith("--recipe="):
            name = argument.partition("=")[2]
        elif argument == "--recipe" and position + 1 < len(arguments):
            name = arguments[position + 1]
    return find_recipe(name, recipes=recipes)


def read_recipe(values: Mapping[str, Any], *, kind: type[R], name: str) -> R:
    """The recipe that a result was measured with.

    Args:
        values: the result's recipe; entries that a run adds to it are ignored.
        kind: the recipe's class.
        name: the file's name, for messages.

    Raises:
        BadInput: the values do not make a recipe of that class.
    """
    known = {entry.name for entry in fields(kind)}  # type: ignore[arg-type]  # a dataclass, all of them
    chosen = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items() if key in known}
    hints = get_type_hints(kind)
    for key, value in chosen.items():
        if get_origin(hints[key]) is Literal and value not in get_args(hints[key]):
            raise BadInput(f"{name} has no valid recipe: {key} is {value!r:.40}, not one of {get_args(hints[key])}")
    try:
        return kind(**chosen)
    except (PiggybackError, TypeError, ValueError) as fault:  # the latter of comparing a text with a number and such
        raise BadInput(f"{name} has no valid recipe: {fault}") from None


def as_flags(settings: Mapping[str, Any], *, start: object | None = None) -> list[str]:
    """Settings of a recipe as flags of the console command, in a fixed order.

    Args:
        settings: fields by name.
        start: the recipe that the flags change; values equal to its own get no flag, because the command line can only
            turn a switch off that is on.
    """
    flags: list[str] = []
    for name, value in sorted(settings.items()):
        flag = name.replace("_", "-")
        several = isinstance(value, list | tuple)
        if start is not None and getattr(start, name, None) == (tuple(value) if several else value):
            continue
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        elif several:
            flags += [f"--{flag}", *(str(one) for one in value)]
        else:
            flags += [f"--{flag}", str(value)]
    return flags


def change_recipe(recipe: D, settings: Mapping[str, Any], *, name: str) -> D:
    """A recipe with other settings, such as those of a sweep's file.

    Args:
        recipe: a frozen dataclass.
        settings: fields by name; lists become tuples.
        name: of the file or table, for messages.

    Raises:
        BadInput: a field is unknown, or its value has the wrong type or is out of range.
    """
    known = {entry.name for entry in fields(recipe)}
    for key, value in settings.items():
        if key not in known:
            raise UnknownName(key, known=known, kind=f"setting of the recipe in {name}")
        usual = getattr(recipe, key)
        number = isinstance(usual, int | float) and not isinstance(usual, bool)
        fits = isinstance(value, int | float) if number else usual is None or isinstance(value, type(usual) | list)
        if not fits or (isinstance(value, bool) and not isinstance(usual, bool)):
            raise BadInput(f"{name}: {key} must be a value like {usual!r}, not {value!r:.60}")
    return replace(recipe, **{key: tuple(v) if isinstance(v, list) else v for key, v in settings.items()})
