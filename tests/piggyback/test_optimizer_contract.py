"""The adapter's optimizer where torch's schedulers, scalers, checkpoints and users expect one of torch's own."""

import copy
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import lr_scheduler, swa_utils

import piggyback
from piggyback import AdamRule, Adapter, SGDRule
from piggyback.shell.errors import BadInput, BadPayload, NotTrainable, UnknownName

INPUTS, TARGETS = torch.ones(2, 3, 8, 8), torch.tensor([0, 1])


@pytest.fixture
def adapter(make_network: Callable, make_head: Callable) -> Adapter:
    adapter = piggyback.attach(make_network(), method=piggyback.Binary(), head="head", norm="fixed")
    adapter.add_task("task", head=make_head(0))
    adapter.train()
    return adapter


def step(adapter: Adapter, optimizer: torch.optim.Optimizer, *, seed: int = 0) -> float:
    inputs = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    loss = F.cross_entropy(adapter.network(inputs), torch.arange(8) % 4)
    loss.backward()
    optimizer.step()
    return loss.item()


def real(adapter: Adapter, name: str = "conv1.weight") -> Tensor:
    return adapter.task("task").trained[name]["mask_real"].clone()


# -- schedulers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [AdamRule(), SGDRule()])
@pytest.mark.parametrize(
    "make",
    [
        lambda o: lr_scheduler.OneCycleLR(o, max_lr=1e-3, total_steps=6),
        lambda o: lr_scheduler.CyclicLR(o, base_lr=1e-4, max_lr=1e-3, step_size_up=2, cycle_momentum=True),
    ],
)
def test_schedulers_that_cycle_rates_and_momentum(
    adapter: Adapter, make: Callable[[Any], lr_scheduler.LRScheduler], rule: Any
) -> None:
    optimizer = adapter.optimizer(rule=rule, update="eager")
    scheduler = make(optimizer)
    seen = []
    for number in range(5):
        before = real(adapter)
        step(adapter, optimizer, seed=number)
        assert not torch.equal(real(adapter), before)
        seen.append([(group["lr"], group.get("momentum", group.get("betas"))) for group in optimizer.param_groups])
        scheduler.step()
    assert len({group for groups in seen for group in groups}) > 2
    assert all(first == second for first, second in seen)  # masks and head alike


def test_betas_set_by_others_take_effect_on_masks(adapter: Adapter) -> None:
    """Against Adam written out for a single weight, its betas changed between steps."""
    optimizer = adapter.optimizer(mask_lr=1e-3, update="eager")
    expected, first, second = real(adapter).double(), 0.0, 0.0
    weight = adapter.frozen["conv1.weight"].double()
    for number, (rate, betas) in enumerate([(1e-3, (0.9, 0.999)), (5e-4, (0.5, 0.9)), (2e-3, (0.8, 0.99))], start=1):
        for group in optimizer.param_groups:
            group["betas"], group["lr"] = betas, rate
        step(adapter, optimizer, seed=number)
        gradient = adapter.network.conv1.weight.grad.double() * weight
        first = betas[0] * first + (1 - betas[0]) * gradient
        second = betas[1] * second + (1 - betas[1]) * gradient**2
        denominator = (second / (1 - betas[1] ** number)).sqrt() + 1e-8
        expected = expected - rate * first / (1 - betas[0] ** number) / denominator
    torch.testing.assert_close(real(adapter).double(), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    "make",
    [
        lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.5**epoch),
        lambda o: lr_scheduler.SequentialLR(
            o, [lr_scheduler.ConstantLR(o, 0.5, 1), lr_scheduler.ExponentialLR(o, 0.5)], milestones=[1]
        ),
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2),
        lambda o: swa_utils.SWALR(o, swa_lr=1e-5, anneal_epochs=2),
    ],
)
def test_schedulers_of_rates(adapter: Adapter, make: Callable[[Any], lr_scheduler.LRScheduler]) -> None:
    optimizer = adapter.optimizer(mask_lr=1e-3, head_lr=1e-2, update="eager")
    scheduler = make(optimizer)
    rates = []
    for number in range(3):
        rates.append(optimizer.param_groups[0]["lr"])
        step(adapter, optimizer, seed=number)
        scheduler.step()
    assert len(set(rates)) > 1
    saved = copy.deepcopy(scheduler.state_dict())
    scheduler.load_state_dict(saved)


def test_a_plateau_lowers_the_rates(adapter: Adapter) -> None:
    optimizer = adapter.optimizer(mask_lr=1e-3, head_lr=1e-2, update="eager")
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=0)
    for _ in range(2):
        step(adapter, optimizer)
        scheduler.step(1.0)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1e-4, 1e-3])


def test_two_rules_have_no_momentum_in_common(adapter: Adapter) -> None:
    optimizer = adapter.optimizer(head_rule="sgd", update="eager")
    assert not {"betas", "momentum"} & optimizer.defaults.keys()
    with pytest.raises(ValueError, match="cycle_momentum"):
        lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=6)
    scheduler = lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=6, cycle_momentum=False)
    step(adapter, optimizer)
    scheduler.step()


# -- rules and closures -----------------------------------------------------------------------------------------


def test_rules_by_name_and_class_are_those_of_torch(adapter: Adapter) -> None:
    for given, expected in (("sgd", SGDRule()), ("Adam", AdamRule()), (SGDRule, SGDRule()), (None, AdamRule())):
        optimizer = adapter.optimizer(rule=given, update="eager")
        assert {group["rule"] for group in optimizer.param_groups} == {type(expected).__name__}
        assert optimizer.rule == expected


@pytest.mark.parametrize(
    "rule", [torch.optim.LBFGS, torch.optim.SGD, torch.optim.Adam([nn.Parameter(torch.ones(1))]), 0.1, object]
)
def test_torchs_optimizers_are_no_rules(adapter: Adapter, rule: object) -> None:
    for place in ("rule", "head_rule"):
        with pytest.raises(BadInput, match=r"a rule is 'adam', 'sgd', AdamRule.*LBFGS"):
            adapter.optimizer(**{place: rule})
    with pytest.raises(UnknownName, match=r"no rule is called 'adamw'\. Did you mean 'adam'"):
        adapter.optimizer(rule="adamw")


def test_a_closure_is_called_once_with_gradients(adapter: Adapter) -> None:
    optimizer = adapter.optimizer(mask_lr=1e-3, update="eager")
    before, calls = real(adapter), []

    def closure() -> Tensor:
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = F.cross_entropy(adapter.network(INPUTS), TARGETS)
        loss.backward()
        return loss

    with torch.no_grad():
        loss = optimizer.step(closure)
    assert calls == [True]
    assert loss is not None
    assert loss.item() > 0
    assert not torch.equal(real(adapter), before)
    with pytest.raises(BadInput, match=r"step\(\) takes a function .* not Tensor"):
        optimizer.step(loss)


# -- groups -----------------------------------------------------------------------------------------------------


def biases(network: nn.Module) -> list[nn.Parameter]:
    return [network.conv1.bias, network.hidden.bias]


@pytest.mark.parametrize("rule", ["adam", "sgd"])
def test_biases_are_trained_in_place_and_belong_to_the_task(
    adapter: Adapter, make_network: Callable, make_head: Callable, tmp_path: Path, rule: str
) -> None:
    network = adapter.network
    frozen = {name: network.get_parameter(name).detach().clone() for name in ("conv1.bias", "hidden.bias")}
    optimizer = adapter.optimizer(weight_lr=1e-2, rule=rule, update="eager")
    optimizer.add_param_group({"params": iter(biases(network))})
    assert optimizer.param_groups[-1]["role"] == "weight"
    assert optimizer.param_groups[-1]["lr"] == 1e-2
    for number in range(5):
        step(adapter, optimizer, seed=number)
    trained = {name: network.get_parameter(name).detach().clone() for name in frozen}
    assert all(not torch.equal(trained[name], frozen[name]) for name in frozen)
    adapter.eval()
    logits = network(INPUTS)
    adapter.save(tmp_path / "task", task="task")
    merged = adapter.merged("task")
    adapter.add_task("other", head=make_head(1))
    assert all(torch.equal(network.get_parameter(name), frozen[name]) for name in frozen)
    adapter.base()
    assert all(torch.equal(network.get_parameter(name), frozen[name]) for name in frozen)
    assert not network.conv1.bias.requires_grad
    adapter.switch("task")
    assert torch.equal(network(INPUTS), logits)
    assert torch.equal(merged(INPUTS), logits)
    other = piggyback.attach(make_network(), method=piggyback.Binary(), head="head", norm="fixed")
    other.load(tmp_path / "task")
    assert torch.equal(other.network(INPUTS), logits)
    again = adapter.optimizer(update="eager")  # a later optimizer trains them too
    assert [group["role"] for group in again.param_groups] == ["mask", "weight", "head"]


def test_added_groups_resume_exactly(adapter: Adapter, make_network: Callable, make_head: Callable) -> None:
    optimizer = adapter.optimizer(update="eager")
    optimizer.add_param_group({"params": adapter.network.conv1.bias, "lr": 1e-2})
    step(adapter, optimizer)
    saved = copy.deepcopy((adapter.training_state("task"), optimizer.state_dict()))
    step(adapter, optimizer, seed=1)
    other = piggyback.attach(make_network(), method=piggyback.Binary(), head="head", norm="fixed")
    other.add_task("task", head=make_head(1))
    other.train()
    later = other.optimizer(update="eager")
    with pytest.raises(BadInput, match=r"'conv1\.bias'.*the same groups"):
        other.load_training_state("task", saved[0])
    later.add_param_group({"params": [other.network.conv1.bias], "lr": 1e-2})
    other.load_training_state("task", saved[0])
    later.load_state_dict(saved[1])
    step(other, later, seed=1)
    for key, tensor in adapter.network.state_dict().items():
        assert torch.equal(other.network.state_dict()[key], tensor), key


def test_parameters_that_cannot_be_added(adapter: Adapter, make_network: Callable, make_head: Callable) -> None:
    network, optimizer = adapter.network, adapter.optimizer(update="eager")
    wrong = {
        r"'conv1\.weight' is masked by method 'piggyback'": network.conv1.weight,
        r"'head\.bias' is trained already, with the role 'head'": network.head.bias,
        r"'bn1\.bias' belongs to a fixed norm layer: .*norm='trained'": network.bn1.bias,
        r"one of shape \(8,\) is none of them": make_network().conv1.bias,
        "float is none of them": 0.1,
    }
    for message, parameter in wrong.items():
        with pytest.raises(BadInput, match=message):
            optimizer.add_param_group({"params": [network.hidden.bias, parameter]})
    for settings, message in (
        ({"lr": -1.0}, "lr must be a finite number"),
        ({"lr": math.nan}, "lr must be a finite number"),
        ({"betas": (1.0, 0.9)}, r"a beta of Adam must be .* below 1"),
        ({"amsgrad": True}, "no amsgrad"),
        ({"rule": "LBFGS"}, "the rule of a group is one of AdamRule, SGDRule"),
    ):
        with pytest.raises(BadInput, match=message):
            optimizer.add_param_group({"params": [network.hidden.bias], **settings})
    assert len(optimizer.param_groups) == 2  # nothing half-done
    assert not adapter.task("task").own
    assert not network.hidden.bias.requires_grad
    step(adapter, optimizer)
    adapter.add_task("other", head=make_head(1))
    with pytest.raises(NotTrainable, match="trains task 'task'"):
        optimizer.add_param_group({"params": [network.hidden.bias]})


def test_a_payload_with_parts_that_no_optimizer_could_add(
    adapter: Adapter, make_network: Callable, tmp_path: Path
) -> None:
    adapter.task("task").own["bn1.bias"] = adapter.network.bn1.bias.detach().clone()
    adapter.save(tmp_path / "task", task="task")
    other = piggyback.attach(make_network(), method=piggyback.Binary(), head="head", norm="fixed")
    with pytest.raises(BadPayload, match="other norm layers or weights of its own"):
        other.load(tmp_path / "task")


# -- the rest of torch's contract -------------------------------------------------------------------------------


def test_what_torch_reads_of_an_optimizer(adapter: Adapter) -> None:
    optimizer = adapter.optimizer(update="eager")
    assert optimizer.defaults.items() >= {"lr": 1e-4, "betas": (0.9, 0.999), "eps": 1e-8}.items()
    for group in optimizer.param_groups:
        assert group.keys() >= {"params", *optimizer.defaults}
    assert not hasattr(optimizer, "_step_supports_amp_scaling")  # GradScaler unscales by itself
    assert "AdapterOptimizer" in repr(optimizer)
    step(adapter, optimizer)
    optimizer.zero_grad(set_to_none=False)
    assert all(not p.grad.any() for group in optimizer.param_groups for p in group["params"])


def test_hooks_are_called(adapter: Adapter) -> None:
    optimizer = adapter.optimizer(mask_lr=1e-3, update="eager")
    called = []
    optimizer.register_step_pre_hook(lambda *_: called.append("before"))
    optimizer.register_step_post_hook(lambda *_: called.append("after"))
    step(adapter, optimizer)
    saved = copy.deepcopy(optimizer.state_dict())
    expected = real(adapter)
    step(adapter, optimizer, seed=1)
    assert called == ["before", "after"] * 2

    def double(_: object, state: dict[str, Any]) -> dict[str, Any]:
        return {**state, "state": {k: {**v, "step": v["step"] * 2} for k, v in state["state"].items()}}

    optimizer.register_load_state_dict_pre_hook(double)
    optimizer.register_load_state_dict_post_hook(lambda o: called.append(torch.equal(real(adapter), expected)))
    optimizer.load_state_dict(saved)
    assert called[-1] is True  # a hook that looks at the outcome finds the masks restored
    assert {int(state["step"]) for state in optimizer.state.values()} == {2}


def test_states_of_other_optimizers(adapter: Adapter, make_head: Callable) -> None:
    optimizer = adapter.optimizer(mask_lr=1e-3, update="eager")
    step(adapter, optimizer)
    before, saved = real(adapter), optimizer.state_dict()
    groups = [{"params": group["params"]} for group in optimizer.param_groups]
    with pytest.raises(BadInput, match="role None where the task has one of role 'mask'"):
        optimizer.load_state_dict(torch.optim.Adam(groups).state_dict())
    with pytest.raises(BadInput, match=r"no 'step' for 'conv1\.weight'"):
        optimizer.load_state_dict({**saved, "state": {}})
    adapter.add_task("affine", head=make_head(1), method=piggyback.METHODS["affine"])
    with pytest.raises(BadInput, match=r"no 'scalars' for 'conv1\.weight'"):
        adapter.optimizer(update="eager").load_state_dict(saved)
    adapter.switch("task")
    assert torch.equal(real(adapter), before)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
@pytest.mark.parametrize("update", ["eager", "auto"])
def test_copies_of_adapter_and_optimizer_go_on_together(adapter: Adapter, how: Callable, update: str) -> None:
    optimizer = adapter.optimizer(mask_lr=1e-3, update=update)
    lr_scheduler.ExponentialLR(optimizer, 0.9)
    step(adapter, optimizer)
    other, twin = how((adapter, optimizer))
    assert twin.overlay is other
    before = real(other)
    step(adapter, optimizer, seed=1)
    assert torch.equal(real(other), before)
    step(other, twin, seed=1)
    assert torch.equal(real(other), real(adapter))


def test_rates_as_tensors(adapter: Adapter, make_network: Callable, make_head: Callable) -> None:
    """Some schedulers keep them so."""
    found = []
    for kind in (float, torch.tensor):
        for rule in ("adam", "sgd"):
            other = piggyback.attach(make_network(), method=piggyback.Binary(), head="head", norm="fixed")
            other.add_task("task", head=make_head(0))
            optimizer = other.optimizer(rule=rule, update="eager")
            for group in optimizer.param_groups:
                group["lr"] = kind(1e-3)
            step(other, optimizer)
            found.append(real(other))
    torch.testing.assert_close(found[:2], found[2:], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["mask_lr", "head_lr", "norm_lr", "weight_lr"])
@pytest.mark.parametrize("rate", [-1e-4, math.nan, math.inf, "1e-4", True])
def test_rates_that_are_none(adapter: Adapter, name: str, rate: object) -> None:
    with pytest.raises(BadInput, match=rf"{name} must be a finite number that is not negative"):
        adapter.optimizer(**{name: rate})


@pytest.mark.parametrize(
    "make",
    [
        lambda: AdamRule(betas=(0.9, 1.0)),
        lambda: AdamRule(betas=0.9),
        lambda: AdamRule(eps=-1e-8),
        lambda: SGDRule(momentum=math.nan),
        lambda: SGDRule(weight_decay=-1.0),
        lambda: SGDRule(momentum=0.0, nesterov=True),
    ],
)
def test_settings_of_rules_that_make_no_sense(make: Callable[[], object]) -> None:
    with pytest.raises(BadInput, match=r"beta|eps|momentum|weight_decay"):
        make()
