"""Networks that others have wrapped, sharded or rebuilt: refused by name, before a task is lost in one."""

import gc
import inspect
import itertools
import sys
from collections.abc import Collection, Iterator, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from piggyback.network.added_modules import CHILD, layers_with_modules
from piggyback.network.anatomy import is_in, persistent_tensors
from piggyback.shell.errors import BadInput, NetworkChanged

AFTERWARDS: Final = "attach the adapter and add its tasks first, then wrap the network in DistributedDataParallel"
UNSHARDED: Final = (
    "a task's masks and its weights must lie in one place: use DistributedDataParallel, not FullyShardedDataParallel, "
    "fully_shard or tensor parallelism"
)
FOREIGN: Final = {  # packages whose layers change what a parameter means, and what to do instead
    "peft": "merge what peft has added (merge_and_unload()) or leave it out, since masks and adapters do not mix",
    "torch.distributed.algorithms._checkpoint": (
        "it renames parameters: call torch.utils.checkpoint in the network's own forward() instead"
    ),
}


def refuse_wrapped(network: nn.Module) -> None:
    """Refuse to attach to a network whose parameters are not its own plain tensors, or go by other names.

    Raises:
        BadInput: it is wrapped for several processes, sharded, quantized, or has layers of peft or of torch's
            activation checkpointing.
    """
    if isinstance(network, nn.DataParallel):
        raise BadInput(AFTERWARDS)
    if reason := next(shards(network), None) or next(wrappers(network), None):
        raise BadInput(f"the network cannot be attached to: {reason}")


def refuse_held(network: nn.Module) -> None:
    """Refuse to show other parameters to a DistributedDataParallel made earlier, which would never synchronise them.

    Raises:
        BadInput: some DistributedDataParallel holds the network.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    wrapper = nn.parallel.DistributedDataParallel
    for holder in gc.get_objects():  # torch keeps no trace of the wrapper on the module it wraps
        # type(), not isinstance(): the latter asks proxies for their __class__, and some warn when touched
        if issubclass(type(holder), wrapper) and holder.module is network:
            raise BadInput("the network is wrapped in DistributedDataParallel: add and switch tasks before wrapping it")


def refuse_sharded(network: nn.Module) -> None:
    """Raise NetworkChanged if parameters were sharded after attach."""
    if reason := next(shards(network), None):
        raise NetworkChanged(f"the network was sharded after attach: {reason}")


def find_rebuilt(network: nn.Module, *, backbone: Collection[str], heads: Collection[str]) -> list[str]:
    """What has become of a network that has not the parameters any more which it had at attach, in words.

    Args:
        network: as an adapter left it, or not.
        backbone: the names of its parameters and buffers outside the head.
        heads: all names of the head's slots.
    """
    tensors = persistent_tensors(network)
    known = {id(tensors[name]) for name in backbone if name in tensors}
    known |= {id(p) for layer in layers_with_modules(network).values() for p in layer.get_submodule(CHILD).parameters()}
    new = [
        name
        for name, tensor in tensors.items()
        if isinstance(tensor, nn.Parameter) and id(tensor) not in known and not is_in(name, heads)
    ]
    gone = [name for name in backbone if name not in tensors]
    found = [f"{gone[0]!r} is gone"] if gone else []
    return found + ([f"{new[0]!r} has come"] if new else [])


def refuse_rebuilt(network: nn.Module, found: Sequence[str]) -> None:
    """Raise NetworkChanged if `find_rebuilt` found anything."""
    if found:
        reasons = [*found, *itertools.islice(wrappers(network), 1)]
        raise NetworkChanged(
            f"the network was rebuilt after attach: {'; '.join(reasons)}. The adapter neither trains nor saves what it "
            "does not know: build the network as it shall be, then attach; or wrap, quantize or prune "
            "adapter.merged(task)"
        )


def shards(network: nn.Module) -> Iterator[str]:
    """Why parameters of the network are only parts of larger tensors, or lie on several devices."""
    for name, parameter in network.named_parameters():
        if is_sharded(parameter):
            yield f"parameter {name!r} is sharded; {UNSHARDED}"


def is_sharded(parameter: Tensor) -> bool:
    """Whether a parameter is flattened by FullyShardedDataParallel, or a DTensor, as ``fully_shard`` makes them.

    The former marks its flat parameters, and the original ones where it keeps them
    (``torch/distributed/fsdp/_flat_param.py``).
    """
    if getattr(parameter, "_is_flat_param", False) or getattr(parameter, "_fsdp_flattened", False):
        return True
    tensors = sys.modules.get("torch.distributed.tensor")  # without it there is none, and loading it takes long
    return tensors is not None and isinstance(parameter, tensors.DTensor)


def wrappers(network: nn.Module) -> Iterator[str]:
    """What in the network is not a plain layer, and what to do about it."""
    for name, module in network.named_modules():
        kind = f"{type(module).__name__} ({name or 'the network itself'})"
        if isinstance(module, nn.parallel.DistributedDataParallel):
            yield f"{kind}: {AFTERWARDS}"
        sources = {base.__module__ for base in type(module).__mro__}
        for package, advice in FOREIGN.items():
            if any(source == package or source.startswith(f"{package}.") for source in sources):
                yield f"{kind}: {advice}"
        # float layers keep a tensor there, quantized ones a method that unpacks it (torch/ao/nn/quantized)
        if any(source.startswith("torch.ao.nn.") for source in sources) and inspect.ismethod(
            getattr(module, "weight", None)
        ):
            yield f"{kind} is quantized: attach to the network in floating point, and quantize adapter.merged(task)"
