"""The same laws for every method, following what each declares."""

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import piggyback
from piggyback import METHODS, Adapter, Method
from piggyback.methods.contract import AddsModules, Follows, StoresSome
from piggyback.methods.ksm import KSM
from piggyback.methods.registry import set_masks
from piggyback.network.anatomy import fingerprint
from piggyback.optimizer import AdapterOptimizer
from piggyback.shell.errors import NotTrainable

STEPS = 24
LR = 2e-3
STATISTICS = {f"{norm}.{part}" for norm in ("bn1", "bn2") for part in ("running_mean", "running_var")}


def norms_of(method: Method) -> tuple[str, ...]:
    """How norm layers may be treated under a method."""
    if method.stands_on == "pruned":
        return ("fixed",)  # as published: trained once, with the backbone's first pruning
    return ("fixed", "statistics", "trained") if method.name in ("piggyback", "dan") else ("fixed", "trained")


CASES = [(method, norm) for method in METHODS.values() for norm in norms_of(method)]
each_case = pytest.mark.parametrize(
    ("method", "norm"), CASES, ids=[f"{method.name}, norm {norm}" for method, norm in CASES]
)


@pytest.fixture
def train_task(
    make_head: Callable[[int], nn.Linear],
    make_batches: Callable,
    run_steps: Callable,
    moved_masks: Callable,
    check_moved: Callable,
    begin_of: Callable,
) -> Callable[..., None]:
    """Adds a task, trains it, and sees to it that what it trains has moved."""

    def train(adapter: Adapter, name: str, *, seed: int) -> None:
        adapter.add_task(name, head=make_head(seed), **begin_of(adapter.method))
        adapter.train()
        optimizer = adapter.optimizer(mask_lr=LR, head_lr=LR, update="eager")
        run_steps(adapter.network, optimizer, make_batches(STEPS, seed=seed))
        adapter.eval()
        check_moved(adapter, name)
        if any("mask_real" in trained for trained in adapter.task(name).trained.values()):
            moved_masks(adapter, name)

    return train


def logits_of(network: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(99)
    with torch.no_grad():
        return network(torch.randn(5, 3, 8, 8, generator=generator))


def features_of(adapter: Adapter, task: str) -> Tensor:
    """What a task's head is given."""
    plain = adapter.merged(task).eval()
    plain.head = nn.Identity()
    return logits_of(plain)


def test_there_are_methods() -> None:
    """Those of the papers' tables, and nothing that declares what the laws below do not know."""
    assert METHODS.keys() >= {"piggyback", "piggyback-ternary", "feature", "finetune", "scratch", "norm", "affine"}
    assert METHODS.keys() >= {"ksm", "packnet", "joint", "series", "series-joint", "parallel", "dan"}
    for name, method in METHODS.items():
        assert isinstance(method, Method)
        assert name == method.name
        assert method.adapts in ("head", "norm", "weights", "modules", "everything", "anew")
        assert method.stands_on in ("backbone", "pruned", "joint")
        assert method.merge in ("exact", "close")
        assert (method.adapts == "modules") == isinstance(method, AddsModules)
    assert [name for name, method in METHODS.items() if isinstance(method, Follows)] == ["packnet"]
    assert [name for name, method in METHODS.items() if isinstance(method, StoresSome)] == ["ksm", "packnet"]
    assert {name for name, method in METHODS.items() if method.merge == "close"} == {"series", "series-joint"}


def test_a_recipes_threshold_is_for_masks_alone() -> None:
    changed = {name for name, method in METHODS.items() if set_masks(method, threshold=0.25, init=0.5) != method}
    assert changed == {"piggyback", "piggyback-ternary", "affine", "ksm"}
    assert set_masks(KSM(steepness=3.0), threshold=0.25, init=0.5) == KSM(threshold=0.25, init=0.5, steepness=3.0)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_norm_layers_are_trained_beside_masks_and_modules_when_nobody_says(
    method: Method, make_ground: Callable, make_head: Callable, begin_of: Callable
) -> None:
    """ "feature" stays the head alone, and tasks of packnet keep the norm layers of the network that they share."""
    adapter = piggyback.attach(make_ground(method), method=method, head="head")
    adapter.add_task("task", head=make_head(0), **begin_of(method))
    found = adapter.tasks["task"].norm
    assert found == ("trained" if method.adapts in ("weights", "modules") and method.name != "packnet" else "fixed")
    assert (adapter.tasks["task"].own.keys() >= STATISTICS) == (method.name not in ("feature", "packnet"))
    adapter.network.train()
    if adapter.tasks["task"].norm_is_fixed:
        with pytest.raises(NotTrainable, match="norm layer 'bn1' is fixed"):
            adapter.check_modes()
    else:
        adapter.check_modes()  # the network's own mode will do


def test_what_is_said_of_norm_layers_goes_before_what_is_usual(make_network: Callable, make_head: Callable) -> None:
    usual = piggyback.attach(make_network(), method=piggyback.Binary(), head="head")
    usual.add_task("usual", head=make_head(0))
    usual.add_task("said", head=make_head(1), norm="fixed")
    usual.add_task("head alone", head=make_head(2), method=piggyback.Feature())
    assert [usual.tasks[name].norm for name in usual.tasks] == ["trained", "fixed", "fixed"]
    paper = piggyback.attach(make_network(), method=piggyback.Feature(), head="head", norm="statistics")
    paper.add_task("a", head=make_head(0))
    paper.add_task("b", head=make_head(1), method=piggyback.Binary())
    assert [paper.tasks[name].norm for name in paper.tasks] == ["statistics", "statistics"]


@each_case
def test_a_fresh_task_has_the_backbones_logits_under_the_same_head(
    method: Method, norm: str, make_ground: Callable, make_network: Callable, begin_of: Callable
) -> None:
    network = make_ground(method)
    before = logits_of(network)
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    adapter = piggyback.attach(network, method=method, head="head", norm=norm)
    assert torch.equal(logits_of(network), before)
    adapter.add_task("task", head=copy.deepcopy(network.head), **begin_of(method))
    if method.adapts == "anew":
        drawn = make_network(seed=7)
        drawn.head = copy.deepcopy(adapter.base_head)
        assert not torch.equal(logits_of(network), before)
        assert torch.equal(logits_of(network), logits_of(drawn))
    else:
        assert torch.equal(logits_of(network), before)
    shown = {name: tensor.shape for name, tensor in network.state_dict().items()}
    assert [name for name in shown if ".added." not in name] == list(shapes)
    assert (len(shown) > len(shapes)) == (method.adapts == "modules")
    assert all(shown[name] == shape for name, shape in shapes.items())
    adapter.base()
    assert list(network.state_dict()) == list(shapes)


@each_case
def test_frozen_weights_keep_their_bits(method: Method, norm: str, make_ground: Callable, train_task: Callable) -> None:
    network = make_ground(method)
    original = copy.deepcopy(network)
    state_dict = original.state_dict()
    adapter = piggyback.attach(network, method=method, head="head", norm=norm)
    for number, name in enumerate(("a", "b")):
        train_task(adapter, name, seed=number)
    adapter.base()
    features = copy.deepcopy(network).eval()
    features.head = nn.Identity()
    changes = method.adapts != "head" or norm != "fixed"
    assert torch.equal(features_of(adapter, "b"), logits_of(features)) != changes
    adapter.switch("a")
    assert fingerprint(adapter.frozen) == adapter.fingerprint
    assert fingerprint({name: state_dict[name] for name in adapter.frozen}) == adapter.fingerprint
    base = adapter.base_state_dict()
    assert base.keys() == state_dict.keys()
    assert all(torch.equal(base[key], state_dict[key]) for key in base)
    adapter.base()
    adapter.eval()
    assert torch.equal(logits_of(network), logits_of(original))
    assert network.state_dict().keys() == state_dict.keys()
    assert all(torch.equal(tensor, state_dict[name]) for name, tensor in network.state_dict().items())


@each_case
def test_switching_back_and_forth_gives_the_same_bits(
    method: Method, norm: str, make_ground: Callable, train_task: Callable
) -> None:
    network = make_ground(method)
    adapter = piggyback.attach(network, method=method, head="head", norm=norm)
    train_task(adapter, "a", seed=0)
    first = logits_of(network)
    train_task(adapter, "b", seed=1)
    second = logits_of(network)
    for name, expected in (("a", first), ("b", second), ("a", first)):
        adapter.switch(name)
        assert torch.equal(logits_of(network), expected)
    adapter.base()
    adapter.switch("b")
    assert torch.equal(logits_of(network), second)
    changes = method.adapts != "head" or norm != "fixed"  # else the head alone makes the difference
    assert torch.equal(features_of(adapter, "a"), features_of(adapter, "b")) != changes


def own_names(method: Method, norm: str, adapter: Adapter) -> set[str]:
    """The parameters and buffers that a task has for itself."""
    if method.adapts in ("everything", "anew"):
        return set(adapter.frozen)
    counters = {"bn1.num_batches_tracked", "bn2.num_batches_tracked"}
    affine = {f"{name}.{part}" for name in ("bn1", "bn2") for part in ("weight", "bias")}
    if norm == "trained" or method.adapts == "norm":
        return STATISTICS | counters | affine
    return STATISTICS | counters if norm == "statistics" else set()


@each_case
def test_a_payload_carries_the_task_to_another_process(
    method: Method, norm: str, make_ground: Callable, train_task: Callable, tmp_path: Path
) -> None:
    network = make_ground(method)
    adapter = piggyback.attach(network, method=method, head="head", norm=norm)
    train_task(adapter, "birds", seed=0)
    expected = logits_of(network)
    adapter.save(tmp_path / "birds.safetensors", task="birds", recipe={"epochs": 60})
    moved = adapter.task("birds").own
    assert moved.keys() == own_names(method, norm, adapter)
    for name in STATISTICS & moved.keys():
        assert not torch.equal(moved[name], adapter.frozen[name])

    other_network = make_ground(method, classes=17)  # a fresh network; the backbone's own head may be another one
    backbone = {key: value for key, value in adapter.base_state_dict().items() if not key.startswith("head.")}
    other_network.load_state_dict(backbone, strict=False)
    other = piggyback.attach(other_network, method=piggyback.Feature(), head="head")
    assert other.load(tmp_path / "birds.safetensors") == "birds"
    other.eval()
    assert torch.equal(logits_of(other_network), expected)
    assert other.task("birds").method == method
    assert other.task("birds").norm == norm
    other.save(tmp_path / "again.safetensors", task="birds", recipe={"epochs": 60})
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "birds.safetensors").read_bytes()
    payload = piggyback.read_payload(tmp_path / "birds.safetensors")
    assert payload.recipe == {"epochs": 60}
    assert sum(payload.bytes_by_kind.values()) == (tmp_path / "birds.safetensors").stat().st_size
    assert payload.own.keys() == moved.keys()


@each_case
def test_the_merged_network_is_a_plain_one(
    method: Method, norm: str, make_ground: Callable, train_task: Callable
) -> None:
    network = make_ground(method)
    keys = list(network.state_dict())
    adapter = piggyback.attach(network, method=method, head="head", norm=norm)
    train_task(adapter, "a", seed=0)
    expected = logits_of(network)
    train_task(adapter, "b", seed=1)
    plain = adapter.merged("a")
    assert adapter.current == "b"
    plain.eval()
    merged = logits_of(plain)
    if method.merge == "exact":
        assert torch.equal(merged, expected)
        assert list(plain.state_dict()) == keys
    else:
        torch.testing.assert_close(merged, expected, rtol=1e-5, atol=1e-5)
        assert set(plain.state_dict()) - set(keys) == {"conv2.bias"}  # the one convolution that had none
        assert set(keys) <= set(plain.state_dict())
    assert b"piggyback" not in pickle.dumps(plain)  # a reference to the adapter would be pickled with it
    assert b"piggyback" in pickle.dumps(adapter)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in plain.parameters())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert torch.equal(logits_of(plain), merged)


RULES = {"adam": piggyback.AdamRule(), "sgd": piggyback.SGDRule()}


@each_case
@pytest.mark.parametrize("rule", RULES)
def test_a_resumed_training_has_the_bits_of_an_uninterrupted_one(
    method: Method,
    norm: str,
    rule: str,
    make_ground: Callable,
    make_head: Callable,
    make_batches: Callable,
    run_steps: Callable,
    moved_masks: Callable,
    check_moved: Callable,
    begin_of: Callable,
) -> None:
    batches = make_batches(STEPS)
    masks = isinstance(method, piggyback.Binary | piggyback.Ternary | KSM)
    # a real mask must come from 1e-2 below 5e-3; under SGD its steps have the size of its gradients
    mask_lr = 2.0 if masks and rule == "sgd" else LR
    if isinstance(method, piggyback.Ternary):  # a wider band for zero, so that enough masks lie in it
        method = piggyback.Ternary(threshold=5e-2, init=5.2e-2)

    def begin(head_seed: int) -> tuple[Adapter, AdapterOptimizer]:
        adapter = piggyback.attach(make_ground(method), method=method, head="head", norm=norm)
        adapter.add_task("task", head=make_head(head_seed), **begin_of(method))
        adapter.train()
        rates = {"mask_lr": mask_lr, "head_lr": LR, "norm_lr": LR, "weight_lr": LR}
        return adapter, adapter.optimizer(**rates, rule=RULES[rule], update="eager")

    whole, optimizer = begin(0)
    run_steps(whole.network, optimizer, batches)

    first, first_optimizer = begin(0)
    run_steps(first.network, first_optimizer, batches[:10])
    file = io.BytesIO()
    torch.save({"optimizer": first_optimizer.state_dict(), "task": first.training_state("task")}, file)
    run_steps(first.network, first_optimizer, batches[10:13])  # what is saved must not be what goes on changing
    file.seek(0)
    saved = torch.load(file, weights_only=True)

    second, second_optimizer = begin(1)
    second.load_training_state("task", saved["task"])
    second_optimizer.load_state_dict(saved["optimizer"])
    run_steps(second.network, second_optimizer, batches[10:])

    if rule == "adam":  # under SGD a bias before a norm layer has no gradient to speak of
        check_moved(whole, "task")
    if masks:
        moved_masks(whole, "task")
    start = begin(0)[0].network.state_dict()
    ours, theirs = whole.network.state_dict(), second.network.state_dict()
    moved = {key for key, tensor in start.items() if not torch.equal(ours[key], tensor)}
    assert moved > {"head.weight", "head.bias"} if method.adapts != "head" else moved >= {"head.weight", "head.bias"}
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    left, right = optimizer.state_dict()["state"], second_optimizer.state_dict()["state"]
    assert left.keys() == right.keys()
    for number, entries in left.items():
        assert entries.keys() == right[number].keys()
        for key, value in entries.items():
            assert torch.equal(value, right[number][key]), key


def test_trained_statistics_travel_and_fixed_ones_stay(
    make_network: Callable, train_task: Callable, tmp_path: Path
) -> None:
    adapter = piggyback.attach(make_network(), method=piggyback.Binary(), head="head", norm="trained")
    train_task(adapter, "task", seed=0)
    adapter.save(tmp_path / "task.safetensors", task="task")
    network = adapter.network
    own = piggyback.read_payload(tmp_path / "task.safetensors").own
    for name in ("bn1", "bn2"):
        norm = network.get_submodule(name)
        for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            assert torch.equal(own[f"{name}.{part}"], getattr(norm, part))
        assert norm.num_batches_tracked == STEPS
    adapter.base()
    assert torch.equal(network.bn1.running_mean, adapter.frozen["bn1.running_mean"])
    assert network.bn1.num_batches_tracked == 0
