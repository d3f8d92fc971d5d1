"""Networks that others have wrapped, sharded, quantized or rebuilt: refused, at attach and afterwards."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.utils import parametrizations

import piggyback
from piggyback import Adapter
from piggyback.optimizer import AdapterOptimizer
from piggyback.shell.errors import BadInput, NetworkChanged

Begin = Callable[..., tuple[Adapter, AdapterOptimizer]]
SHARDED = "is sharded; a task's masks and its weights must lie in one place: use DistributedDataParallel"


@pytest.fixture
def begin(make_network: Callable, make_head: Callable) -> Begin:
    """An adapter in training with a fresh task, and its optimizer."""

    def build() -> tuple[Adapter, AdapterOptimizer]:
        adapter = piggyback.attach(make_network(), method=piggyback.Binary(), head="head")
        adapter.add_task("task", head=make_head(0))
        adapter.train()
        return adapter, adapter.optimizer(update="eager")

    return build


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of this process only; torch's warnings of old forms are not ours."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.distributed.destroy_process_group()


def flatten(module: nn.Module) -> nn.Module:
    """FSDP that makes one flat parameter of all, the original ones being gone."""
    return FullyShardedDataParallel(module, device_id=torch.device("cpu"))


def flatten_behind(module: nn.Module) -> nn.Module:
    """FSDP that keeps the original parameters, as parts of a flat one."""
    return FullyShardedDataParallel(module, device_id=torch.device("cpu"), use_orig_params=True)


def shard(module: nn.Module) -> nn.Module:
    """FSDP of the newer form, which puts DTensors in place of parameters."""
    return fully_shard(module, mesh=init_device_mesh("cpu", (1,)))


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("wrap", [flatten, flatten_behind, shard])
def test_a_sharded_network_is_refused_at_attach(wrap: Callable, make_network: Callable) -> None:
    with pytest.raises(BadInput, match=f"cannot be attached to: parameter .* {SHARDED}"):
        piggyback.attach(wrap(make_network()), method=piggyback.Binary())


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("wrap", [flatten_behind, shard])  # flatten refuses parameters of which some are frozen
@pytest.mark.parametrize("part", ["", "hidden"])
def test_a_network_that_is_sharded_after_attach_is_refused(
    wrap: Callable,
    part: str,
    begin: Begin,
    make_head: Callable,
    make_batches: Callable,
    run_steps: Callable,
    tmp_path: Path,
) -> None:
    adapter, optimizer = begin()
    reals = {name: parts["mask_real"].clone() for name, parts in adapter.task("task").trained.items()}
    if part:
        setattr(adapter.network, part, wrap(adapter.network.get_submodule(part)))
        network = adapter.network
    else:
        network = wrap(adapter.network)
    for attempt in (
        lambda: run_steps(network, optimizer, make_batches(1)),
        lambda: adapter.add_task("other", head=make_head(1)),
        lambda: adapter.switch("task"),
        lambda: adapter.save(tmp_path / "task.safetensors", task="task"),
        lambda: adapter.merged("task"),
        adapter.base,
        adapter.optimizer,
    ):
        with pytest.raises(NetworkChanged, match=f"sharded after attach: parameter .* {SHARDED}"):
            attempt()
    assert list(adapter.tasks) == ["task"]
    assert all(torch.equal(adapter.tasks["task"].trained[name]["mask_real"], real) for name, real in reals.items())


def test_a_part_in_distributed_data_parallel_is_refused(make_network: Callable, alone: None) -> None:
    network = make_network()
    network.hidden = nn.parallel.DistributedDataParallel(network.hidden)
    with pytest.raises(
        BadInput, match=r"DistributedDataParallel \(hidden\): attach the adapter and add its tasks first"
    ):
        piggyback.attach(network, method=piggyback.Binary(), head="head")


def test_a_layer_that_is_parametrized_after_attach_is_refused(
    begin: Begin, make_batches: Callable, run_steps: Callable
) -> None:
    adapter, optimizer = begin()
    parametrizations.weight_norm(adapter.network.hidden)
    with pytest.raises(NetworkChanged, match=r"rebuilt after attach: 'hidden\.weight' is gone; 'hidden\.parametriz"):
        run_steps(adapter.network, optimizer, make_batches(1))


def test_a_checkpointing_wrapper_is_refused() -> None:
    network = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), nn.Linear(4, 2))
    adapter = piggyback.attach(network, method=piggyback.Binary(), head="1")
    network[0] = checkpoint_wrapper(network[0])
    with pytest.raises(BadInput, match=r"CheckpointWrapper \(0\): it renames parameters"):
        adapter.add_task("a", head=nn.Linear(4, 2))
    with pytest.raises(BadInput, match=r"CheckpointWrapper \(0\): it renames parameters"):
        piggyback.attach(network, method=piggyback.Binary(), head="1")


def fake_lora(layer: nn.Linear) -> nn.Module:
    """A layer as peft makes it, without peft: its class comes from that package, and the old layer lies inside."""

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base_layer = layer
            self.lora_A = nn.Linear(layer.in_features, 2, bias=False)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.base_layer(inputs)

    Linear.__module__ = "peft.tuners.lora.layer"
    return Linear()


def test_lora_on_the_same_network_is_refused(
    begin: Begin, make_batches: Callable, run_steps: Callable, tmp_path: Path
) -> None:
    adapter, optimizer = begin()
    adapter.network.hidden = fake_lora(adapter.network.hidden)

    words = (
        r"'hidden\.weight' is gone; 'hidden\.base_layer\.weight' has come; Linear \(hidden\): merge what peft has added"
    )
    for attempt in (
        lambda: run_steps(adapter.network, optimizer, make_batches(1)),
        lambda: adapter.save(tmp_path / "task.safetensors", task="task"),
        lambda: adapter.merged("task"),
        adapter.base,
        adapter.optimizer,
    ):
        with pytest.raises(NetworkChanged, match=words):
            attempt()
    with pytest.raises(BadInput, match="merge_and_unload"):
        piggyback.attach(adapter.network, method=piggyback.Binary(), head="head")


def test_new_parts_are_refused(begin: Begin, make_batches: Callable, run_steps: Callable) -> None:
    adapter, optimizer = begin()
    adapter.network.bn1.extra = nn.Parameter(torch.ones(1))
    with pytest.raises(NetworkChanged, match=r"'bn1\.extra' has come"):
        adapter.switch("task")
    del adapter.network.bn1.extra
    run_steps(adapter.network, optimizer, make_batches(1))  # nothing is left of it


def test_quantized_networks_are_refused_and_merged_ones_can_be_quantized(
    begin: Begin, make_batches: Callable, run_steps: Callable
) -> None:
    adapter, optimizer = begin()
    batches = make_batches(5)
    run_steps(adapter.network, optimizer, batches)
    adapter.eval()
    logits = adapter.network(batches[0][0])
    with warnings.catch_warnings():  # torch names the successor of this form
        warnings.simplefilter("ignore")
        quantize = torch.ao.quantization.quantize_dynamic
        small = quantize(adapter.merged("task").eval(), {nn.Linear})
        assert (small(batches[0][0]) - logits).abs().max() < 0.1
        quantize(adapter.network, {nn.Linear}, inplace=True)
    with pytest.raises(NetworkChanged, match=r"'hidden\.weight' is gone; Linear \(hidden\) is quantized"):
        adapter.base()
    with pytest.raises(BadInput, match=r"Linear \(hidden\) is quantized: attach to the network in floating"):
        piggyback.attach(adapter.network, method=piggyback.Binary())
