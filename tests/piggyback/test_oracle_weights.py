"""Methods that recombine, deal out or train weights, against networks that do the same openly."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

import piggyback
from piggyback import METHODS, Adapter
from piggyback.methods.packnet import PackNet, join_planes

Batches = list[tuple[Tensor, Tensor]]
STEPS = 96  # of which half are a multiple of the batches there are
LR = 1e-3
CLOSE = {"rtol": 0, "atol": 1e-8}
RATES = {"mask_lr": LR, "head_lr": LR, "norm_lr": LR, "weight_lr": LR}


def train(network: nn.Module, optimizer: torch.optim.Optimizer, batches: Batches, *, steps: int = STEPS) -> None:
    for step in range(steps):
        inputs, targets = batches[step % len(batches)]
        optimizer.zero_grad()
        F.cross_entropy(network(inputs), targets).backward()
        optimizer.step()


def train_ours(
    network: nn.Module, name: str, batches: Batches, *, head: nn.Module, norm: str = "fixed", **add: Any
) -> Adapter:
    """An adapter with one task trained."""
    adapter = piggyback.attach(network, method=METHODS[name], head="head", norm=norm)
    adapter.add_task("task", head=copy.deepcopy(head), **add)
    adapter.train()
    train(network, adapter.optimizer(**RATES, update="eager"), batches)
    return adapter


def train_openly(network: nn.Module, batches: Batches, *, trained: Callable[[str], bool], train_norm: bool) -> None:
    """Plain Adam on the parameters whose names are `trained`, with the network's own norm layers in training or not."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(trained(name))
    network.train()
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d) and "added" not in name:
            module.train(train_norm)
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    train(network, torch.optim.Adam(parameters, lr=LR, foreach=False), batches)


@contextmanager
def evaluated(*networks: nn.Module) -> Iterator[None]:
    for network in networks:
        network.eval()
    with torch.no_grad():
        yield


# -- adapters of layers ---------------------------------------------------------------------------------


class Beside(nn.Module):
    """A convolution and a 1x1 convolution beside it, on the same input."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.layer = layer
        self.added = nn.Conv2d(layer.in_channels, layer.out_channels, 1, stride=layer.stride, bias=False)
        nn.init.zeros_(self.added.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.added(x)


class Recombined(nn.Module):
    """A layer's outputs and their linear combinations, before the layer's bias."""

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        self.layer, self.bias, layer.bias = layer, layer.bias, None
        self.added = nn.Linear(len(layer.weight), len(layer.weight), bias=False)
        nn.init.zeros_(self.added.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x).movedim(1, -1)
        y = y + self.added(y)
        return (y if self.bias is None else y + self.bias).movedim(-1, 1)


class Behind(nn.Module):
    """A layer, and behind it a batch norm and a 1x1 convolution with a skip around both."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.layer = layer
        self.added = nn.Sequential(
            nn.BatchNorm2d(layer.out_channels), nn.Conv2d(layer.out_channels, layer.out_channels, 1, bias=False)
        )
        nn.init.zeros_(self.added[1].weight)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return y + self.added(y)


def replace_layers(
    network: nn.Module, kind: Callable[[Any], nn.Module], *, where: Callable[[nn.Module], bool]
) -> dict[str, nn.Module]:
    """Put another module in the place of each layer outside the head that is asked for."""
    names = [name for name, layer in network.named_modules() if where(layer) and name != "head"]
    for name in names:
        network.set_submodule(name, kind(network.get_submodule(name)).double())
    return {name: network.get_submodule(name) for name in names}


def is_large(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3)


def has_weight(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d | nn.Linear)


def test_parallel_adapters_are_convolutions_beside(reference_network: Callable, make_batches: Callable) -> None:
    """The two 3x3 convolutions have strides 2 and 1; the 1x1 shortcut gets none."""
    network, shape = reference_network("WRN block")
    batches = make_batches(4, shape, size=32, dtype=torch.float64)
    plain, inputs = copy.deepcopy(network), batches[0][0]
    layers = replace_layers(plain, Beside, where=is_large)
    assert [layer.layer.stride for layer in layers.values()] == [(2, 2), (1, 1)]
    adapter = train_ours(network, "parallel", batches, head=plain.head)
    train_openly(plain, batches, trained=lambda name: "added" in name or "head" in name, train_norm=False)
    trained = adapter.task("task").trained
    assert trained.keys() == {f"{name}.weight" for name in layers}
    for name, layer in layers.items():
        assert layer.added.weight.abs().min() > 1e-5
        torch.testing.assert_close(trained[f"{name}.weight"]["adapter"], layer.added.weight.detach(), **CLOSE)
    with evaluated(network, plain):
        torch.testing.assert_close(network(inputs), plain(inputs), **CLOSE)


@pytest.mark.parametrize("kind", ["WRN block", "linear"])
@pytest.mark.parametrize("norm", ["fixed", "statistics"])
def test_dan_recombines_outputs(kind: str, norm: str, reference_network: Callable, make_batches: Callable) -> None:
    """With statistics of its own, as in the authors' code, norm layers train no parameter of theirs."""
    network, shape = reference_network(kind)
    batches = make_batches(4, shape, size=32, dtype=torch.float64)
    plain, inputs = copy.deepcopy(network), batches[0][0]
    layers = replace_layers(plain, Recombined, where=has_weight)
    adapter = train_ours(network, "dan", batches, head=plain.head, norm=norm)
    train_openly(
        plain, batches, trained=lambda name: "added" in name or "head" in name, train_norm=norm == "statistics"
    )
    trained = adapter.task("task").trained
    assert trained.keys() == {f"{name}.weight" for name in layers}
    for name, layer in layers.items():
        assert (layer.added.weight != 0).double().mean() > 0.8
        torch.testing.assert_close(trained[f"{name}.weight"]["controller"], layer.added.weight.detach(), **CLOSE)
    ours, theirs = dict(network.named_buffers()), dict(plain.named_buffers())
    assert ours.keys() == theirs.keys()
    for name, buffer in ours.items():
        torch.testing.assert_close(buffer, theirs[name], **CLOSE)
        assert torch.equal(buffer, adapter.frozen[name]) == (norm == "fixed")
    with evaluated(network, plain):
        torch.testing.assert_close(network(inputs), plain(inputs), **CLOSE)


@pytest.mark.parametrize("name", ["series", "series-joint"])
@pytest.mark.parametrize("norm", ["fixed", "trained"])
def test_series_adapters_are_modules_behind(
    name: str, norm: str, reference_network: Callable, make_batches: Callable
) -> None:
    network, shape = reference_network("WRN block")
    batches = make_batches(4, shape, size=32, dtype=torch.float64)
    plain, inputs = copy.deepcopy(network), batches[0][0]
    layers = replace_layers(plain, Behind, where=is_large)
    adapter = train_ours(network, name, batches, head=plain.head, norm=norm)

    def is_trained(part: str) -> bool:
        return "added" in part or "head" in part or (norm == "trained" and "bn" in part)

    train_openly(plain, batches, trained=is_trained, train_norm=norm == "trained")
    modules = adapter.task("task").modules
    assert modules.keys() == layers.keys()
    for layer, module in modules.items():
        theirs = layers[layer].added
        torch.testing.assert_close(module.mix.weight.detach(), theirs[1].weight.detach(), **CLOSE)
        for part, tensor in theirs[0].state_dict().items():
            torch.testing.assert_close(module.norm.state_dict()[part], tensor, **CLOSE)
        assert module.norm.num_batches_tracked == STEPS  # also where the network's own norm layers are fixed
    with evaluated(network, plain):
        torch.testing.assert_close(network(inputs), plain(inputs), **CLOSE)


# -- trained in place -----------------------------------------------------------------------------------


def anything(name: str) -> bool:
    return True


def norm_or_head(name: str) -> bool:
    return name.startswith(("bn", "head"))


@pytest.mark.parametrize(
    ("name", "trained"),
    [("finetune", anything), ("scratch", anything), ("norm", norm_or_head), ("joint", norm_or_head)],
)
def test_what_is_trained_in_place_is_what_adam_makes_of_it(
    name: str, trained: Callable[[str], bool], make_network: Callable, make_head: Callable, make_batches: Callable
) -> None:
    batches = make_batches(4, dtype=torch.float64)
    network, plain = make_network().double(), make_network(seed=7 if name == "scratch" else 0).double()
    add = {"begin": copy.deepcopy(plain.state_dict())} if name == "scratch" else {}
    plain.head = make_head(0).double()
    adapter = train_ours(network, name, batches, head=plain.head, **add)
    start = copy.deepcopy(plain.state_dict())
    train_openly(plain, batches, trained=trained, train_norm=True)
    ours, theirs = network.state_dict(), plain.state_dict()
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        torch.testing.assert_close(ours[key], tensor, **CLOSE)
        assert torch.equal(tensor, start[key]) != trained(key)
    assert adapter.task("task").own.keys() == {key for key in theirs if trained(key) and "head" not in key}


# -- PackNet --------------------------------------------------------------------------------------------

RULES: Mapping[str, tuple[piggyback.AdamRule | piggyback.SGDRule, Callable[[Any], torch.optim.Optimizer]]] = {
    "adam": (piggyback.AdamRule(), lambda parameters: torch.optim.Adam(parameters, lr=LR, foreach=False)),
    "sgd": (piggyback.SGDRule(momentum=0.9), lambda parameters: torch.optim.SGD(parameters, lr=LR, momentum=0.9)),
}


class Dealt(nn.Module):
    """A pruned network with one table of owners per weight: 0 nobody, 1 the backbone, 2 the first task.

    All values stand in one table, as in the authors' code; gradients are zeroed where the current task is no owner,
    and values are put back after each step where it is none, whatever the optimizer did to them.
    """

    def __init__(self, network: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        weights = {name.replace(".", "/"): network.get_parameter(name) for name in names}
        self.values = nn.ParameterDict({name: nn.Parameter(weight.clone()) for name, weight in weights.items()})
        self.owner = {name: (weight != 0).long() for name, weight in weights.items()}

    def forward(self, x: Tensor) -> Tensor:
        return functional_call(
            self.network, {name.replace("/", "."): value for name, value in self.values.items()}, (x,)
        )

    def train_task(
        self, task: int, batches: Batches, *, make: Callable[[Any], torch.optim.Optimizer], share: float
    ) -> None:
        """Half the steps with all free weights, then without the smallest of them."""
        for owner in self.owner.values():
            owner[owner == 0] = task
        head = self.network.head.requires_grad_(True)
        optimizer = make([*self.values.parameters(), *head.parameters()])
        for step in range(STEPS):
            if step == STEPS // 2:
                self.prune(task, share=share)
            before = {name: value.detach().clone() for name, value in self.values.items()}
            inputs, targets = batches[step % len(batches)]
            optimizer.zero_grad()
            F.cross_entropy(self(inputs), targets).backward()
            for name, value in self.values.items():
                value.grad[self.owner[name] != task] = 0.0
            optimizer.step()
            with torch.no_grad():
                for name, value in self.values.items():
                    value.copy_(torch.where(self.owner[name] == task, value, before[name]))

    @torch.no_grad()
    def prune(self, task: int, *, share: float) -> None:
        for name, value in self.values.items():
            owner = self.owner[name]
            own = sorted(value[owner == task].abs().tolist())
            cutoff = own[round(share * len(own)) - 1]
            gone = (owner == task) & (value.abs() <= cutoff)
            owner[gone], value[gone] = 0, 0.0


@pytest.mark.parametrize("kind", ["WRN block", "linear"])
@pytest.mark.parametrize("rule", RULES)
def test_packnet_is_one_table_of_owners(
    kind: str, rule: str, reference_network: Callable, make_batches: Callable
) -> None:
    """Two tasks after one another, both pruned in the middle of their training, by the same optimizer throughout."""
    network, shape = reference_network(kind)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.ndim > 1 and "head" not in name:
                weight[weight.abs() < weight.abs().median()] = 0.0
    plain, method, share = copy.deepcopy(network), PackNet(tasks=2), 0.75
    adapter = piggyback.attach(network, method=method, head="head")
    dealt = Dealt(plain, list(adapter.anatomy.weights))
    ours_rule, make = RULES[rule]
    previous = None
    for number, name in enumerate(("first", "second")):
        batches = make_batches(4, shape, seed=number, size=32, dtype=torch.float64)
        head = copy.deepcopy(adapter.base_head)
        plain.head = copy.deepcopy(head)
        adapter.add_task(name, head=head, after=previous)
        adapter.train()
        optimizer = adapter.optimizer(mask_lr=LR, head_lr=LR, rule=ours_rule, update="eager")
        train(network, optimizer, batches, steps=STEPS // 2)
        adapter.prune(share)
        train(network, optimizer, batches, steps=STEPS // 2)
        dealt.train_task(number + 2, batches, make=make, share=share)
        previous = name
        for weight in adapter.anatomy.weights:
            key = weight.replace(".", "/")
            later = dealt.owner[key].clone()
            later[later == 1] = 0
            assert (later == number + 2).double().mean() > 0.01
            assert torch.equal(join_planes(adapter.task(name).kept_of(weight)).long(), later)
            torch.testing.assert_close(network.get_parameter(weight).detach(), dealt.values[key].detach(), **CLOSE)
