"""The state of one task: what it adds to the network, in training and afterwards."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from piggyback.anatomy import Anatomy
from piggyback.methods.contract import AddsModules, Follows, Method
from piggyback.numerics.precision import wide
from piggyback.shell.errors import BadInput

Norm = Literal["fixed", "statistics", "trained"]


@dataclass(kw_only=True)
class TaskState:
    """What one task adds to the network.

    Attributes:
        method: how the task changes the network.
        norm: whether norm layers stay the backbone's, have running statistics of the task's own, or are trained.
        head: the module that fills the head's slot.
        trained: per weight name, the tensors in training (real masks); empty for a loaded task.
        kept: per weight name, what a loaded task stores (masks); empty for a task in training.
        own: parameters and buffers that the task has for itself, by name; while the task is current, the
            network's own tensors are newer.
        modules: per layer name, the module behind the layer.
        trunk_type: the data type of the network when it showed the task last; its head follows later changes.
    """

    method: Method
    norm: Norm
    head: nn.Module | None
    trained: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    kept: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    own: dict[str, Tensor] = field(default_factory=dict)
    modules: dict[str, nn.Module] = field(default_factory=dict)
    trunk_type: torch.dtype | None = None

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
        if self.trains_all:
            return anatomy.backbone
        if self.norm == "trained" or self.method.adapts == "norm":
            return anatomy.norm
        if self.norm == "statistics":
            buffers = {name for name, _ in network.named_buffers()}
            return tuple(name for name in anatomy.norm if name in buffers)
        return ()


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
        started = {name: method.follow(wide(weight), earlier.kept_of(name)) for name, weight in weights.items()}
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
    layers = (name.rpartition(".")[0] for name in anatomy.weights)
    found = {name: method.module(network.get_submodule(name)) for name in layers}
    return {name: module for name, module in found.items() if module is not None}
