"""Which parameters of a network are what (weights to adapt, norm layers, the head, the rest), and their digest."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from piggyback.shell.errors import BadInput

NORM_TYPES: Final = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
STATISTICS: Final = ("running_mean", "running_var")  # torch's names, which norm layers of others keep to


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """Qualified names of a network's parts.

    Attributes:
        weights: parameters called ``weight`` of convolution (grouped, depthwise, transposed too) and linear
            layers outside the head, the first convolution included; a weight that several layers share has
            the first one's name.
        norm_modules: normalisation layers outside the head: torch's, and any that keep running statistics.
        norm: their parameters and buffers.
        rest: all other parameters and buffers outside the head, which no mask method touches: biases,
            embeddings, attention's ``in_proj_weight``.
    """

    weights: tuple[str, ...]
    norm_modules: tuple[str, ...]
    norm: tuple[str, ...]
    rest: tuple[str, ...]

    @property
    def backbone(self) -> tuple[str, ...]:
        """Every parameter and buffer outside the head."""
        return self.weights + self.norm + self.rest


def persistent_tensors(network: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and persistent buffers themselves, by name; shared ones once, by their first name."""
    in_state_dict = set(network.state_dict(keep_vars=True))
    found: dict[str, torch.Tensor] = dict(network.named_parameters())
    found.update((name, buffer) for name, buffer in network.named_buffers() if name in in_state_dict)
    return found


def like(tensor: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """A copy on the device and in the memory layout of `target`, in the data type of `tensor`."""
    return torch.empty_like(target, dtype=tensor.dtype, requires_grad=False).copy_(tensor)


def is_dense(tensor: torch.Tensor) -> bool:
    """Whether the tensor fills its memory without gaps or overlaps, in any order of dimensions."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return tensor.numel() > 1


def flat(tensor: torch.Tensor) -> torch.Tensor:
    """The memory of a dense tensor as one dimension; in two of equal strides the same places belong together."""
    return tensor.as_strided((tensor.numel(),), (1,))


def dissect(network: nn.Module, *, head: str | None) -> Anatomy:
    """Sort a network's parameters and buffers.

    Args:
        network: any module.
        head: the name of the slot that a task's head fills, such as ``fc``; None when there is none.

    Raises:
        BadInput: there is no such slot, or nothing to adapt outside it.
    """
    if head is not None:
        slots = [name for name, _ in network.named_children()]
        try:
            network.get_submodule(head)
        except AttributeError:
            raise BadInput(f"the network has no module {head!r} for a task's head; it has {', '.join(slots)}") from None
    modules = {name: m for name, m in network.named_modules() if not in_slot(name, head)}
    norm_modules = tuple(
        name for name, module in modules.items() if isinstance(module, NORM_TYPES) or keeps_statistics(module)
    )
    adaptable = {
        f"{name}.weight" if name else "weight"
        for name, module in modules.items()
        if isinstance(module, (_ConvNd, nn.Linear))
    }
    names = [name for name in persistent_tensors(network) if not in_slot(name, head)]
    weights = tuple(name for name in names if name in adaptable)
    norm = tuple(name for name in names if name.rpartition(".")[0] in norm_modules)
    if not weights:
        raise BadInput("the network has no convolution or linear layer outside its head, so there is nothing to adapt")
    taken = {*weights, *norm}
    rest = tuple(name for name in names if name not in taken)
    return Anatomy(weights=weights, norm_modules=norm_modules, norm=norm, rest=rest)


def keeps_statistics(module: nn.Module) -> bool:
    """Whether a module has running statistics, which move in training mode."""
    return any(module._buffers.get(name) is not None for name in STATISTICS)


def refuse_shared_memory(tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise BadInput if a write to a tensor would change another one, or other values of its own."""
    starts: dict[int, str] = {}
    for name, tensor in tensors.items():
        if any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)):
            raise BadInput(f"{name!r} has values that share memory, as expand() makes them: put its clone() there")
        if not tensor.numel():
            continue
        if (other := starts.setdefault(tensor.data_ptr(), name)) != name:
            raise BadInput(
                f"{other!r} and {name!r} are two tensors in the same memory, so that a task's write to one would "
                "change the other: tie them by giving both modules the same Parameter"
            )


def in_slot(name: str, slot: str | None) -> bool:
    """Whether a qualified name lies in the slot."""
    return slot is not None and (name == slot or name.startswith(slot + "."))


def fingerprint(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, types, shapes and values, in the order of the names.

    Memory layout and device do not matter.  Counters of batches that batch norm keeps
    (``num_batches_tracked``) are left out: they change no output.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        if name.endswith("num_batches_tracked"):
            continue
        tensor = tensors[name].detach().cpu().contiguous()
        kind = str(tensor.dtype).removeprefix("torch.")
        digest.update(f"{name} {kind} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
