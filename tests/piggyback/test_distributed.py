"""Two gloo processes that train one task through DistributedDataParallel."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import piggyback
from piggyback.shell.errors import BadInput

SCRIPT = Path(__file__).with_name("distributed_process.py")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The processes' program as a module."""
    spec = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each process wrote."""
    folder = tmp_path_factory.mktemp("distributed")
    processes = [
        subprocess.Popen([sys.executable, SCRIPT, str(rank), folder], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def masks_in(result: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in result.items() if name.startswith("mask ")}


@pytest.mark.parametrize("training", ["double", "single", "trained norm"])
def test_both_processes_have_the_same_bits(ranks: list[dict[str, Any]], training: str, check_zeros: Callable) -> None:
    first, second = (rank[training] for rank in ranks)
    check_zeros(masks_in(first))
    assert {name.split()[0] for name in first} >= {"mask", "real", "head"}
    assert any(name.startswith("norm ") for name in first) == (training == "trained norm")
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@pytest.mark.parametrize(("training", "share"), [("double", 1.0), ("single", 0.999)])
def test_two_processes_learn_the_masks_of_one_with_the_whole_batch(
    ranks: list[dict[str, Any]], script: ModuleType, training: str, share: float, check_zeros: Callable
) -> None:
    dtype, norm = script.TRAININGS[training]
    with torch.random.fork_rng(devices=[]):
        adapter = script.build_adapter(dtype, norm)
    script.train(adapter, adapter.network, dtype=dtype, rows=slice(None))
    alone = masks_in(script.result_of(adapter))
    together = masks_in(ranks[0][training])
    check_zeros(alone)
    check_zeros(together)
    assert alone.keys() == together.keys()
    equal = sum(int((alone[name] == together[name]).sum()) for name in alone)
    assert equal >= share * sum(mask.numel() for mask in alone.values())


def test_half_a_batch_alone_learns_other_masks(
    ranks: list[dict[str, Any]], script: ModuleType, check_zeros: Callable
) -> None:
    """The control: were gradients not averaged, the comparisons above would notice."""
    with torch.random.fork_rng(devices=[]):
        adapter = script.build_adapter(*script.TRAININGS["double"])
    script.train(adapter, adapter.network, dtype=torch.float64, rows=slice(0, script.SIZE // 2))
    alone, together = masks_in(script.result_of(adapter)), masks_in(ranks[0]["double"])
    check_zeros(alone)
    check_zeros(together)
    assert all((alone[name] != together[name]).double().mean() > 0.01 for name in alone)


def test_tasks_come_before_the_wrapper(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        *wrapped, attached = rank["messages"]
        assert wrapped == [
            "the network is wrapped in DistributedDataParallel: add and switch tasks before wrapping it"
        ] * len(wrapped)
        assert len(wrapped) == 3
        assert "add its tasks first, then wrap" in attached
        assert rank["current"] == "task"
        assert rank["unwrapped"] == "other"


def test_a_network_in_data_parallel_is_refused() -> None:
    with pytest.raises(BadInput, match="add its tasks first"):
        piggyback.attach(torch.nn.DataParallel(torch.nn.Linear(2, 2)), method=piggyback.Binary())
