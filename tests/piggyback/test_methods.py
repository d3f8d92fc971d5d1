"""The same laws for every method."""

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
from piggyback.fingerprint import fingerprint
from piggyback.optimizer import AdapterOptimizer

STEPS = 24
LR = 2e-3

each_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
each_norm = pytest.mark.parametrize("norm", ["fixed", "trained"])


def adapts(adapter: Adapter, task: str) -> bool:
    """Whether the task changes more than the head."""
    state = adapter.task(task)
    return bool(state.trained or state.kept or state.own)


@pytest.fixture
def train_task(
    make_head: Callable[[int], nn.Linear], make_batches: Callable, run_steps: Callable, moved_masks: Callable
) -> Callable[..., None]:
    """Adds a task, trains it, and sees to it that the masks have moved."""

    def train(adapter: Adapter, name: str, *, seed: int, method: Method | None = None) -> None:
        adapter.add_task(name, head=make_head(seed), method=method)
        adapter.train()
        optimizer = adapter.optimizer(mask_lr=LR, head_lr=LR, update="eager")
        run_steps(adapter.network, optimizer, make_batches(STEPS, seed=seed))
        adapter.eval()
        if adapter.task(name).method.adapts == "weights":
            moved_masks(adapter, name)

    return train


def logits_of(network: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(99)
    with torch.no_grad():
        return network(torch.randn(5, 3, 8, 8, generator=generator))


def test_there_are_methods() -> None:
    assert {"piggyback", "piggyback-ternary", "feature", "finetune"} <= METHODS.keys()
    assert all(name == method.name for name, method in METHODS.items())


@each_method
@each_norm
def test_a_fresh_task_has_the_backbones_logits_under_the_same_head(
    method: Method, norm: str, make_network: Callable
) -> None:
    network = make_network()
    before = logits_of(network)
    keys = list(network.state_dict())
    shapes = [tensor.shape for tensor in network.state_dict().values()]
    adapter = piggyback.attach(network, method=method, head="head", norm=norm)
    assert torch.equal(logits_of(network), before)
    adapter.add_task("task", head=copy.deepcopy(network.head))
    assert torch.equal(logits_of(network), before)
    assert list(network.state_dict()) == keys
    assert [tensor.shape for tensor in network.state_dict().values()] == shapes


@each_method
@each_norm
def test_frozen_weights_keep_their_bits(
    method: Method, norm: str, make_network: Callable, train_task: Callable
) -> None:
    network = make_network()
    original = copy.deepcopy(network)
    state_dict = original.state_dict()
    adapter = piggyback.attach(network, method=method, head="head", norm=norm)
    for number, name in enumerate(("a", "b")):
        train_task(adapter, name, seed=number)
    if adapts(adapter, "b"):
        assert any(not torch.equal(p, state_dict[n]) for n, p in network.named_parameters() if n in adapter.frozen)
    adapter.switch("a")
    assert fingerprint(adapter.frozen) == adapter.fingerprint
    assert fingerprint({name: state_dict[name] for name in adapter.frozen}) == adapter.fingerprint
    base = adapter.base_state_dict()
    assert base.keys() == state_dict.keys()
    assert all(torch.equal(base[key], state_dict[key]) for key in base)
    adapter.base()
    adapter.eval()
    assert torch.equal(logits_of(network), logits_of(original))
    assert all(torch.equal(tensor, state_dict[name]) for name, tensor in network.state_dict().items())


@each_method
@each_norm
def test_switching_back_and_forth_gives_the_same_bits(
    method: Method, norm: str, make_network: Callable, train_task: Callable
) -> None:
    network = make_network()
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
    if adapts(adapter, "a"):  # else the head alone would make the difference
        hidden = [adapter.merged(name) for name in ("a", "b")]
        for plain in hidden:
            plain.head = nn.Identity()
        assert not torch.equal(logits_of(hidden[0]), logits_of(hidden[1]))


@each_method
@each_norm
def test_a_payload_carries_the_task_to_another_process(
    method: Method, norm: str, make_network: Callable, train_task: Callable, tmp_path: Path
) -> None:
    network = make_network()
    adapter = piggyback.attach(network, method=method, head="head", norm=norm)
    train_task(adapter, "birds", seed=0)
    expected = logits_of(network)
    adapter.save(tmp_path / "birds.safetensors", task="birds", recipe={"epochs": 60})
    moved = set(adapter.task("birds").own)
    if method.adapts == "everything":
        assert moved == set(adapter.frozen)
    elif norm == "trained":
        assert {"bn1.weight", "bn1.bias", "bn1.running_mean", "bn2.running_var"} < moved
        assert not torch.equal(adapter.task("birds").own["bn1.running_mean"], adapter.frozen["bn1.running_mean"])
    else:
        assert not moved

    other_network = make_network(classes=17)  # a fresh network; the backbone's own head may be another one
    backbone = {key: value for key, value in adapter.base_state_dict().items() if not key.startswith("head.")}
    other_network.load_state_dict(backbone, strict=False)
    other = piggyback.attach(other_network, method=METHODS["feature"], head="head")
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
    assert payload.own.keys() == moved


@each_method
@each_norm
def test_the_merged_network_is_a_plain_one(
    method: Method, norm: str, make_network: Callable, train_task: Callable
) -> None:
    network = make_network()
    keys = list(network.state_dict())
    adapter = piggyback.attach(network, method=method, head="head", norm=norm)
    train_task(adapter, "a", seed=0)
    expected = logits_of(network)
    train_task(adapter, "b", seed=1)
    plain = adapter.merged("a")
    assert adapter.current == "b"
    plain.eval()
    assert method.merge == "exact"
    assert torch.equal(logits_of(plain), expected)
    assert list(plain.state_dict()) == keys
    assert b"piggyback" not in pickle.dumps(plain)  # a reference to the adapter would be pickled with it
    assert b"piggyback" in pickle.dumps(adapter)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in plain.parameters())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert torch.equal(logits_of(plain), expected)


@each_method
@each_norm
@pytest.mark.parametrize("rule", [piggyback.AdamRule(), piggyback.SGDRule()], ids=["adam", "sgd"])
def test_a_resumed_training_has_the_bits_of_an_uninterrupted_one(
    method: Method,
    norm: str,
    rule: piggyback.AdamRule | piggyback.SGDRule,
    make_network: Callable,
    make_head: Callable,
    make_batches: Callable,
    run_steps: Callable,
    moved_masks: Callable,
) -> None:
    batches = make_batches(STEPS)
    # a real mask must come from 1e-2 below 5e-3; under SGD its steps have the size of its gradients
    mask_lr = LR if isinstance(rule, piggyback.AdamRule) else 2.0
    if isinstance(method, piggyback.Ternary):  # a wider band for zero, so that enough masks lie in it
        method = piggyback.Ternary(threshold=5e-2, init=5.2e-2)

    def begin(head_seed: int) -> tuple[Adapter, AdapterOptimizer]:
        adapter = piggyback.attach(make_network(), method=method, head="head", norm=norm)
        adapter.add_task("task", head=make_head(head_seed))
        adapter.train()
        rates = {"mask_lr": mask_lr, "head_lr": LR, "norm_lr": LR, "weight_lr": LR}
        return adapter, adapter.optimizer(**rates, rule=rule, update="eager")

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

    if method.adapts == "weights":
        moved_masks(whole, "task")
    ours, theirs = whole.network.state_dict(), second.network.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    left, right = optimizer.state_dict()["state"], second_optimizer.state_dict()["state"]
    assert left.keys() == right.keys()
    for number, entries in left.items():
        assert entries.keys() == right[number].keys()
        for key, value in entries.items():
            assert torch.equal(value, right[number][key]), key


@pytest.mark.parametrize(
    ("name", "bits"),
    # 1000 * log2(3) = 1584.96, of which a whole number of bits can be stored
    [("piggyback", 1000), ("piggyback-ternary", 1585), ("feature", 0), ("finetune", 32_000)],
)
def test_bits_as_counted(name: str, bits: int) -> None:
    assert METHODS[name].bits(1000) == bits


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
