"""Tasks that are finished keep bits in place of real masks, and stay what they were; tasks can be removed."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import piggyback
from piggyback import METHODS, Adapter, Method
from piggyback.masks.packed_masks import PackedMask
from piggyback.shell.errors import Diverged, NetworkChanged, NotTrainable, UnknownName

STEPS = 6


@pytest.fixture
def train_task(make_head: Callable, make_batches: Callable, run_steps: Callable, begin_of: Callable) -> Callable:
    """Adds a task and trains it, so that masks and norm layers have moved."""

    def train(adapter: Adapter, name: str = "task", *, seed: int = 0) -> torch.optim.Optimizer:
        adapter.add_task(name, head=make_head(seed), **begin_of(adapter.method))
        adapter.train()
        optimizer = adapter.optimizer(mask_lr=2e-2, update="eager")
        run_steps(adapter.network, optimizer, make_batches(STEPS, seed=seed))
        adapter.eval()
        return optimizer

    return train


@pytest.fixture
def adapter(make_ground: Callable) -> Adapter:
    return piggyback.attach(make_ground(piggyback.Binary()), method=piggyback.Binary(), head="head", norm="trained")


def logits_of(network: nn.Module, like: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(99)
    with torch.no_grad():
        return network(torch.randn(5, 3, 8, 8, generator=generator).to(like))


def packed_parts(adapter: Adapter, name: str) -> list[PackedMask]:
    kept = adapter.tasks[name].kept.values()
    return [part for parts in kept for part in parts.values() if isinstance(part, PackedMask)]


@pytest.mark.parametrize("norm", ["fixed", "statistics", "trained"])
@pytest.mark.parametrize("name", METHODS)
def test_a_finished_task_has_the_same_payload_and_logits(
    name: str, norm: str, make_ground: Callable, train_task: Callable, check_moved: Callable, tmp_path: Path
) -> None:
    method = METHODS[name]
    adapter = piggyback.attach(make_ground(method), method=method, head="head", norm=norm)
    optimizer = train_task(adapter)
    check_moved(adapter, "task")
    before, shown = logits_of(adapter.network), copy.deepcopy(adapter.network.state_dict())
    adapter.save(tmp_path / "before", task="task")
    adapter.finish_task("task")
    assert adapter.tasks["task"].trained == {}
    assert torch.equal(logits_of(adapter.network), before)
    adapter.save(tmp_path / "after", task="task")
    assert (tmp_path / "after").read_bytes() == (tmp_path / "before").read_bytes()
    adapter.base()
    assert not torch.equal(logits_of(adapter.network)[:, :4], before)
    adapter.switch("task")
    assert torch.equal(logits_of(adapter.network), before)
    assert all(torch.equal(tensor, shown[key]) for key, tensor in adapter.network.state_dict().items())
    refuse_training(adapter, optimizer, match="task 'task' is finished: it keeps what a payload holds")


def refuse_training(adapter: Adapter, optimizer: torch.optim.Optimizer, *, match: str) -> None:
    saved, state = optimizer.state_dict(), adapter.training_state("task")
    before = logits_of(adapter.network)
    for asked in (
        adapter.optimizer,
        optimizer.step,
        lambda: optimizer.load_state_dict(saved),
        lambda: adapter.prune(0.5),
        lambda: adapter.load_training_state("task", state),
    ):
        with pytest.raises(NotTrainable, match=match):
            asked()
    assert torch.equal(logits_of(adapter.network), before)


def test_nothing_of_a_finished_task_moves(adapter: Adapter, train_task: Callable, tmp_path: Path) -> None:
    """Statistics of norm layers too, which passes in training mode would move."""
    train_task(adapter)
    adapter.finish_task("task")
    before = logits_of(adapter.network)
    adapter.save(tmp_path / "before", task="task")
    adapter.train()
    assert not adapter.network.bn1.training
    logits_of(adapter.network)
    adapter.network.train()  # past the adapter
    logits_of(adapter.network)
    assert not torch.equal(adapter.network.bn1.running_mean, adapter.tasks["task"].own["bn1.running_mean"])
    with pytest.raises(NetworkChanged, match=r"'bn1\.\w+' was changed"):
        adapter.save(tmp_path / "after", task="task")
    adapter.eval()  # puts them back
    adapter.save(tmp_path / "after", task="task")
    assert (tmp_path / "after").read_bytes() == (tmp_path / "before").read_bytes()
    assert torch.equal(logits_of(adapter.network), before)


def test_it_is_as_small_as_its_bits(train_task: Callable) -> None:
    """A fresh task on ResNet-18 takes 45 MB; a finished one 1.4."""
    network = nn.Sequential(nn.Conv2d(3, 30, 3), nn.Conv2d(30, 7, 3, bias=False), nn.Flatten(), nn.Linear(28, 4))
    adapter = piggyback.attach(network, method=piggyback.Binary(), head="3")
    adapter.add_task("task", head=nn.Linear(28, 4))
    adapter.finish_task("task")
    sizes = [part.bits.nbytes for part in packed_parts(adapter, "task")]
    assert sizes == [(30 * 3 * 9 + 7) // 8, (7 * 30 * 9 + 7) // 8]
    assert {part.bits.untyped_storage().nbytes() for part in packed_parts(adapter, "task")} == {sum(sizes)}


@pytest.mark.parametrize("name", ["piggyback", "piggyback-ternary", "affine", "ksm", "packnet"])
def test_a_loaded_task_keeps_bits_too(name: str, make_ground: Callable, train_task: Callable, tmp_path: Path) -> None:
    method = METHODS[name]
    adapter = piggyback.attach(make_ground(method), method=method, head="head", norm="trained")
    train_task(adapter)
    before = logits_of(adapter.network)
    adapter.save(tmp_path / "file", task="task")
    adapter.load(tmp_path / "file", task="loaded")
    assert torch.equal(logits_of(adapter.network), before)
    parts = [part for kept in adapter.tasks["loaded"].kept.values() for part in kept.values()]
    assert packed_parts(adapter, "loaded")
    assert not any(isinstance(part, Tensor) and part.dtype == torch.bool for part in parts)
    with pytest.raises(NotTrainable, match="was loaded from a payload"):
        adapter.optimizer()
    adapter.finish_task("loaded")  # has bits already
    assert torch.equal(logits_of(adapter.network), before)
    for weight in adapter.anatomy.weights:
        first, second = (adapter.task(task).kept_of(weight) for task in ("task", "loaded"))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_copy_of_the_adapter_is_independent(adapter: Adapter, train_task: Callable) -> None:
    train_task(adapter)
    adapter.finish_task("task")
    train_task(adapter, "other", seed=1)
    adapter.switch("task")
    before = logits_of(adapter.network)
    twin = copy.deepcopy(adapter)
    assert torch.equal(logits_of(twin.network), before)
    twin.switch("other")
    for part in packed_parts(twin, "task"):
        part.bits.zero_()
    twin.switch("task")
    assert not torch.equal(logits_of(twin.network), before)
    twin.remove_task("task")
    adapter.base()
    adapter.switch("task")
    assert torch.equal(logits_of(adapter.network), before)


@pytest.mark.parametrize("shown", [True, False])
def test_bits_follow_the_network(adapter: Adapter, train_task: Callable, shown: bool, tmp_path: Path) -> None:
    train_task(adapter)
    adapter.finish_task("task")
    before = logits_of(adapter.network)
    adapter.save(tmp_path / "before", task="task")
    if not shown:
        adapter.base()
    adapter.network.to(memory_format=torch.channels_last)
    adapter.switch("task")
    for name, parts in adapter.tasks["task"].kept.items():
        assert parts["mask"].stride == adapter.network.get_parameter(name).stride()
    torch.testing.assert_close(logits_of(adapter.network), before)
    adapter.save(tmp_path / "after", task="task")
    assert (tmp_path / "after").read_bytes() == (tmp_path / "before").read_bytes()
    adapter.network.to(torch.float64)
    adapter.switch("task")
    torch.testing.assert_close(logits_of(adapter.network, torch.float64).float(), before)
    adapter.network.to("meta")
    adapter.follow()
    assert all(part.bits.device.type == "meta" for part in packed_parts(adapter, "task"))


def test_later_tasks_build_on_a_finished_one(make_ground: Callable, make_head: Callable, train_task: Callable) -> None:
    method = METHODS["packnet"]
    adapters = [piggyback.attach(make_ground(method), method=method, head="head") for _ in range(2)]
    for adapter in adapters:
        train_task(adapter)
        adapter.prune(0.5)
    adapters[0].finish_task("task")
    for adapter in adapters:
        adapter.add_task("next", head=make_head(1), after="task")
    found = [adapter.task("next").trained for adapter in adapters]
    assert all(
        torch.equal(part, found[1][name][key]) for name, parts in found[0].items() for key, part in parts.items()
    )


def test_a_diverged_task_is_not_finished(adapter: Adapter, train_task: Callable) -> None:
    """The bits of its mask would hide it."""
    train_task(adapter)
    adapter.tasks["task"].trained["conv1.weight"]["mask_real"].view(-1)[5] = torch.nan
    with pytest.raises(Diverged, match=r"mask_real of conv1\.weight has values .* so nothing was finished"):
        adapter.finish_task("task")
    assert not adapter.tasks["task"].finished
    assert adapter.tasks["task"].trained


def test_real_masks_written_by_hand_are_finished_as_they_are(adapter: Adapter, make_head: Callable) -> None:
    adapter.add_task("task", head=make_head(0))
    before = logits_of(adapter.network)
    for parts in adapter.tasks["task"].trained.values():
        parts["mask_real"].view(-1)[::2] = 0.0
    adapter.finish_task("task")
    after = logits_of(adapter.network)
    assert not torch.equal(after, before)
    adapter.base()
    adapter.switch("task")
    assert torch.equal(logits_of(adapter.network), after)


def test_a_task_that_others_have_written_to_is_not_finished(adapter: Adapter, train_task: Callable) -> None:
    train_task(adapter)
    with torch.no_grad():
        adapter.network.conv1.weight.add_(1.0)
    with pytest.raises(NetworkChanged):
        adapter.finish_task("task")
    assert adapter.tasks["task"].trained


class Lends(piggyback.Binary):
    """A method that hands out views of what it trains."""

    def start(self, weight: Tensor) -> dict[str, Tensor]:
        return {**super().start(weight), "large": torch.zeros(1000, dtype=weight.dtype)}

    def keep(self, trained: dict[str, Tensor]) -> dict[str, Tensor]:  # type: ignore[override]
        return {**super().keep(trained), "first": trained["large"][:1]}


def test_what_is_kept_holds_no_memory_of_what_is_not(make_network: Callable, make_head: Callable) -> None:
    adapter = piggyback.attach(make_network(), method=Lends(), head="head")
    adapter.add_task("task", head=make_head(0))
    adapter.finish_task("task")
    first = adapter.tasks["task"].kept["conv1.weight"]["first"]
    assert first.untyped_storage().nbytes() == first.nbytes == 4


# -- removing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [METHODS["piggyback"], METHODS["series"], METHODS["finetune"]])
def test_the_current_task_is_removed(
    method: Method, make_network: Callable, make_head: Callable, train_task: Callable
) -> None:
    network = make_network()
    before = logits_of(network)
    adapter = piggyback.attach(network, method=method, head="head", norm="trained")
    optimizer = train_task(adapter)
    head = adapter.tasks["task"].head
    adapter.remove_task("task")
    assert adapter.current is None
    assert adapter.tasks == {}
    assert torch.equal(logits_of(network), before)
    with pytest.raises(NotTrainable, match="trains task 'task', which was removed: add a fresh task"):
        optimizer.step()
    with pytest.raises(UnknownName):
        adapter.switch("task")
    adapter.add_task("task", head=head)  # name and head are free again
    with pytest.raises(NotTrainable, match="which was removed"):
        optimizer.step()
    with pytest.raises(NotTrainable, match="which was removed"):
        optimizer.load_state_dict(optimizer.state_dict())


def test_another_task_is_removed(adapter: Adapter, train_task: Callable) -> None:
    train_task(adapter, "first")
    train_task(adapter, "second", seed=1)
    before = logits_of(adapter.network)
    adapter.remove_task("first")
    assert adapter.current == "second"
    assert list(adapter.tasks) == ["second"]
    assert torch.equal(logits_of(adapter.network), before)


def test_a_name_without_a_task_is_refused(adapter: Adapter, train_task: Callable) -> None:
    train_task(adapter)
    for call in (adapter.remove_task, adapter.finish_task):
        with pytest.raises(UnknownName, match=r"no task is called 'tsak'\. Did you mean 'task'"):
            call("tsak")
    assert list(adapter.tasks) == ["task"]


def test_finished_tasks_take_each_others_place(adapter: Adapter, train_task: Callable, make_head: Callable) -> None:
    """In one pass over memory, with the bits that a task has when it is written whole."""
    train_task(adapter)
    expected = {}
    for name in ("task", "second", "third"):
        if name != "task":
            adapter.add_task(name, head=make_head(len(expected)))
            for parts in adapter.task(name).trained.values():
                parts["mask_real"].uniform_(0, 0.02)
            adapter.restore()
        adapter.finish_task(name)
        adapter.eval()
        expected[name] = logits_of(adapter.network)
    for name in ("task", "third", "second", "third", "task"):
        adapter.switch(name)
        assert torch.equal(logits_of(adapter.network), expected[name])
    adapter.network.conv1.weight.data[0, 0, 0, 0] += 1
    before = {name: tensor.clone() for name, tensor in adapter.network.state_dict().items()}
    with pytest.raises(NetworkChanged, match=r"'conv1\.weight' was changed"):
        adapter.switch("second")
    assert adapter.current == "task"
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapter.network.state_dict().items())
    adapter.restore()
    adapter.network.bn1.running_var.data.add_(1)
    with pytest.raises(NetworkChanged, match=r"'bn1\.running_var' was changed"):
        adapter.switch("second")
    adapter.restore()
    for name in ("second", "task"):
        adapter.switch(name)
        assert torch.equal(logits_of(adapter.network), expected[name])
    adapter.base()
    assert adapter.network.state_dict().keys() == before.keys()


def test_heads_of_finished_tasks_are_in_the_networks_mode_and_watched() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 3))
    adapter = piggyback.attach(network, method="piggyback", head="2")
    for name in ("first", "second"):
        adapter.add_task(name, head=nn.Sequential(nn.Dropout(), nn.Linear(64, 3)))
        adapter.finish_task(name)
    adapter.eval()
    adapter.switch("first")
    assert not network[2][0].training
    network[2] = nn.Linear(64, 3)
    with pytest.raises(NetworkChanged, match="another head than the adapter put there"):
        adapter.switch("second")
    adapter.restore()
    network.extra = nn.Linear(2, 2)
    with pytest.raises(NetworkChanged, match=r"'extra\.weight' has come"):
        adapter.switch("second")
