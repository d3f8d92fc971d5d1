import pytest
import torch

from piggyback.device import autocast, describe_device, pick_device
from piggyback.shell.errors import BadInput


@pytest.mark.parametrize("name", ["gpu", "", "cpu:x", "cuda:-1"])
def test_an_unknown_device_is_a_message(name: str) -> None:
    with pytest.raises(BadInput, match="no device"):
        pick_device(name)


def test_a_device_that_torch_only_names_is_a_message() -> None:
    with pytest.raises(BadInput, match="torch cannot compute on 'meta' here: take cpu or cuda"):
        pick_device("meta")


def test_a_gpu_that_is_not_there_is_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device().type == "cpu"
    with pytest.raises(BadInput, match="sees no GPUs here"):
        pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert pick_device() == torch.device("cuda")
    assert pick_device("cuda:0").index == 0
    with pytest.raises(BadInput, match="sees 1 GPU here"):
        pick_device("cuda:1")


def test_the_description_has_what_bits_depend_on() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert describe_device(torch.device("cpu")).endswith(", 1 threads")
    finally:
        torch.set_num_threads(threads)


def test_precisions() -> None:
    layer, x = torch.nn.Linear(4, 4), torch.ones(2, 4)
    with autocast(torch.device("cpu"), precision="bf16"):
        assert layer(x).dtype == torch.bfloat16
    with autocast(torch.device("cpu"), precision="fp32"):
        assert layer(x).dtype == torch.float32


def test_a_processor_computes_in_float32_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch 2.14.1 leaves weight gradients unwritten in bfloat16 on processors that have it (docs/decisions.md)."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True, "amx_bf16": True}, raising=False)
    layer, x = torch.nn.Linear(4, 4), torch.ones(2, 4)
    with autocast(torch.device("cpu")):
        assert layer(x).dtype == torch.float32
