"""The state of one task: what it adds to the network, in training and afterwards."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from piggyback.anatomy import Anatomy, persistent_tensors, unwrap
from piggyback.methods.contract import AddsModules, Follows, Method
from piggyback.shell.errors import BadInput

Norm = Literal["fixed", "statistics", "trained"]


@dataclass(kw_only=True)
class TaskState:
    """What one task adds to the network.

    Attributes:
        method: how the task changes the network.
        norm: whether norm layers stay the backbone's, have running statistics of the task's own, or are trained.
        head: the module that fills the head's slot; of several slots a `piggyback.heads.Heads`.
        held: parameters of the head that stay frozen, by name.
        trained: per weight name, the tensors in training (real masks); empty for a loaded task.
        kept: per weight name, what a loaded task stores (masks); empty for a task in training.
        own: parameters and buffers that the task has for itself, by name; while the task is current, the
            network's own tensors are newer.
        modules: per layer name, the module behind the layer.
        steps: of optimizers that have trained the task so far.
        told: whether it was said that its masks have hardly moved.
    """

    method: Method
    norm: Norm
    head: nn.Module | None
    trained: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    kept: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    own: dict[str, Tensor] = field(default_factory=dict)
    modules: dict[str, nn.Module] = field(default_factory=dict)
    held: frozenset[str] = frozenset()
    steps: int = 0
    told: bool = False

    def kept_of(self, name: str) -> dict[str, Tensor]:
        """What the task stores of one weight."""
        if name in self.kept:
            return self.kept[name]
        return self.method.keep(self.trained[name]) if name in self.trained else {}

    @property
    def trains_all(self) -> bool:
        """Whether the task has all parameters for itself."""
        return self.method.adapts in ("everything", "anew")

    @property
    def norm_is_fixed(self) -> bool:
        """Whether norm layers are the backbone's, statistics included."""
        return self.norm == "fixed" and not self.trains_all and self.method.adapts != "norm"

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


def start_weights(
    method: Method, weights: Mapping[str, Tensor], *, earlier: TaskState | None
) -> dict[str, dict[str, Tensor]]:
    """The tensors of a fresh task, for each weight that has any.

    Args:
        method: of the task.
        weights: frozen, by name.
        earlier: the task that it builds on.

    Raises:
        BadInput: tasks of the method do not build on one another, or `earlier` is by another method.
    """
    if earlier is None:
        started = {name: method.start(weight) for name, weight in weights.items()}
    elif not isinstance(method, Follows):
        raise BadInput(f"tasks of method {method.name!r} do not build on one another: leave `after` out")
    elif earlier.method != method:
        raise BadInput(f"`after` is by {earlier.method.name!r}, so no task by {method.name!r} can build on it")
    else:
        kept = {name: earlier.kept_of(name) for name in weights}  # a file may leave weights out
        started = {name: method.follow(weights[name], parts) for name, parts in kept.items() if parts}
    return {name: parts for name, parts in started.items() if parts}


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
