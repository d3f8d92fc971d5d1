"""What a user can get wrong, and what they are told."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import piggyback
from piggyback.shell.errors import BadInput, NotTrainable, UnknownName


@pytest.fixture
def adapter(make_network: Callable) -> piggyback.Adapter:
    return piggyback.attach(make_network(), method=piggyback.Binary(), head="head", norm="fixed")


def backward(network: nn.Module) -> None:
    F.cross_entropy(network(torch.ones(2, 3, 8, 8)), torch.tensor([0, 1])).backward()


def test_stepping_a_task_that_the_network_does_not_show(adapter: piggyback.Adapter, make_head: Callable) -> None:
    adapter.add_task("a", head=make_head(0))
    optimizer = adapter.optimizer(update="eager")
    adapter.add_task("b", head=make_head(1))
    backward(adapter.network)
    frozen = {name: tensor.clone() for name, tensor in adapter.network.state_dict().items()}
    with pytest.raises(NotTrainable, match=r"trains task 'a'.*shows 'b'.*adapter\.switch\('a'\)"):
        optimizer.step()
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in adapter.network.state_dict().items())
    adapter.base()
    with pytest.raises(NotTrainable, match="shows 'the backbone'"):
        optimizer.step()
    adapter.switch("a")
    backward(adapter.network)
    optimizer.step()


def test_fixed_norm_layers_in_training_mode(adapter: piggyback.Adapter, make_head: Callable) -> None:
    network = adapter.network
    adapter.add_task("a", head=make_head(0))
    optimizer = adapter.optimizer(update="eager")
    network.train()
    backward(network)
    assert not torch.equal(network.bn1.running_mean, adapter.frozen["bn1.running_mean"])
    with pytest.raises(NotTrainable, match=r"'bn1' is fixed but in training mode: call adapter\.train\(\)"):
        optimizer.step()
    adapter.train()  # the mistake leaves nothing behind
    for name in adapter.anatomy.norm:
        assert torch.equal(network.state_dict()[name], adapter.frozen[name])
    assert network.conv1.training
    assert not network.bn1.training
    backward(network)
    optimizer.step()


def test_trained_norm_layers_may_be_in_training_mode(adapter: piggyback.Adapter, make_head: Callable) -> None:
    adapter.add_task("a", head=make_head(0), norm="trained")
    optimizer = adapter.optimizer(update="eager")
    adapter.train()
    assert adapter.network.bn1.training
    backward(adapter.network)
    optimizer.step()
    moved = adapter.network.bn1.running_mean.clone()
    adapter.eval()
    adapter.train()
    assert torch.equal(adapter.network.bn1.running_mean, moved)
    assert not torch.equal(moved, adapter.frozen["bn1.running_mean"])


def test_the_backbone_has_no_optimizer(adapter: piggyback.Adapter) -> None:
    with pytest.raises(NotTrainable, match="add a task"):
        adapter.optimizer()


def test_a_loaded_task_has_no_real_masks(
    adapter: piggyback.Adapter, make_network: Callable, make_head: Callable, tmp_path: Path
) -> None:
    adapter.add_task("a", head=make_head(0))
    adapter.save(tmp_path / "a.safetensors", task="a")
    other = piggyback.attach(make_network(), method=piggyback.Binary(), head="head")
    other.load(tmp_path / "a.safetensors")
    with pytest.raises(NotTrainable, match="loaded from a payload"):
        other.optimizer()


def test_a_task_without_anything_to_train(make_network: Callable) -> None:
    adapter = piggyback.attach(make_network(), method=piggyback.Feature())
    adapter.add_task("a")
    with pytest.raises(NotTrainable, match="nothing to train"):
        adapter.optimizer()


def test_names_and_heads_of_tasks(adapter: piggyback.Adapter, make_head: Callable) -> None:
    head = make_head(0)
    own = adapter.network.head
    adapter.add_task("birds", head=head)
    with pytest.raises(BadInput, match="there is a task 'birds' already"):
        adapter.add_task("birds", head=make_head(1))
    with pytest.raises(BadInput, match="must come with a head"):
        adapter.add_task("flowers")
    for taken in (head, own):  # two tasks would train one head
        with pytest.raises(BadInput, match="each needs its own"):
            adapter.add_task("flowers", head=taken)
    assert list(adapter.tasks) == ["birds"]
    with pytest.raises(UnknownName, match="Did you mean 'birds'"):
        adapter.switch("brids")
    assert adapter.current == "birds"


@pytest.mark.parametrize(
    "method",
    [
        lambda: piggyback.Binary(threshold=0.5, init=0.5),
        lambda: piggyback.Ternary(threshold=-0.1),
        lambda: piggyback.Ternary(threshold=0.5, init=0.5),
    ],
)
def test_masks_that_would_start_at_zero(method: Callable[[], piggyback.Method]) -> None:
    with pytest.raises(ValueError, match="threshold"):
        method()


def test_who_begins_anew_says_from_what(
    adapter: piggyback.Adapter, make_network: Callable, make_head: Callable
) -> None:
    scratch, drawn = piggyback.METHODS["scratch"], make_network(seed=7).state_dict()
    with pytest.raises(BadInput, match="'scratch' needs `begin`, the state dict of a freshly drawn network"):
        adapter.add_task("a", head=make_head(0), method=scratch)
    for name in ("piggyback", "finetune", "norm", "series"):
        with pytest.raises(BadInput, match=f"'{name}' takes no `begin`"):
            adapter.add_task("a", head=make_head(0), method=piggyback.METHODS[name], begin=drawn)
    for wrong in ({}, {**drawn, "conv1.weight": torch.ones(8, 3, 5, 5)}):
        with pytest.raises(BadInput, match=r"no 'conv1\.weight' of shape \(8, 3, 3, 3\): draw the same network"):
            adapter.add_task("a", head=make_head(0), method=scratch, begin=wrong)
    assert not adapter.tasks
    adapter.add_task("a", head=make_head(0), method=scratch, begin=drawn)
    with torch.no_grad():
        drawn["conv1.weight"].zero_()  # it was copied
    assert adapter.network.conv1.weight.any()


def test_weight_decay_never_acts_on_masks(make_network: Callable, make_head: Callable) -> None:
    reals, heads = [], []
    for decay in (0.0, 0.5):
        adapter = piggyback.attach(make_network(), method=piggyback.Binary(), head="head")
        adapter.add_task("a", head=make_head(0))
        optimizer = adapter.optimizer(mask_lr=1e-3, rule=piggyback.AdamRule(weight_decay=decay), update="eager")
        backward(adapter.network)
        optimizer.step()
        reals.append(adapter.task("a").trained["conv1.weight"]["mask_real"].clone())
        heads.append(adapter.network.head.weight.detach().clone())
    assert torch.equal(*reals)
    assert not torch.equal(*heads)


def test_only_the_tasks_own_parameters_ask_for_gradients(adapter: piggyback.Adapter, make_head: Callable) -> None:
    weights = {"conv1.weight", "conv2.weight", "hidden.weight"}
    head = {"head.weight", "head.bias"}
    norm = {f"{name}.{part}" for name in ("bn1", "bn2") for part in ("weight", "bias")}

    def asking() -> set[str]:
        return {name for name, parameter in adapter.network.named_parameters() if parameter.requires_grad}

    assert asking() == set()
    for number, (method, norms, expected) in enumerate(
        (
            ("piggyback", "fixed", weights | head),
            ("piggyback-ternary", "trained", weights | norm | head),
            ("feature", "fixed", head),
            ("feature", "trained", norm | head),
            ("norm", "fixed", norm | head),
            ("dan", "statistics", weights | head),
            ("parallel", "fixed", weights - {"hidden.weight"} | head),
            ("finetune", "fixed", weights | norm | head | {"conv1.bias", "hidden.bias"}),
        )
    ):
        adapter.add_task(f"{number}", head=make_head(number), method=piggyback.METHODS[method], norm=norms)
        assert asking() == expected
    adapter.switch("0")
    assert asking() == weights | head
