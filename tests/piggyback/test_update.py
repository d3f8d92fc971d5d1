"""Which mask updates are compiled, and what happens where the compiler does not work."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import piggyback
from piggyback import METHODS, Method
from piggyback.numerics import update
from piggyback.shell.errors import BadInput

BINARY = piggyback.Binary()


def step(form: str, *, method: Method = BINARY) -> str:
    network = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    network.add_module("fc", nn.Linear(8, 2))
    if method.stands_on == "pruned":
        network[0].weight.data[::2] = 0.0
    adapter = piggyback.attach(network, method=method, head="fc")
    adapter.add_task("task", head=nn.Linear(8, 2))
    optimizer = adapter.optimizer(update=form)  # type: ignore[arg-type]
    network(torch.ones(2, 8)).sum().backward()
    optimizer.step()
    return optimizer.update_form()


def test_a_compiler_that_fails_is_tried_and_told_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = []

    def fail(*tensors: object) -> None:
        tried.append(tensors)
        raise RuntimeError("no compiler\nand forty lines more")

    monkeypatch.setattr(update, "FAILURES", {})
    monkeypatch.setattr(update, "compiled_kernel", lambda method: fail)
    assert [step("auto"), step("auto")] == ["eager", "eager"]
    assert len(tried) == 1
    assert capsys.readouterr().err.count("uncompiled, the compiler failed: no compiler\n") == 1
    with pytest.raises(BadInput, match=r"cannot be compiled: no compiler\. Install"):
        step("compiled")


WITH_LINEAR = [name for name, method in METHODS.items() if method.start(torch.ones(8, 8))]  # something to train there


@pytest.mark.parametrize("name", WITH_LINEAR)
def test_only_what_has_one_value_for_each_weight_is_compiled(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layer is square: a controller among its outputs has the weight's shape too, and is no value per weight."""
    compiled = []

    def kernel(*tensors: object) -> None:
        compiled.append(tensors)

    monkeypatch.setattr(update, "FAILURES", {})
    monkeypatch.setattr(update, "compiled_kernel", lambda method: kernel)
    expected = "compiled" if name in ("piggyback", "piggyback-ternary") else "eager"
    assert step("auto", method=METHODS[name]) == expected
    assert bool(compiled) == (expected == "compiled")
    if expected == "eager":
        with pytest.raises(BadInput, match=f"updates of method '{name}' are not compiled: take update auto or eager"):
            step("compiled", method=METHODS[name])


@dataclass(frozen=True)
class Balanced:
    """Values in the shape of the weight that meet each other: each is told apart from the mean over some dimensions."""

    over: tuple[int, ...]
    where: str
    name: str = "balanced"
    adapts: str = "weights"
    stands_on: str = "backbone"
    merge: str = "exact"

    def start(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"value": torch.zeros_like(weight)}

    def keep(self, trained: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"value": self.centre(trained["value"], "keep")}

    def apply(self, weight: torch.Tensor, kept: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return weight + self.centre(kept["value"], "apply")

    def pull_back(
        self, gradient: torch.Tensor, weight: torch.Tensor, trained: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        return {"value": self.centre(gradient, "pull_back")}

    def bits(self, shape: tuple[int, ...], *, tasks: int = 1, masked: int = 0) -> int:
        return 32 * math.prod(shape) * tasks

    def centre(self, tensor: torch.Tensor, where: str) -> torch.Tensor:
        return tensor - tensor.mean(self.over, keepdim=True) if where == self.where else tensor


class Paired(Balanced):
    """Outputs two by two: half a layer would show nothing."""

    def centre(self, tensor: torch.Tensor, where: str) -> torch.Tensor:
        pairs = tensor.reshape(len(tensor) // 2, 2, -1)
        return (pairs - pairs.mean(1, keepdim=True)).reshape(tensor.shape)


class Ranged(Balanced):
    """Values beyond a threshold far from zero shrink by the range of the whole layer."""

    def centre(self, tensor: torch.Tensor, where: str) -> torch.Tensor:
        return torch.where(tensor < 0.5, tensor, tensor / (tensor.max() - tensor.min() + 1))


class Closed(Balanced):
    """A method that does not come so far."""

    def centre(self, tensor: torch.Tensor, where: str) -> torch.Tensor:
        raise NotImplementedError


@pytest.mark.parametrize("where", ["keep", "apply", "pull_back"])
@pytest.mark.parametrize("over", [(0,), (1,), (2, 3), (3,), (0, 1, 2, 3)])
def test_values_that_meet_each_other_are_not_compiled(over: tuple[int, ...], where: str) -> None:
    assert not update.is_elementwise(Balanced(over=over, where=where))  # type: ignore[arg-type]
    assert update.is_elementwise(Balanced(over=over, where="nowhere"))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [Paired, Ranged, Closed])
def test_what_cannot_be_walked_as_flat_memory_is_not_compiled(kind: type[Balanced]) -> None:
    assert not update.is_elementwise(kind(over=(), where=""))  # type: ignore[arg-type]


def test_the_default_device_does_not_matter() -> None:
    with torch.device("meta"):
        assert update.is_elementwise(BINARY)


def test_asking_whether_values_meet_leaves_random_numbers_as_they_were() -> None:
    before = torch.get_rng_state()
    update.is_elementwise(BINARY)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_tensor_without_a_gradient_stays_as_it_is_in_both_forms() -> None:
    """`pull_back` may leave out what a method does not train, compiled or not."""
    weight, gradient = torch.arange(1.0, 5.0).reshape(2, 2), torch.ones(2, 2)
    for mode in ("eager", "compiled"):
        trained = {"mask_real": torch.full((2, 2), 0.01), "fixed": torch.full((2, 2), 3.0)}
        zeros = {key: torch.zeros(2, 2) for key in trained}
        first, second = dict(zeros), {key: tensor.clone() for key, tensor in zeros.items()}
        parameter = nn.Parameter(torch.zeros(2, 2))
        parameter.grad = gradient
        coefficients = update.Coefficients(step_size=0.004, correction=1.0, beta1=0.0, beta2=0.0, eps=0.0)
        with torch.no_grad():
            update.MaskUpdate(HalfFixed(), mode=mode).adam(parameter, weight, trained, first, second, coefficients)
        assert torch.equal(trained["fixed"], torch.full((2, 2), 3.0))
        torch.testing.assert_close(trained["mask_real"], torch.full((2, 2), 0.006))
        assert torch.equal(parameter.detach(), 3 * weight)


@dataclass(frozen=True, kw_only=True)
class HalfFixed(piggyback.Binary):
    """Binary, with a factor that is not trained."""

    def start(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        return {**super().start(weight), "fixed": torch.full_like(weight, 3.0)}

    def keep(self, trained: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {**super().keep(trained), "fixed": trained["fixed"]}

    def apply(self, weight: torch.Tensor, kept: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return kept["fixed"] * super().apply(weight, kept)
