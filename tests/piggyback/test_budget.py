import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import piggyback
from piggyback import METHODS, Payload, parameter_ratio
from piggyback.budget import ratio_of_task, ratio_with, write_sparsity
from piggyback.methods.ksm import KSM


@pytest.mark.parametrize("shapes", [[(10, 100)], [(5_839_280, 1)], [(1, 1), (7, 1), (2, 4, 2, 2)]])
@pytest.mark.parametrize(
    ("name", "expected"),
    # paper section 6: 1 + 9 / 32; nothing is added; ten whole networks
    [("piggyback", 1.28125), ("feature", 1.0), ("finetune", 10.0)],
)
def test_the_ratio_of_nine_tasks(name: str, expected: float, shapes: list[tuple[int, ...]]) -> None:
    assert parameter_ratio([METHODS[name]] * 9, shapes=shapes) == expected


def test_the_ratio_of_three_values() -> None:
    # 1000 weights of 32 bits, and 1585 bits, the next whole number after 1000 log2(3) = 1584.96
    assert parameter_ratio([piggyback.Ternary()], shapes=[(10, 100)]) == 33_585 / 32_000
    # tensors are coded one by one: log2(3) is 1.58, so 2 bits each
    assert parameter_ratio([piggyback.Ternary()], shapes=[(1, 1), (1, 1)]) == 68 / 64


def test_a_mixture_is_summed() -> None:
    methods = [piggyback.Binary(), piggyback.Feature(), piggyback.Finetune()]
    shapes = [(10, 10), (10, 30)]
    assert parameter_ratio(methods, shapes=shapes) == (32 * 400 + 400 + 0 + 32 * 400) / (32 * 400)
    packed = [METHODS["packnet"]] * 2 + [piggyback.Binary()]  # three owners take two bits, for both tasks together
    assert parameter_ratio(packed, shapes=shapes) == (32 * 400 + 2 * 400 + 400) / (32 * 400)
    masked = [piggyback.Binary(), KSM()]  # what is off counts where the size depends on it: 200 kernels, 3 off
    shapes = [(10, 10, 2, 2), (10, 10, 1, 1)]
    assert parameter_ratio(masked, shapes=shapes, masked=[1, 2]) == (32 * 500 + 500 + 200 + 32 * 3) / (32 * 500)


def payload_of(**sizes: int) -> Payload:
    return Payload(
        method=piggyback.Binary(),
        task="task",
        fingerprint="",
        recipe={},
        norm="fixed",
        kept={},
        own={},
        head={},
        modules={},
        bytes_by_kind={"mask": 0, "value": 0, "weight": 0, "norm": 0, "head": 0, "header": 0, **sizes},
        masks={},
        shapes={},
    )


def test_true_bytes_add_up_kind_by_kind() -> None:
    payloads = [payload_of(mask=10, norm=20, head=30, header=40), payload_of(weight=100, value=200, head=100)]
    assert ratio_with(payloads, backbone_bytes=1000) == {
        "masks": 1.31,
        "masks + norm": 1.33,
        "masks + norm + heads": 1.46,
        "files": 1.5,
    }


def test_true_bytes_of_a_file(make_network: Callable, make_head: Callable, tmp_path: Path) -> None:
    adapter = piggyback.attach(make_network(), method=piggyback.Binary(), head="head", norm="trained")
    adapter.add_task("task", head=make_head(0))
    generator = torch.Generator().manual_seed(0)
    for trained in adapter.task("task").trained.values():
        trained["mask_real"].uniform_(-1, 1, generator=generator)
    path = tmp_path / "task.safetensors"
    adapter.save(path, task="task")
    payload = piggyback.read_payload(path)
    # weights 8*3*9 = 216, 16*4*9 = 576, 24*64 = 1536, at half density eight to a byte
    assert payload.bytes_by_kind["mask"] == (216 + 576 + 1536) // 8
    # weight, bias, mean and variance of 8 + 16 channels in four bytes, and two counters of eight
    assert payload.bytes_by_kind["norm"] == 4 * 24 * 4 + 2 * 8
    assert payload.bytes_by_kind["head"] == (24 * 4 + 4) * 4
    assert ratio_with([payload], backbone_bytes=10_000)["files"] == (10_000 + path.stat().st_size) / 10_000


@pytest.mark.parametrize("method", [piggyback.Binary(), piggyback.Ternary()], ids=lambda method: method.name)
def test_sparsity_counted_by_hand(method: piggyback.Method, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 4), nn.Linear(4, 2))
    adapter = piggyback.attach(network, method=method, head="2")
    adapter.add_task("task", head=nn.Linear(4, 3))
    trained = adapter.task("task").trained
    trained["0.weight"]["mask_real"].copy_(torch.tensor([[1, 0, 1], [0, 0, 1]]))
    trained["1.weight"]["mask_real"].copy_(torch.tensor([[1, 1], [1, 1], [0, 1], [1, 1]]))
    found = piggyback.measure_sparsity(adapter, "task")
    assert found.layers == {"0.weight": 3 / 6, "1.weight": 1 / 8}
    assert list(found.layers) == ["0.weight", "1.weight"]
    assert found.total == 4 / 14
    assert write_sparsity(tmp_path / "sparsity.json", adapter, "task") == found.total
    assert json.loads((tmp_path / "sparsity.json").read_text()) == {
        "layers": [
            {"name": "0.weight", "zeros": 3 / 6, "weights": 6},
            {"name": "1.weight", "zeros": 1 / 8, "weights": 8},
        ]
    }
    trained["0.weight"]["mask_real"].neg_()  # below zero is not masked out where there are three values
    turned = piggyback.measure_sparsity(adapter, "task").layers["0.weight"]
    assert turned == (1.0 if isinstance(method, piggyback.Binary) else 3 / 6)


def test_masks_of_kernels_are_counted_as_such(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Flatten(), nn.Linear(2, 4), nn.Linear(4, 2))
    adapter = piggyback.attach(network, method=KSM(), head="3")
    adapter.add_task("task", head=nn.Linear(4, 3))
    trained = adapter.task("task").trained
    trained["0.weight"]["mask_real"].copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]])[..., None, None])
    # 36 and 8 weights, 4 and 8 kernels, of which 3 are off
    assert ratio_of_task(adapter, "task", count=2) == 1 + 2 * (12 + 32 * 3) / (32 * 44)
    assert piggyback.measure_sparsity(adapter, "task").layers == {"0.weight": 3 / 4, "2.weight": 0.0}
    assert piggyback.measure_sparsity(adapter, "task").total == 3 / (4 + 8)
    adapter.add_task("other", head=nn.Linear(4, 3), method=METHODS["dan"])
    assert ratio_of_task(adapter, "other", count=1) == 1 + (2 * 2 + 4 * 4) / 44


def test_methods_without_masks_have_no_sparsity(make_network: Callable, make_head: Callable, tmp_path: Path) -> None:
    adapter = piggyback.attach(make_network(), method=piggyback.Finetune(), head="head")
    adapter.add_task("task", head=make_head(0))
    found = piggyback.measure_sparsity(adapter, "task")
    assert found.layers == {}
    assert found.total == 0.0
    assert write_sparsity(tmp_path / "sparsity.json", adapter, "task") is None
    assert not (tmp_path / "sparsity.json").exists()
