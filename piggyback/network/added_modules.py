"""Modules that a task puts behind layers of the network.

While a task is shown, each is a child of its layer, called ``added``, and a forward hook lets it work on the layer's
output.  So optimizers, DistributedDataParallel, ``train()`` and ``deepcopy`` find it like any other part.  The hook is
a function of this file that knows no task, so that copies of the network work by themselves.  It stays on its layer
when the module goes: a compiled network looks at each call which children its layers have, and so takes the graph of
the task that is shown, but it does not look whether hooks have come.
"""

import sys
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from piggyback.methods.contract import AddsModules
from piggyback.network.anatomy import unwrap
from piggyback.numerics.precision import casts_itself, own_tensors, retype, wide_type
from piggyback.shell.errors import BadInput

CHILD: Final = "added"


def run_added(layer: nn.Module, _: Any, output: Tensor) -> Tensor:
    """The forward hook: the layer's output, as the module behind it changes it, if there is one.

    The module has a type of its own.
    """
    added = layer._modules.get(CHILD)
    if added is None:
        return output
    own = own_tensors(added)
    if not own or own[0].dtype == output.dtype or casts_itself(output):
        return cast(Tensor, added(output))
    return cast(Tensor, retype(added(retype(output, own[0].dtype)), output.dtype))


def hook_layers(layers: Iterable[nn.Module]) -> None:
    """Let layers have modules behind them; what was compiled without the hooks is compiled again."""
    fresh = [layer for layer in layers if run_added not in layer._forward_hooks.values()]
    for layer in fresh:
        layer.register_forward_hook(run_added)
    if fresh and "torch._dynamo" in sys.modules:  # else nothing has been compiled, and loading it takes seconds
        torch.compiler.reset()


def refuse_taken(network: nn.Module, names: Iterable[str]) -> None:
    """Raise BadInput if a layer has a part of its own where a module would be put."""
    for name in names:
        layer = unwrap(network.get_submodule(name))
        if run_added not in layer._forward_hooks.values() and hasattr(layer, CHILD):
            raise BadInput(f"layer {name!r} has a part called {CHILD!r} of its own, where tasks put theirs: rename it")


def show_modules(network: nn.Module, modules: Mapping[str, nn.Module], *, like: Tensor) -> None:
    """Put modules behind layers, by name, on the device and in the data type of a tensor of the network.

    In a half-precision network they are float32.
    """
    layers = {name: unwrap(network.get_submodule(name)) for name in modules}
    hook_layers(layers.values())
    for name, module in modules.items():
        layers[name].add_module(CHILD, module.to(like.device, wide_type(like.dtype)))


def layers_with_modules(network: nn.Module) -> dict[str, nn.Module]:
    """Layers that have a module behind them, by name."""
    hooked = {name: layer for name, layer in network.named_modules() if run_added in layer._forward_hooks.values()}
    return {name: layer for name, layer in hooked.items() if CHILD in layer._modules}


def hide_modules(network: nn.Module) -> None:
    """Take all such modules away."""
    for layer in layers_with_modules(network).values():
        delattr(layer, CHILD)


def unhook_layers(network: nn.Module) -> None:
    """Take the hooks away; they are looked for in the layers, since a copy of a network has no handles to them."""
    for layer in network.modules():
        for key, hook in list(layer._forward_hooks.items()):
            if hook is run_added:
                del layer._forward_hooks[key]


@torch.no_grad()
def fold_modules(network: nn.Module, method: AddsModules) -> None:
    """Replace such modules: what they do in evaluation mode goes into their layers' own weights and biases."""
    layers = layers_with_modules(network)
    modules = {name: layer.get_submodule(CHILD) for name, layer in layers.items()}
    hide_modules(network)
    for name, layer in layers.items():
        bias = cast(Tensor | None, layer.bias)
        weight = join_groups(layer)
        folded, offset = method.fold(weight, bias, modules[name])
        layer.weight = nn.Parameter(torch.empty_like(weight).copy_(folded))
        layer.bias = nn.Parameter(offset.clone())


def join_groups(layer: nn.Module) -> Tensor:
    """The weight of a layer whose groups are joined into one, with zeros between them.

    A module behind the layer may mix its groups, which a folded convolution can do only as one group.
    """
    weight, groups = cast(Tensor, layer.weight), cast(int, getattr(layer, "groups", 1))
    if groups == 1:
        return weight
    rows, columns = len(weight) // groups, weight.shape[1]
    whole = weight.new_zeros(len(weight), groups * columns, *weight.shape[2:])
    for group, part in enumerate(torch.split(weight, rows)):
        whole[group * rows : (group + 1) * rows, group * columns : (group + 1) * columns] = part
    cast(Any, layer).groups = 1
    return whole
