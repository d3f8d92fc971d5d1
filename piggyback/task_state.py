"""What one task adds to the network, while it is trained and afterwards."""

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from piggyback.anatomy import Anatomy
from piggyback.methods import AddsModules, Method

Norm = Literal["fixed", "statistics", "trained"]


@dataclass(kw_only=True)
class TaskState:
    """What one task adds to the network.

    Attributes:
        method: how the task changes the network.
        norm: whether norm layers stay the backbone's, have running statistics of the task's own, or are trained.
        head: the module that fills the head's slot.
        trained: per weight name, the tensors under training (real masks); empty for a loaded task.
        kept: per weight name, what a loaded task stores (masks); empty for one under training.
        own: parameters and buffers that the task has for itself; while it is the current task, the
            network's own tensors are the newer ones.
        modules: per layer name, the module that works on the layer's output.
    """

    method: Method
    norm: Norm
    head: nn.Module | None
    trained: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    kept: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    own: dict[str, Tensor] = field(default_factory=dict)
    modules: dict[str, nn.Module] = field(default_factory=dict)

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


def fresh_modules(method: Method, network: nn.Module, anatomy: Anatomy) -> dict[str, nn.Module]:
    """The modules of a fresh task, by the name of the layer that each stands behind."""
    if not isinstance(method, AddsModules):
        return {}
    layers = (name.rpartition(".")[0] for name in anatomy.weights)
    found = {name: method.module(network.get_submodule(name)) for name in layers}
    return {name: module for name, module in found.items() if module is not None}
