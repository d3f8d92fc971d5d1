"""Methods with masks against their equations written with autograd, slowly and in the open."""

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
from piggyback.methods.affine import Affine
from piggyback.methods.ksm import KSM

MaskMethod = piggyback.Binary | piggyback.Ternary | Affine | KSM
Batches = list[tuple[Tensor, Tensor]]
STEPS = 200
LR = 1e-3
# The paper's threshold for masks of two values.  Zero is the middle one of three values: 200 steps of 1e-3 carry
# most real masks across the 0.005 that the paper's would leave for it, so it gets a wider band.
METHODS = (
    piggyback.Binary(threshold=5e-3, init=1e-2),
    piggyback.Ternary(threshold=5e-2, init=6e-2),
    Affine(threshold=5e-3, init=1e-2),
    Affine(threshold=5e-3, init=1e-2, train_k0=False),
    KSM(threshold=5e-3, init=1e-2),
)
FORMS = [
    *[(method, "eager") for method in METHODS],
    *[(method, "compiled") for method in METHODS[:2]],  # one value per weight, and nothing of a whole layer
]


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


def kernel_mask(real: Tensor, threshold: float) -> Tensor:
    """KSM's, as its authors' code has it: beta 1200, temperature 100, forward the hard value, backward the soft."""
    soft = torch.sigmoid(1200 * (real - threshold) / 100)
    hard = (real >= threshold).to(real.dtype)
    a = real.detach() * (1 - hard)
    low, high = a.min(), a.max()
    a = torch.where(a != 0, (a - low) / (high - low), a)
    return soft + (hard - soft).detach() + 0.5 * a


class Oracle(nn.Module):
    """A frozen network whose weights go through thresholded parameters."""

    def __init__(self, network: nn.Module, names: tuple[str, ...], method: MaskMethod) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.method = method
        self.mask_real, self.scalars = nn.ParameterDict(), nn.ParameterDict()
        for name in names:
            weight = network.get_parameter(name)
            shape = weight.shape
            if isinstance(method, KSM):
                shape = (*shape[:2], *(1 for _ in shape[2:]))
            key = name.replace(".", "/")
            self.mask_real[key] = nn.Parameter(torch.full(shape, method.init, dtype=weight.dtype))
            if isinstance(method, Affine):
                self.scalars[key] = nn.Parameter(torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=weight.dtype))
        self.head = network.get_submodule("head").requires_grad_(True)

    def effective(self, key: str) -> Tensor:
        """The weight that a layer works with."""
        W, real = self.network.get_parameter(key.replace("/", ".")), self.mask_real[key]
        threshold = self.method.threshold
        if isinstance(self.method, KSM):
            return kernel_mask(real, threshold) * W
        if isinstance(self.method, piggyback.Ternary):
            return Ternarize.apply(real, threshold) * W
        M = Binarize.apply(real, threshold)
        if isinstance(self.method, Affine):
            k0, k1, k2, k3 = self.scalars[key]
            if not self.method.train_k0:
                k0 = k0.detach()
            return k0 * W + k1 + k2 * M + k3 * (W * M)
        return M * W

    def forward(self, x: Tensor) -> Tensor:
        weights = {key.replace("/", "."): self.effective(key) for key in self.mask_real}
        return functional_call(self.network, weights, (x,))

    def found(self) -> dict[str, dict[str, Tensor]]:
        """Per weight what was learned, and what it makes of the weight."""
        return {
            key.replace("/", "."): {
                "mask_real": real.detach(),
                "effective": self.effective(key).detach(),
                **({"scalars": self.scalars[key].detach()} if key in self.scalars else {}),
            }
            for key, real in self.mask_real.items()
        }


@dataclass(frozen=True, kw_only=True)
class Uphill(piggyback.Binary):
    """The negative control: one sign is wrong."""

    def pull_back(self, gradient: Tensor, weight: Tensor, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"mask_real": -gradient * weight}


def train_both(
    network: nn.Module, method: MaskMethod, batches: Batches, *, update: Literal["compiled", "eager"]
) -> tuple[dict[str, dict[str, Tensor]], dict[str, dict[str, Tensor]]]:
    """What the overlay and what the oracle learn in the same steps."""
    plain = copy.deepcopy(network)
    adapter = piggyback.attach(network, method=method, head="head", norm="fixed")
    adapter.add_task("task", head=copy.deepcopy(plain.get_submodule("head")))
    matrices = tuple(name for name, tensor in plain.named_parameters() if tensor.ndim > 1 and "head" not in name)
    oracle = Oracle(plain, matrices, method)
    ours = adapter.optimizer(mask_lr=LR, head_lr=LR, update=update)
    parameters = [*oracle.mask_real.parameters(), *oracle.scalars.parameters(), *oracle.head.parameters()]
    theirs = torch.optim.Adam(parameters, lr=LR, foreach=False)
    adapter.train()
    for step in range(STEPS):
        inputs, targets = batches[step % len(batches)]
        for model, optimizer in ((network, ours), (oracle, theirs)):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
    shown = dict(network.named_parameters())
    found = {
        name: {**trained, "effective": shown[name].detach()} for name, trained in adapter.task("task").trained.items()
    }
    return found, oracle.found()


def masks_in(found: Mapping[str, Mapping[str, Tensor]], method: MaskMethod) -> dict[str, Tensor]:
    """-1, 0 and 1 for masks of three values, else 0 and 1."""
    reals = {name: parts["mask_real"] for name, parts in found.items()}
    negative = isinstance(method, piggyback.Ternary)
    return {name: (real > method.threshold).int() - (real < 0).int() * negative for name, real in reals.items()}


@pytest.mark.parametrize(
    ("method", "update"), FORMS, ids=[f"{number} {method.name}" for number, (method, _) in enumerate(FORMS)]
)
@pytest.mark.parametrize("kind", ["WRN block", "linear"])
def test_masks_are_those_of_the_papers_equations(
    kind: str,
    method: MaskMethod,
    update: Literal["compiled", "eager"],
    reference_network: Callable,
    make_batches: Callable[..., Batches],
    check_zeros: Callable[[Mapping[str, Tensor]], None],
) -> None:
    network, shape = reference_network(kind)
    batches = make_batches(4, shape, size=32, dtype=torch.float64)
    ours, theirs = train_both(network, method, batches, update=update)
    masks, oracle_masks = masks_in(ours, method), masks_in(theirs, method)
    check_zeros({name: mask != 0 for name, mask in masks.items()})
    check_zeros({name: mask != 0 for name, mask in oracle_masks.items()})
    assert masks.keys() == oracle_masks.keys()
    if isinstance(method, piggyback.Ternary):
        assert all((mask < 0).any() for mask in oracle_masks.values())
    for name, parts in theirs.items():
        assert torch.equal(masks[name], oracle_masks[name]), f"{(masks[name] != oracle_masks[name]).sum()} of {name}"
        assert ours[name].keys() == parts.keys()
        for key, tensor in parts.items():
            torch.testing.assert_close(ours[name][key], tensor, rtol=0, atol=1e-6)
        if isinstance(method, Affine):
            assert (parts["scalars"][0] != 1) == method.train_k0
            assert (parts["scalars"][1:].abs() > 1e-3).all()
        if isinstance(method, KSM):  # not only the greatest of the masked ones is more than zero
            assert (parts["effective"] != 0).double().mean() > masks[name].double().mean() + 0.05


def test_the_comparison_notices_a_wrong_sign(
    reference_network: Callable,
    make_batches: Callable[..., Batches],
    check_zeros: Callable[[Mapping[str, Tensor]], None],
) -> None:
    network, shape = reference_network("linear")
    batches = make_batches(4, shape, size=32, dtype=torch.float64)
    ours, theirs = train_both(network, Uphill(), batches, update="eager")
    masks, oracle_masks = masks_in(ours, Uphill()), masks_in(theirs, Uphill())
    check_zeros({name: mask != 0 for name, mask in masks.items()})
    check_zeros({name: mask != 0 for name, mask in oracle_masks.items()})
    for name, mask in masks.items():
        assert not torch.equal(mask, oracle_masks[name])
        assert not torch.allclose(ours[name]["mask_real"], theirs[name]["mask_real"], rtol=0, atol=1e-6)


def test_a_real_mask_on_the_threshold_is_masked_out() -> None:
    """Piggyback's code has ``>`` where the paper's equation 4 has ``>=``, KSM's has ``>=``; 0.25 is exact in binary."""
    real = {"mask_real": torch.tensor([0.25, 0.250001, 0.249999, 0.0, -1.0])}
    for method in (piggyback.Binary(threshold=0.25, init=0.5), Affine(threshold=0.25, init=0.5)):
        kept = method.keep({**real, "scalars": torch.zeros(4)})
        assert kept["mask"].tolist() == [False, True, False, False, False]
    ternary = piggyback.Ternary(threshold=0.25, init=0.5)
    kept = ternary.keep(real)
    assert ternary.apply(torch.full((5,), 3.0), kept).tolist() == [0.0, 3.0, 0.0, 0.0, -3.0]
    assert KSM(threshold=0.25, init=0.5).keep(real)["mask"].tolist() == [True, True, False, False, False]
