"""Which parameters of a network are what (weights to adapt, norm layers, heads, the rest), and their digest."""

import difflib
import hashlib
import itertools
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from piggyback.shell.errors import BadInput

NORM_TYPES: Final = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
STATISTICS: Final = ("running_mean", "running_var")  # torch's names, which norm layers of others keep to
PROJECTIONS: Final = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
"""What `torch.nn.MultiheadAttention` keeps outside layers: the first, or the others where their sizes differ.  Its
output projection is a linear layer."""
MADE_FROM: Final = {  # old ways to compute a weight before each forward pass, and how to get a plain one back
    WeightNorm: "torch.nn.utils.remove_weight_norm(layer)",
    SpectralNorm: "torch.nn.utils.remove_spectral_norm(layer)",
    BasePruningMethod: "torch.nn.utils.prune.remove(layer, {name!r})",
}
FROZEN: Final = "frozen before attach"
EXCLUDED: Final = "excluded"

Exclude = str | type[nn.Module]


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """Qualified names of a network's parts: the plain network's, also where it, or a part of it, is compiled.

    A tensor that several names reach has one name here, whatever the order in which they were registered: one at
    which it would be masked, if there is one, and of several the first by number and alphabet.

    Attributes:
        weights: what mask methods work on: parameters called ``weight`` of convolution (grouped, depthwise,
            transposed too) and linear layers outside the heads, the first convolution included, and the projections
            of `torch.nn.MultiheadAttention`.
        norm_modules: normalisation layers outside the heads.
        left_norm_modules: those of which no task changes anything, statistics included.
        norm: their parameters and buffers.
        rest: all other parameters and buffers outside the heads, which no mask method touches.
        slots: for each head slot, every name under which the network has the module that stands there.
        left: parts that no task changes, whatever its method, and why: `FROZEN` or `EXCLUDED`.
        maskable: the weights, and those parts of `left` that would be among them.
    """

    weights: tuple[str, ...]
    norm_modules: tuple[str, ...]
    norm: tuple[str, ...]
    rest: tuple[str, ...]
    slots: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    left: Mapping[str, str] = field(default_factory=dict)
    maskable: tuple[str, ...] = ()
    left_norm_modules: tuple[str, ...] = ()

    @property
    def backbone(self) -> tuple[str, ...]:
        """Every parameter and buffer outside the heads."""
        return self.weights + self.norm + self.rest

    @property
    def head_names(self) -> tuple[str, ...]:
        """All names of the heads' slots."""
        return tuple(name for names in self.slots.values() for name in names)


def is_compiled(module: nn.Module) -> bool:
    """Whether this is what ``torch.compile(module)`` gives: a wrapper whose only child is the module."""
    return type(module).__name__ == "OptimizedModule" and "_orig_mod" in module._modules


def unwrap(module: nn.Module) -> nn.Module:
    """The module in a compiled wrapper, or the module itself."""
    while is_compiled(module):
        module = module.get_submodule("_orig_mod")
    return module


def plain_name(name: str, known: Container[str]) -> str:
    """A qualified name without the steps that compiled wrappers put into it, unless it is known as it is."""
    return name if name in known else ".".join(part for part in name.split(".") if part != "_orig_mod")


def walk(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """All modules by plain name, a module that several names reach under each of them; parents first."""
    module = unwrap(module)
    yield prefix, module
    for name, child in module._modules.items():
        if child is not None:
            yield from walk(child, join(prefix, name))


def join(prefix: str, name: str) -> str:
    """A qualified name from that of a module and one of its parts."""
    return f"{prefix}.{name}" if prefix else name


def persistent_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers themselves, by plain name; shared ones under each of their names."""
    parameters: dict[str, Tensor] = {}
    buffers: dict[str, Tensor] = {}
    for prefix, module in walk(network):
        parameters.update({join(prefix, key): p for key, p in module._parameters.items() if p is not None})
        passing = module._non_persistent_buffers_set
        buffers.update(
            {join(prefix, key): b for key, b in module._buffers.items() if b is not None and key not in passing}
        )
    return parameters | buffers


def like(tensor: Tensor, target: Tensor) -> Tensor:
    """A copy on the device and in the memory layout of `target`, in the data type of `tensor`."""
    return torch.empty_like(target, dtype=tensor.dtype, requires_grad=False).copy_(tensor)


def dissect(
    network: nn.Module,
    *,
    head: str | Sequence[str] | None,
    exclude: Exclude | Sequence[Exclude] = (),
    frozen: Collection[str] = (),
) -> Anatomy:
    """Sort a network's parameters and buffers.

    A parameter that the trunk and a head share belongs to the trunk.

    Args:
        network: any module.
        head: the name of the slot that a task's head fills, such as ``fc``, or several; None when there is none.
        exclude: types of layers, and names of modules or parameters, that no task may change.
        frozen: names of parameters that no task may change either; where they are all there is outside the heads,
            they mean a backbone that was frozen as a whole, and so nothing.

    Raises:
        BadInput: there is no such slot, or its module is held where no name leads; `exclude` names nothing outside
            the heads; a layer computes its weight from other parameters; or there is nothing outside the heads.
    """
    slots = find_slots(network, head)
    heads = tuple(name for names in slots.values() for name in names)
    everything = persistent_tensors(network)
    modules = {name: module for name, module in walk(network) if not is_in(name, heads)}
    tensors = {name: tensor for name, tensor in everything.items() if not is_in(name, heads)}
    if not tensors:
        raise BadInput("the network has no parameters outside its head, so there is nothing to adapt")
    excluded = find_excluded(modules, tensors, exclude if isinstance(exclude, list | tuple) else (exclude,))
    for name, module in modules.items():
        if not is_in(name, excluded):
            refuse_parametrized(name, module)
    maskable = {join(name, key) for name, module in modules.items() for key in maskable_of(module)}
    groups = group_names(tensors, preferred=maskable)
    norm_modules = {name: m for name, m in modules.items() if is_norm(m)}
    norm_modules = {name: norm_modules[name] for name in one_each(norm_modules)}
    canonical = {id(tensors[name]): name for name in groups}
    normed = {name: [canonical[id(t)] for t in persistent_tensors(m).values()] for name, m in norm_modules.items()}
    left = find_left(groups, tensors=tensors, excluded=excluded, frozen=frozen)
    for parts in normed.values():  # a norm layer none of whose parameters may change keeps its statistics, too
        why = {left.get(part) for part in parts if isinstance(tensors[part], nn.Parameter)}
        if why and None not in why:
            left |= dict.fromkeys((part for part in parts if part not in left), min(filter(None, why)))
    weights = tuple(name for name in groups if name in maskable and name not in left)
    in_norm = {part for parts in normed.values() for part in parts} - maskable
    return Anatomy(
        weights=weights,
        norm_modules=tuple(norm_modules),
        norm=tuple(name for name in groups if name in in_norm),
        rest=tuple(name for name in groups if name not in in_norm and name not in weights),
        slots=slots,
        left=left,
        maskable=tuple(name for name in groups if name in maskable),
        left_norm_modules=tuple(name for name, parts in normed.items() if left.keys() >= set(parts)),
    )


def find_slots(network: nn.Module, head: str | Sequence[str] | None) -> dict[str, tuple[str, ...]]:
    """For each head slot, all names under which the network has the module that stands there.

    Raises:
        BadInput: a name leads to no module or to the network itself, two of them lead to one module or into each other,
            or a module that stands in a slot is also held by a plain attribute, which no task's head would replace.
    """
    given = () if head is None else tuple(head) if isinstance(head, list | tuple) else (head,)
    if not all(isinstance(slot, str) for slot in given):
        raise BadInput(f"head= is the name of a slot, such as 'fc', or a tuple of names, not {head!r}")
    modules = dict(walk(network))
    slots: dict[str, tuple[str, ...]] = {}
    for slot in (plain_name(name, modules) for name in given):
        if not slot or slot not in modules:
            known = ", ".join(unwrap(network)._modules)
            raise BadInput(f"the network has no module {slot!r} for a task's head; it has {known}")
        names = tuple(name for name, module in modules.items() if module is modules[slot])
        for other in slots:
            if other in names:
                raise BadInput(f"the head slots {other!r} and {slot!r} are one module: name it once")
            if in_slot(slot, other) or in_slot(other, slot):
                raise BadInput(f"of the head slots {other!r} and {slot!r} one lies in the other: name the outer one")
        for place in hidden_places(modules, modules[slot]):
            raise BadInput(
                f"the head {slot!r} is also held by {place}, where no task's head could take its place: let the "
                "network reach its head in one way"
            )
        slots[slot] = names
    return slots


def hidden_places(modules: Mapping[str, nn.Module], wanted: nn.Module) -> Iterator[str]:
    """Where modules hold `wanted` beside their children: in plain attributes, lists, tuples and dicts."""
    of_torch = vars(nn.Module())
    for name, module in modules.items():
        for key, value in vars(module).items():
            if key in of_torch:
                continue
            held = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else (value,)
            if any(isinstance(one, nn.Module) and unwrap(one) is wanted for one in held):
                yield f"the attribute {join(name, key)!r}"


def find_excluded(
    modules: Mapping[str, nn.Module], tensors: Mapping[str, Tensor], exclude: Sequence[object]
) -> tuple[str, ...]:
    """Names of the modules and parameters that `exclude` means.

    Raises:
        BadInput: an entry is neither a type of module nor a name, or a name of nothing outside the heads.
    """
    found: list[str] = []
    for entry in exclude:
        if isinstance(entry, type) and issubclass(entry, nn.Module):
            found += [name for name, module in modules.items() if isinstance(module, entry)]
            continue
        if not isinstance(entry, str):
            raise BadInput(f"exclude= takes types of layers, such as nn.Conv2d, and names, not {entry!r}")
        name = plain_name(entry, {**modules, **tensors})
        if name not in modules and name not in tensors:
            near = difflib.get_close_matches(name, [*modules, *tensors], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise BadInput(f"exclude= names {entry!r}, but the network has no such part outside its heads{hint}")
        found.append(name)
    return tuple(found)


def refuse_parametrized(name: str, module: nn.Module) -> None:
    """Raise BadInput where a layer computes a parameter of its own from others before each forward pass.

    A mask on the parts would not be a mask on the weight, and the weight itself is no parameter.
    """
    remedy = ""
    if parametrize.is_parametrized(module):
        part = next(iter(module.get_submodule("parametrizations")._modules))
        remedy = f"torch.nn.utils.parametrize.remove_parametrizations(layer, {part!r})"
    for hook in module._forward_pre_hooks.values():
        for kind, advice in MADE_FROM.items():
            if isinstance(hook, kind):
                remedy = advice.format(name=getattr(hook, "_tensor_name", "weight"))
    if remedy:
        raise BadInput(
            f"layer {name!r} is parametrized: it computes a weight from other parameters before each forward pass, so "
            f"that no mask could stay on it. Call {remedy} first, or leave the layer out by exclude={name!r}"
        )
    if isinstance(module, _ConvNd | nn.Linear) and "weight" not in module._parameters:
        raise BadInput(
            f"layer {name!r} ({type(module).__name__}) has no parameter 'weight': it computes it, so that no mask "
            f"could stay on it. Leave the layer out by exclude={name!r}"
        )


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a norm layer: one of torch's, or one that keeps running statistics as batch norm does."""
    return isinstance(module, NORM_TYPES) or keeps_statistics(module)


def maskable_of(module: nn.Module) -> tuple[str, ...]:
    """The parameters of a module itself that mask methods work on."""
    if isinstance(module, _ConvNd | nn.Linear):
        return ("weight",) if module._parameters.get("weight") is not None else ()
    if isinstance(module, nn.MultiheadAttention):
        return tuple(name for name in PROJECTIONS if module._parameters.get(name) is not None)
    return ()


def group_names(tensors: Mapping[str, Tensor], *, preferred: Collection[str]) -> dict[str, tuple[str, ...]]:
    """All names of each tensor, by the one that stands for them: of the preferred ones, or of all, the first.

    Which is the first does not depend on the order in which names were registered.
    """
    names: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        names.setdefault(id(tensor), []).append(name)
    groups = {
        min(found, key=lambda name: (name not in preferred, by_number(name))): tuple(found) for found in names.values()
    }
    return {name: groups[name] for name in tensors if name in groups}


def one_each(modules: Mapping[str, nn.Module]) -> list[str]:
    """One name of each module, chosen as `group_names` does."""
    names: dict[int, list[str]] = {}
    for name, module in modules.items():
        names.setdefault(id(module), []).append(name)
    return [min(found, key=by_number) for found in names.values()]


def by_number(name: str) -> list[tuple[int, str]]:
    """A key that sorts ``layers.2`` before ``layers.10``."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in name.split(".")]


def find_left(
    groups: Mapping[str, Sequence[str]],
    *,
    tensors: Mapping[str, Tensor],
    excluded: Collection[str],
    frozen: Collection[str],
) -> dict[str, str]:
    """The parts that no task may change, and why; a part is left alone if one of its names is."""
    left = {name: EXCLUDED for name, names in groups.items() if any(is_in(one, excluded) for one in names)}
    parameters = [name for name in groups if isinstance(tensors[name], nn.Parameter)]
    kept = {name for name in parameters if not set(groups[name]).isdisjoint(frozen)}
    if len(kept) < len(parameters):
        left |= {name: FROZEN for name in kept if name not in left}
    return left


def keeps_statistics(module: nn.Module) -> bool:
    """Whether a module has running statistics, which move in training mode."""
    return any(module._buffers.get(name) is not None for name in STATISTICS)


def refuse_shared_memory(tensors: Mapping[str, Tensor]) -> None:
    """Raise BadInput if a write to a tensor would change another one, or other values of its own.

    One tensor under two names is no such pair, nor are two that lie side by side, or row by row, in one memory.
    """
    places: list[tuple[str, int, int, int, bool, str]] = []
    for number, (name, tensor) in enumerate({id(t): (name, t) for name, t in tensors.items()}.values()):
        strides = list(zip(tensor.shape, tensor.stride(), strict=True))
        if any(stride == 0 and size > 1 for size, stride in strides):
            raise BadInput(f"{name!r} has values that share memory, as expand() makes them: put its clone() there")
        if not tensor.numel() or tensor.is_meta:
            continue
        extent = 1 + sum((size - 1) * stride for size, stride in strides)
        begin = tensor.data_ptr()
        end = begin + extent * tensor.element_size()
        places.append((str(tensor.device), begin, number, end, extent == tensor.numel(), name))
    for one, after in itertools.pairwise(sorted(places)):
        (device, begin, _, end, dense, name), (device_after, begin_after, _, _, dense_after, name_after) = one, after
        if device == device_after and (begin == begin_after or (dense and dense_after and begin_after < end)):
            raise BadInput(
                f"{name!r} and {name_after!r} are two tensors in the same memory, so that a task's write to one would "
                "change the other: tie them by giving both modules the same Parameter"
            )


def in_slot(name: str, slot: str | None) -> bool:
    """Whether a qualified name lies in the slot."""
    return slot is not None and (name == slot or name.startswith(slot + "."))


def is_in(name: str, places: Iterable[str]) -> bool:
    """Whether a qualified name is one of the places or lies in one; the place ``""`` is everywhere."""
    return any(not place or in_slot(name, place) for place in places)


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
