"""Kernel-wise soft masks where they are off, all of them or a few, and what of that is stored."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import piggyback
from piggyback.methods.ksm import KSM

METHOD = KSM(threshold=0.25, init=0.5)  # both are exact in binary


def kept_of(real: list[list[float]]) -> dict[str, Tensor]:
    return METHOD.keep({"mask_real": torch.tensor(real)[..., None, None]})


def soft(real: list[list[float]]) -> list[list[float]]:
    return kept_of(real)["soft"].squeeze((-1, -2)).tolist()


def test_soft_values_by_hand() -> None:
    """Off are those below 0.25; least and greatest count zero where the mask is on."""
    assert soft([[0.5, 0.125], [0.0625, 0.25]]) == [[0.0, 1.0], [0.5, 0.0]]  # of 0, 0.125, 0.0625, 0
    assert soft([[0.5, -0.125], [0.125, 0.5]]) == [[0.0, 0.0], [1.0, 0.0]]  # of 0, -0.125, 0.125, 0
    assert soft([[-0.5, -0.25], [0.0, 0.125]]) == [[0.0, 0.4000000059604645], [0.0, 1.0]]  # zero stays zero, as there
    assert soft([[0.5, 0.5], [0.5, 0.25]]) == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("value", [0.125, 0.0, -1.0])
def test_a_layer_masked_whole_by_one_value_is_no_nan(value: float) -> None:
    """In the authors' code the difference of greatest and least, which is zero then, divides."""
    kept = kept_of([[value, value], [value, value]])
    assert not kept["mask"].any()
    assert kept["soft"].tolist() == [[[[0.0]], [[0.0]]]] * 2
    weight = torch.randn(2, 2, 3, 3)
    assert torch.equal(METHOD.apply(weight, kept), torch.zeros_like(weight))


def test_effective_weights_by_hand() -> None:
    weight = torch.arange(1.0, 9.0).reshape(2, 2, 1, 2)
    effective = METHOD.apply(weight, kept_of([[0.5, 0.125], [0.0625, 0.25]]))
    assert effective.flatten().tolist() == [1, 2, 0.5 * 3, 0.5 * 4, 0.25 * 5, 0.25 * 6, 7, 8]


def test_a_layer_masked_whole_can_be_trained_and_saved(tmp_path: Path) -> None:
    """Nothing comes through it, but gradients find their way to the real mask."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    adapter = piggyback.attach(network, method=METHOD, head="2")
    adapter.add_task("task", head=nn.Linear(4, 2))
    adapter.task("task").trained["0.weight"]["mask_real"].fill_(0.125)
    adapter.switch("task")
    optimizer = adapter.optimizer(mask_lr=1e-2, update="eager")
    for _ in range(3):
        optimizer.zero_grad()
        network(torch.ones(2, 3, 3, 3)).pow(2).sum().backward()
        optimizer.step()
    assert all(torch.isfinite(tensor).all() for tensor in network.state_dict().values())
    assert not torch.equal(adapter.task("task").trained["0.weight"]["mask_real"], torch.full((4, 3, 1, 1), 0.125))
    adapter.save(tmp_path / "task", task="task")


def test_one_number_is_stored_for_each_masked_kernel(
    make_network: Callable, make_head: Callable, tmp_path: Path
) -> None:
    adapter = piggyback.attach(make_network(), method=METHOD, head="head")
    adapter.add_task("task", head=make_head(0))
    generator = torch.Generator().manual_seed(0)
    for trained in adapter.task("task").trained.values():
        trained["mask_real"].uniform_(0, 0.5, generator=generator)
    adapter.switch("task")
    adapter.save(tmp_path / "task", task="task")
    payload = piggyback.read_payload(tmp_path / "task")
    masks = {name: adapter.task("task").kept_of(name)["mask"] for name in adapter.anatomy.weights}
    assert {name: mask.shape for name, mask in masks.items()} == {
        "conv1.weight": (8, 3, 1, 1),
        "conv2.weight": (16, 4, 1, 1),
        "hidden.weight": (24, 64),
    }
    off = {name: mask.numel() - int(mask.sum()) for name, mask in masks.items()}
    assert all(0 < off[name] < mask.numel() for name, mask in masks.items())
    assert payload.bytes_by_kind["value"] == 4 * sum(off.values())
    assert {name: mask.zeros for name, mask in payload.masks.items()} == off
    assert payload.shapes == {name: adapter.frozen[name].shape for name in masks}
    assert piggyback.parameter_ratio([METHOD], shapes=list(payload.shapes.values()), masked=list(off.values())) == (
        1 + (24 + 64 + 1536 + 32 * sum(off.values())) / (32 * (216 + 576 + 1536))
    )


@pytest.mark.parametrize("steepness", [0.0, -1.0, float("inf"), float("nan")])
def test_a_slope_that_cannot_be(steepness: float) -> None:
    with pytest.raises(ValueError, match="steepness must be positive"):
        KSM(steepness=steepness)
