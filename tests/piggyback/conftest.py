"""A small network, pictures for it, and the checks that a comparison of tasks is about anything."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decathlon.backbone.wrn import Block
from piggyback import Adapter, Method

Batch = tuple[Tensor, Tensor]


def refuse_trivial_masks(masks: Mapping[str, Tensor]) -> None:
    """Every mask starts at all ones: two that never moved are equal whatever the code does."""
    assert masks, "no masks to compare"
    for name, mask in masks.items():
        zeros = 1 - mask.double().mean().item()
        assert 0.05 <= zeros <= 0.95, f"{name} has {zeros:.1%} zeros: too few or too many to compare"


@pytest.fixture
def check_zeros() -> Callable[[Mapping[str, Tensor]], None]:
    """Fails unless every mask has between 5 and 95 % zeros."""
    return refuse_trivial_masks


@pytest.fixture
def moved_masks() -> Callable[[Adapter, str], dict[str, Tensor]]:
    """Copies of all masks of a task, each of which has between 5 and 95 % zeros."""

    def collect(adapter: Adapter, task: str) -> dict[str, Tensor]:
        state = adapter.task(task)
        kept = {name: state.kept_of(name) for name in adapter.anatomy.weights}
        refuse_trivial_masks({name: parts["mask"] for name, parts in kept.items()})
        return {f"{key} of {name}": tensor.clone() for name, parts in kept.items() for key, tensor in parts.items()}

    return collect


@pytest.fixture
def check_moved() -> Callable[[Adapter, str], None]:
    """Fails unless each number that a task trains for itself has left its start for a good part of its values."""

    def check(adapter: Adapter, task: str) -> None:
        state = adapter.task(task)
        pairs: dict[str, tuple[Tensor, Tensor]] = {}
        for name, trained in state.trained.items():
            fresh = state.method.start(adapter.frozen[name])
            pairs |= {f"{key} of {name}": (tensor, fresh[key]) for key, tensor in trained.items()}
        pairs |= {name: (tensor, adapter.frozen[name]) for name, tensor in state.own.items()}
        for layer, module in state.modules.items():
            fresh_module = state.method.module(adapter.network.get_submodule(layer)).state_dict()
            pairs |= {f"{key} of {layer}": (tensor, fresh_module[key]) for key, tensor in module.state_dict().items()}
        for name, (tensor, fresh_tensor) in pairs.items():
            if tensor.is_floating_point():
                moved = (tensor != fresh_tensor).double().mean().item()
                assert moved > 0.2, f"of {name} only {moved:.1%} has moved"
        assert pairs or state.method.adapts == "head", "nothing is trained"

    return check


def zero_half(network: nn.Module, *, head: str = "head") -> None:
    """The half of each convolution and linear weight that is nearest to zero: free for PackNet's tasks."""
    with torch.no_grad():
        for name, module in network.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear) and name != head:
                sizes = module.weight.abs()
                module.weight[sizes <= sizes.flatten().median()] = 0.0


@pytest.fixture
def make_ground(make_network: Callable[..., nn.Sequential]) -> Callable[..., nn.Sequential]:
    """The network of `make_network`, pruned where a method stands on a pruned one."""

    def build(method: Method, **options: Any) -> nn.Sequential:
        network = make_network(**options)
        if method.stands_on == "pruned":
            zero_half(network)
        return network

    return build


@pytest.fixture
def begin_of(make_network: Callable[..., nn.Sequential]) -> Callable[[Method], dict[str, Any]]:
    """What `add_task` wants of a method that begins anew: another draw of the network."""
    return lambda method: {"begin": make_network(seed=7).state_dict()} if method.adapts == "anew" else {}


@pytest.fixture
def reference_network() -> Callable[[str], tuple[nn.Module, tuple[int, ...]]]:
    """By kind, a frozen network in double precision with a head of four classes, and the shape of its inputs."""

    def build(kind: str) -> tuple[nn.Module, tuple[int, ...]]:
        make, shape = {"WRN block": (block_network, (4, 8, 8)), "linear": (linear_network, (12,))}[kind]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return make().double().eval(), shape

    return build


def block_network() -> nn.Module:
    """A block of the Decathlon's network: stride 2, two batch norms, a convolution in the shortcut."""
    network = nn.Sequential()
    network.add_module("block", Block(4, 8, stride=2))
    network.add_module("pool", nn.AdaptiveAvgPool2d(2))
    network.add_module("flatten", nn.Flatten())
    network.add_module("head", nn.Linear(32, 4))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 1.5)
    return network


def linear_network() -> nn.Module:
    network = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU())
    network.add_module("head", nn.Linear(16, 4))
    return network


@pytest.fixture
def make_network() -> Callable[..., nn.Sequential]:
    """A convolution, a grouped one, two batch norms with statistics of their own, a linear layer, a head."""

    def build(seed: int = 0, *, classes: int = 6) -> nn.Sequential:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = nn.Sequential()
            network.add_module("conv1", nn.Conv2d(3, 8, 3, padding=1))
            network.add_module("bn1", nn.BatchNorm2d(8))
            network.add_module("relu1", nn.ReLU())
            network.add_module("conv2", nn.Conv2d(8, 16, 3, stride=2, groups=2, bias=False))
            network.add_module("bn2", nn.BatchNorm2d(16))
            network.add_module("relu2", nn.ReLU())
            network.add_module("pool", nn.AdaptiveAvgPool2d(2))
            network.add_module("flatten", nn.Flatten())
            network.add_module("hidden", nn.Linear(64, 24))
            network.add_module("relu3", nn.ReLU())
            network.add_module("head", nn.Linear(24, classes))
            for norm in (network.bn1, network.bn2):
                for tensor in (norm.weight.data, norm.running_var):
                    tensor.uniform_(0.5, 1.5)
                for tensor in (norm.bias.data, norm.running_mean):
                    tensor.normal_(0, 0.2)
            return network.eval()

    return build


@pytest.fixture
def make_head() -> Callable[[int], nn.Linear]:
    """A head for `make_network` with four outputs."""

    def build(seed: int) -> nn.Linear:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return nn.Linear(24, 4)

    return build


@pytest.fixture
def make_batches() -> Callable[..., list[Batch]]:
    """Noise with random labels."""

    def draw(
        count: int, shape: Sequence[int] = (3, 8, 8), *, seed: int = 0, size: int = 16, dtype: torch.dtype | None = None
    ) -> list[Batch]:
        generator = torch.Generator().manual_seed(seed)
        return [
            (
                torch.randn(size, *shape, generator=generator, dtype=dtype),
                torch.randint(0, 4, (size,), generator=generator),
            )
            for _ in range(count)
        ]

    return draw


@pytest.fixture
def run_steps() -> Callable[..., None]:
    """One optimizer step per batch; calls `before_step` between backward and step."""

    def run(
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        batches: Iterable[Batch],
        *,
        before_step: Callable[[], Any] = lambda: None,
    ) -> None:
        for inputs, targets in batches:
            optimizer.zero_grad()
            F.cross_entropy(network(inputs), targets).backward()
            before_step()
            optimizer.step()

    return run
