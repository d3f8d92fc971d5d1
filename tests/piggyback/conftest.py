"""A small network, pictures for it, and the one check that a comparison of masks is about anything."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from piggyback import Adapter

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
