"""Numbers of half-precision networks: what is float32 beside them, and how it meets the rest in a forward pass.

Steps of training are too small for float16 and bfloat16: between 1/2 and 1 the latter has numbers 2^-8 apart, and a
step of Adam's at 1e-4 is lost in that.  So whatever is trained or averaged is kept in float32, as peft does
(https://github.com/huggingface/peft/pull/1706), while frozen weights and heads keep the types that they came with.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from piggyback.shell.errors import Diverged, one_line

HALF: Final = (torch.float16, torch.bfloat16)
STATISTICS: Final = ("running_mean", "running_var")


def wide_type(dtype: torch.dtype) -> torch.dtype:
    """The type to compute and train in: float32 in place of a half-precision type, else the same."""
    return torch.float32 if dtype in HALF else dtype


def wide(tensor: Tensor) -> Tensor:
    """The tensor in the type to compute and train in; itself unless it is in half precision."""
    return tensor.to(wide_type(tensor.dtype))


def retype(value: Any, dtype: torch.dtype) -> Any:
    """A value with the floating-point tensors in it, also those in lists, tuples and dicts, in another type."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if type(value) in (list, tuple):
        return type(value)(retype(part, dtype) for part in value)
    if type(value) is dict:
        return {key: retype(part, dtype) for key, part in value.items()}
    return value


def own_tensors(module: nn.Module) -> tuple[Tensor, ...]:
    """Parameters and buffers of a module and its parts that are floating-point numbers."""
    return tuple(t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point())


def casts_itself(tensor: Tensor) -> bool:
    """Whether autocast chooses the types of operations on the tensor's device."""
    return torch.is_autocast_enabled(tensor.device.type)


def refuse_non_finite(tensors: Mapping[str, Tensor], *, done: str = "saved") -> None:
    """Raise Diverged for the first tensor with a NaN or infinity: such a task must not be saved, or so."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            where = one_line(name)
            raise Diverged(f"{where} has values that are not finite: the training diverged, so nothing was {done}")


# -- heads --------------------------------------------------------------------------------------------------


def cast_inputs(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
    """The forward pre-hook of a head of another type than the trunk: its inputs in the type of its first parameter."""
    own = own_tensors(module)
    if not own or casts_itself(own[0]):
        return None
    return retype(args, own[0].dtype), retype(kwargs, own[0].dtype)


def let_in(head: nn.Module, *, features: torch.dtype) -> None:
    """Let a head take features of another type than its own.

    The hook is a function of this file, so that copies of the network, pickled ones too, work by themselves.
    """
    known = cast_inputs in head._forward_pre_hooks.values()
    if not known and any(tensor.dtype != features for tensor in own_tensors(head)):
        head.register_forward_pre_hook(cast_inputs, with_kwargs=True)


def put_head(network: nn.Module, slot: str, head: nn.Module, *, like: Tensor, known: torch.dtype | None) -> None:
    """Put a head into its slot: on the device of the one before it, in its own type, whatever the trunk's is.

    Args:
        network: has the slot.
        slot: its name.
        head: for it.
        like: a tensor of the trunk.
        known: the trunk's type when the head was last shown; where ``network.to()`` has changed that since, the head
            is changed likewise.
    """
    before = network.get_submodule(slot)
    if head is not before:
        here = next((tensor.device for tensor in own_tensors(before)), like.device)
        head.to(here, like.dtype if known not in (None, like.dtype) else None)
        network.set_submodule(slot, head)
    let_in(head, features=like.dtype)


# -- norm layers --------------------------------------------------------------------------------------------


def keep_type(_: nn.Module, args: Any, output: Any) -> Any:
    """The forward hook of a float32 norm layer in a half-precision network: its output in its input's type."""
    return output if not args or casts_itself(args[0]) else retype(output, args[0].dtype)


class WideNorms:
    """Norm layers in float32 for as long as the network shows a task with running statistics of its own.

    torch's batch norm takes half-precision inputs beside float32 parameters and statistics, but only all of them
    together.  While it is shown the layer is therefore in float32 as a whole; frozen numbers lose nothing by that.

    Attributes:
        layers: those that must be so now.
        before: those that were in half precision: the type of each before, and the trunk's at that time.
    """

    def __init__(self) -> None:
        self.layers: tuple[nn.Module, ...] = ()
        self.before: dict[str, tuple[torch.dtype, torch.dtype]] = {}

    def set(self, network: nn.Module, names: Iterable[str], *, trunk: torch.dtype) -> None:
        """Let the named layers be in float32, and those that are no longer named in the type that they had."""
        names = tuple(names)
        self.layers = tuple(network.get_submodule(name) for name in names)
        for name in tuple(self.before):
            if name not in names:
                type_then, trunk_then = self.before.pop(name)
                put_type(network.get_submodule(name), type_then if trunk == trunk_then else trunk)
        for name, layer in zip(names, self.layers, strict=True):
            found = next((t.dtype for t in own_tensors(layer) if t.dtype in HALF), None)
            if found is None:
                continue
            self.before[name] = (found, trunk)
            put_type(layer, torch.float32)
            if not isinstance(layer, _NormBase) and keep_type not in layer._forward_hooks.values():
                layer.register_forward_hook(keep_type)

    def are_narrow(self) -> bool:
        """Whether ``network.half()`` or the like has undone it."""
        for layer in self.layers:
            for key in STATISTICS:
                tensor = layer._buffers.get(key)
                if tensor is not None and tensor.dtype in HALF:
                    return True
        return False


def put_type(layer: nn.Module, dtype: torch.dtype) -> None:
    """Change the type of a layer's tensors, which stay the same objects to optimizers."""
    for tensor in own_tensors(layer):
        tensor.data = tensor.data.to(dtype)
        if tensor.grad is not None:
            tensor.grad.data = tensor.grad.data.to(dtype)
