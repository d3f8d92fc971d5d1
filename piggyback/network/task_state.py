"""The state of one task: what it adds to the network, in training and afterwards."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from piggyback.masks.packed_masks import PackedMask, pack_mask, write_masked
from piggyback.masks.shelf import Shelf
from piggyback.methods.binary import Binary
from piggyback.methods.contract import AddsModules, Follows, Method
from piggyback.network.anatomy import Anatomy, persistent_tensors, unwrap
from piggyback.numerics.memory import return_memory
from piggyback.numerics.precision import refuse_non_finite, wide
from piggyback.shell.errors import BadInput, NotTrainable

Norm = Literal["fixed", "statistics", "trained"]


@dataclass(kw_only=True)
class TaskState:
    """What one task adds to the network.

    Attributes:
        method: how the task changes the network.
        norm: whether norm layers stay the backbone's, have running statistics of the task's own, or are trained.
        head: the module that fills the head's slot; of several slots a `piggyback.network.heads.Heads`.
        held: parameters of the head that stay frozen, by name.
        trained: per weight name, the tensors in training (real masks); empty for a loaded or finished task.
        kept: per weight name, what such a task stores (masks, as bits); empty for a task in training.
        own: parameters and buffers that the task has for itself, by name; while a task in training is current, the
            network's own tensors are newer.
        modules: per layer name, the module behind the layer.
        trunk_type: the data type of the network when it showed the task last; its head follows later changes.
        steps: of optimizers that have trained the task so far.
        told: whether it was said that its masks have hardly moved.
        finished: whether `finish` was called.
    """

    method: Method
    norm: Norm
    head: nn.Module | None
    trained: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    kept: dict[str, dict[str, Tensor | PackedMask]] = field(default_factory=dict)
    own: dict[str, Tensor] | Shelf = field(default_factory=dict)
    modules: dict[str, nn.Module] = field(default_factory=dict)
    held: frozenset[str] = frozenset()
    trunk_type: torch.dtype | None = None
    steps: int = 0
    told: bool = False
    finished: bool = False

    def kept_of(self, name: str) -> dict[str, Tensor]:
        """What the task stores of one weight."""
        if name in self.kept:
            parts = self.kept[name].items()
            return {key: part.unpack() if isinstance(part, PackedMask) else part for key, part in parts}
        return self.method.keep(self.trained[name]) if name in self.trained else {}

    @property
    def is_final(self) -> bool:
        """Whether there is nothing left to train it from: it was finished, or loaded without its real masks."""
        return self.finished or bool(self.kept)

    def finish(self) -> None:
        """Keep only what a payload would, masks as bits; the real masks go."""
        kept = self.kept or pack_kept({name: self.method.keep(parts) for name, parts in self.trained.items()})
        self.kept, self.trained, self.own, self.finished = kept, {}, Shelf(self.own), True
        return_memory()

    def packed_of(self, name: str) -> PackedMask | None:
        """The mask of one weight where it is there as bits, and all that the method does is to apply it."""
        part = self.kept[name].get("mask") if type(self.method) is Binary and name in self.kept else None
        return part if isinstance(part, PackedMask) else None

    def write(self, name: str, parameter: Tensor, weight: Tensor) -> None:
        """Put the effective weight into the parameter."""
        packed = self.packed_of(name)
        if packed is not None:
            write_masked(parameter, weight, packed)
        else:
            parameter.copy_(self.method.apply(wide(weight), self.kept_of(name)))

    @property
    def trains_all(self) -> bool:
        """Whether the task has all parameters for itself."""
        return self.method.adapts in ("everything", "anew")

    @property
    def norm_is_fixed(self) -> bool:
        """Whether norm layers may not move: they are the backbone's, statistics included, or a finished task's."""
        return self.is_final or (self.norm == "fixed" and not self.trains_all and self.method.adapts != "norm")

    def own_names(self, anatomy: Anatomy, network: nn.Module) -> tuple[str, ...]:
        """Parts of the network that the task has for itself."""
        names: tuple[str, ...] = ()
        if self.trains_all:
            names = anatomy.backbone
        elif self.norm == "trained" or self.method.adapts == "norm":
            names = anatomy.norm
        elif self.norm == "statistics":
            tensors = persistent_tensors(network)
            names = tuple(name for name in anatomy.norm if not isinstance(tensors[name], nn.Parameter))
        return tuple(name for name in names if name not in anatomy.left)


def has_norm_choice(method: Method) -> bool:
    """Whether a task may train norm layers beside what its method trains, or leave them.

    Not so where all or none are the method's own matter: "feature" is the head alone by definition, and norm layers of
    a pruned network serve all its tasks.
    """
    return method.adapts in ("weights", "modules") and method.stands_on != "pruned"


def usual_norm(method: Method) -> Norm:
    """What becomes of norm layers when nobody says: short trainings need them trained (``docs/results.md``)."""
    return "trained" if has_norm_choice(method) else "fixed"


def pack_kept(kept: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor | PackedMask]]:
    """What a method keeps, as a finished task stores it: masks as bits, all in one piece of memory, the rest copied."""
    packed: dict[str, dict[str, Tensor | PackedMask]] = {
        name: {key: pack_mask(part) if part.dtype == torch.bool else part.clone() for key, part in parts.items()}
        for name, parts in kept.items()
    }
    places = [(parts, key, part) for parts in packed.values() for key, part in parts.items()]
    masks = [(parts, key, part) for parts, key, part in places if isinstance(part, PackedMask)]
    if masks:
        together = torch.split(torch.cat([mask.bits for *_, mask in masks]), [len(mask.bits) for *_, mask in masks])
        for (parts, key, mask), bits in zip(masks, together, strict=True):
            parts[key] = replace(mask, bits=bits)
    return packed


def start_weights(
    method: Method, weights: Mapping[str, Tensor], *, earlier: TaskState | None
) -> dict[str, dict[str, Tensor]]:
    """The tensors of a fresh task, for each weight that has any; float32 for one in half precision.

    Args:
        method: of the task.
        weights: frozen, by name.
        earlier: the task that it builds on.

    Raises:
        BadInput: tasks of the method do not build on one another, or `earlier` is by another method.
    """
    if earlier is None:
        started = {name: method.start(wide(weight)) for name, weight in weights.items()}
    elif not isinstance(method, Follows):
        raise BadInput(f"tasks of method {method.name!r} do not build on one another: leave `after` out")
    elif earlier.method != method:
        raise BadInput(f"`after` is by {earlier.method.name!r}, so no task by {method.name!r} can build on it")
    else:
        kept = {name: earlier.kept_of(name) for name in weights}  # a file may leave weights out
        started = {name: method.follow(wide(weights[name]), parts) for name, parts in kept.items() if parts}
    return {name: {key: wide(part) for key, part in parts.items()} for name, parts in started.items() if parts}


def begin_own(
    method: Method, frozen: Mapping[str, Tensor], *, begin: Mapping[str, Tensor] | None
) -> Mapping[str, Tensor]:
    """Where the parts that a task has for itself start: at the frozen weights, or at `begin`.

    Raises:
        BadInput: the method needs `begin` and it is missing, or the other way round; or another network was drawn.
    """
    if (method.adapts == "anew") != (begin is not None):
        word = "needs" if method.adapts == "anew" else "takes no"
        raise BadInput(f"method {method.name!r} {word} `begin`, the state dict of a freshly drawn network")
    if begin is None:
        return frozen
    for part, tensor in frozen.items():
        if part not in begin or begin[part].shape != tensor.shape:
            raise BadInput(f"`begin` has no {part!r} of shape {tuple(tensor.shape)}: draw the same network")
    return {part: torch.empty_like(tensor).copy_(begin[part]) for part, tensor in frozen.items()}


def fresh_modules(method: Method, network: nn.Module, anatomy: Anatomy) -> dict[str, nn.Module]:
    """The modules of a fresh task, by the names of the layers before them."""
    if not isinstance(method, AddsModules):
        return {}
    parts = [name.rpartition(".") for name in anatomy.weights]  # attention's projections are no layers
    layers = {layer: unwrap(network.get_submodule(layer)) for layer, _, part in parts if part == "weight"}
    found = {name: method.module(layer) for name, layer in layers.items()}
    return {name: module for name, module in found.items() if module is not None}


# -- checkpoints --------------------------------------------------------------------------------------------


def training_state(state: TaskState) -> dict[str, dict[str, Tensor]]:
    """Everything a checkpoint needs of a task beside the optimizer's state (which has the real masks)."""
    head = state.head.state_dict() if state.head is not None else {}
    modules = {
        f"{layer}/{part}": tensor
        for layer, module in state.modules.items()
        for part, tensor in module.state_dict().items()
    }
    return {"own": dict(state.own), "head": dict(head), "modules": modules}


def load_training_state(state: TaskState, saved: Mapping[str, Mapping[str, Tensor]], *, name: str) -> None:
    """Put back what `training_state` gave.

    Raises:
        NotTrainable: the task is finished, or was loaded without its real masks.
        BadInput: the task has other parts for itself.
    """
    refuse_final(name, state)
    for kind, parts in training_state(state).items():
        given = saved.get(kind, {})
        if other := given.keys() ^ parts.keys():
            raise BadInput(
                f"the training state and task {name!r} do not both have {min(other)!r} ({kind}): add the task as "
                "before, and the same groups to its optimizer"
            )
        for part, tensor in parts.items():
            if given[part].shape != tensor.shape:
                raise BadInput(
                    f"the training state has {part!r} ({kind}) of shape {tuple(given[part].shape)}, task {name!r} of "
                    f"{tuple(tensor.shape)}: it is of another task"
                )
    for part, tensor in saved["own"].items():
        state.own[part].copy_(tensor)
    if state.head is not None:
        state.head.load_state_dict(dict(saved["head"]))
    for layer, module in state.modules.items():
        module.load_state_dict({key: saved["modules"][f"{layer}/{key}"] for key in module.state_dict()})


def refuse_final(name: str, state: TaskState) -> None:
    """Raise NotTrainable for a task that has nothing left to be trained from."""
    if state.finished:
        raise NotTrainable(
            f"task {name!r} is finished: it keeps what a payload holds, and not the real masks; add a fresh task to "
            "train"
        )
    if state.is_final:
        raise NotTrainable(
            f"task {name!r} was loaded from a payload, which holds masks but not the real masks they came from; add a "
            "fresh task to train"
        )


def refuse_diverged(state: TaskState, *, done: str) -> None:
    """Raise Diverged for a real mask with a NaN or infinity, which a mask hides: NaN is above no threshold."""
    for name, trained in state.trained.items():
        refuse_non_finite({f"{key} of {name}": tensor for key, tensor in trained.items()}, done=done)
