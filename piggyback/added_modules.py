"""Modules that a task puts behind layers of the network.

While a task is shown, each is a child of its layer, called ``added``, and a forward hook lets it work on the layer's
output.  So optimizers, DistributedDataParallel, ``train()`` and ``deepcopy`` find it like any other part.  The hook is
a function of this file that knows no task, so that copies of the network work by themselves.
"""

import sys
from collections.abc import Mapping
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from piggyback.methods.contract import AddsModules
from piggyback.numerics.precision import casts_itself, own_tensors, retype, wide_type

CHILD: Final = "added"


def run_added(layer: nn.Module, _: Any, output: Tensor) -> Tensor:
    """The forward hook: the layer's output, as the module behind it changes it; the module has a type of its own."""
    module = layer.get_submodule(CHILD)
    own = own_tensors(module)
    if not own or own[0].dtype == output.dtype or casts_itself(output):
        return cast(Tensor, module(output))
    return cast(Tensor, retype(module(retype(output, own[0].dtype)), output.dtype))


def show_modules(network: nn.Module, modules: Mapping[str, nn.Module], *, like: Tensor) -> None:
    """Put modules behind layers, by name, on the device and in the data type of a tensor of the network.

    In a half-precision network they are float32.
    """
    for name, module in modules.items():
        layer = network.get_submodule(name)
        layer.add_module(CHILD, module.to(like.device, wide_type(like.dtype)))
        layer.register_forward_hook(run_added)
    # A compiled graph checks whether the hooks that it knows still do the same, but not whether new ones have come.
    if modules and "torch._dynamo" in sys.modules:  # else nothing has been compiled, and loading it takes seconds
        torch.compiler.reset()


def layers_with_modules(network: nn.Module) -> dict[str, nn.Module]:
    """Layers that have a module behind them, by name."""
    return {name: layer for name, layer in network.named_modules() if run_added in layer._forward_hooks.values()}


def hide_modules(network: nn.Module) -> None:
    """Take all such modules away, with their hooks.

    The hooks are looked for in the layers, since a copy of a network has no handles to remove them by.
    """
    for layer in layers_with_modules(network).values():
        for key, hook in list(layer._forward_hooks.items()):
            if hook is run_added:
                del layer._forward_hooks[key]
        delattr(layer, CHILD)


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
