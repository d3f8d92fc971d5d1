"""The overlay against the paper's equations 4 to 7 written with autograd, slowly and in the open."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

import piggyback
from decathlon.wrn import Block

MaskMethod = piggyback.Binary | piggyback.Ternary
STEPS = 200
LR = 1e-3
# The paper's threshold for masks of two values.  Zero is the middle one of three values: 200 steps of 1e-3 carry
# most real masks across the 0.005 that the paper's would leave for it, so it gets a wider band.
METHODS = (piggyback.Binary(threshold=5e-3, init=1e-2), piggyback.Ternary(threshold=5e-2, init=6e-2))


class Binarize(torch.autograd.Function):
    """Equation 4 with the strict comparison of the authors' code; backward passes straight through (eq. 7)."""

    @staticmethod
    def forward(ctx: Any, real: Tensor, threshold: float) -> Tensor:
        return (real > threshold).to(real.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class Ternarize(torch.autograd.Function):
    """-1 below zero, 1 above the threshold, 0 between; backward passes straight through."""

    @staticmethod
    def forward(ctx: Any, real: Tensor, threshold: float) -> Tensor:
        return (real > threshold).to(real.dtype) - (real < 0).to(real.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class Oracle(nn.Module):
    """A frozen network whose weights are multiplied with thresholded parameters (equations 5 and 6)."""

    def __init__(self, network: nn.Module, names: tuple[str, ...], method: MaskMethod) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.discretize = Ternarize if isinstance(method, piggyback.Ternary) else Binarize
        self.threshold = method.threshold
        weights = dict(network.named_parameters())
        self.mask_real = nn.ParameterDict(
            {name.replace(".", "/"): torch.full_like(weights[name], method.init) for name in names}
        )
        self.head = network.get_submodule("head").requires_grad_(True)

    def masks(self) -> dict[str, Tensor]:
        return {
            name.replace("/", "."): self.discretize.apply(real, self.threshold) for name, real in self.mask_real.items()
        }

    def forward(self, x: Tensor) -> Tensor:
        weights = dict(self.network.named_parameters())
        return functional_call(self.network, {name: mask * weights[name] for name, mask in self.masks().items()}, (x,))


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


NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "WRN block": (block_network, (4, 8, 8)),
    "linear": (linear_network, (12,)),
}


@dataclass(frozen=True, kw_only=True)
class Uphill(piggyback.Binary):
    """The negative control: one sign is wrong."""

    def pull_back(self, gradient: Tensor, weight: Tensor, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"mask_real": -gradient * weight}


def train_both(
    kind: str,
    method: MaskMethod,
    batches: list[tuple[Tensor, Tensor]],
    *,
    update: Literal["compiled", "eager"],
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Masks and real masks of the overlay, masks and real masks of the oracle, all after the same steps."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = NETWORKS[kind][0]().double().eval()
        head = copy.deepcopy(network.get_submodule("head"))
    plain = copy.deepcopy(network)
    adapter = piggyback.attach(network, method=method, head="head")
    adapter.add_task("task", head=head)
    matrices = tuple(name for name, tensor in plain.named_parameters() if tensor.ndim > 1 and "head" not in name)
    oracle = Oracle(plain, matrices, method)
    ours = adapter.optimizer(mask_lr=LR, head_lr=LR, update=update)
    theirs = torch.optim.Adam([*oracle.mask_real.parameters(), *oracle.head.parameters()], lr=LR, foreach=False)
    adapter.train()
    for step in range(STEPS):
        inputs, targets = batches[step % len(batches)]
        for model, optimizer in ((network, ours), (oracle, theirs)):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
    state = adapter.task("task")
    signs = {}
    for name in adapter.anatomy.weights:
        kept = state.kept_of(name)
        signs[name] = kept["mask"].double() * (1 - 2 * kept.get("negative", torch.zeros(())).double())
    reals = {name: trained["mask_real"] for name, trained in state.trained.items()}
    oracle_reals = {name.replace("/", "."): real.detach() for name, real in oracle.mask_real.items()}
    return signs, reals, {name: mask.detach() for name, mask in oracle.masks().items()}, oracle_reals


@pytest.mark.parametrize("update", ["eager", "compiled"])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize("kind", NETWORKS)
def test_masks_are_those_of_the_papers_equations(
    kind: str,
    method: MaskMethod,
    update: Literal["compiled", "eager"],
    make_batches: Callable[..., list[tuple[Tensor, Tensor]]],
    check_zeros: Callable[[Mapping[str, Tensor]], None],
) -> None:
    batches = make_batches(4, NETWORKS[kind][1], size=32, dtype=torch.float64)
    masks, reals, oracle_masks, oracle_reals = train_both(kind, method, batches, update=update)
    check_zeros({name: mask != 0 for name, mask in masks.items()})
    check_zeros({name: mask != 0 for name, mask in oracle_masks.items()})
    assert masks.keys() == oracle_masks.keys()
    if isinstance(method, piggyback.Ternary):
        assert all((mask < 0).any() for mask in oracle_masks.values())
    for name, mask in masks.items():
        assert torch.equal(mask, oracle_masks[name]), f"{(mask != oracle_masks[name]).sum()} bits of {name} differ"
        torch.testing.assert_close(reals[name], oracle_reals[name], rtol=0, atol=1e-6)


def test_the_comparison_notices_a_wrong_sign(
    make_batches: Callable[..., list[tuple[Tensor, Tensor]]], check_zeros: Callable[[Mapping[str, Tensor]], None]
) -> None:
    batches = make_batches(4, NETWORKS["linear"][1], size=32, dtype=torch.float64)
    masks, reals, oracle_masks, oracle_reals = train_both("linear", Uphill(), batches, update="eager")
    check_zeros({name: mask != 0 for name, mask in masks.items()})
    check_zeros({name: mask != 0 for name, mask in oracle_masks.items()})
    for name, mask in masks.items():
        assert not torch.equal(mask, oracle_masks[name])
        assert not torch.allclose(reals[name], oracle_reals[name], rtol=0, atol=1e-6)


def test_a_real_mask_on_the_threshold_is_masked_out() -> None:
    """The authors' code has ``>`` where the paper's equation 4 has ``>=``; 0.25 is exact in binary."""
    real = {"mask_real": torch.tensor([0.25, 0.250001, 0.249999, 0.0, -1.0])}
    binary = piggyback.Binary(threshold=0.25, init=0.5).keep(real)
    assert binary["mask"].tolist() == [False, True, False, False, False]
    ternary = piggyback.Ternary(threshold=0.25, init=0.5)
    kept = ternary.keep(real)
    assert ternary.apply(torch.full((5,), 3.0), kept).tolist() == [0.0, 3.0, 0.0, 0.0, -3.0]
