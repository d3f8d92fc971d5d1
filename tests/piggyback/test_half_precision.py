"""Networks in half precision: what is trained is float32, and what was given keeps its type."""

import copy
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import piggyback
from piggyback import METHODS, Adapter, SGDRule
from piggyback.payload import BLANK, KEY, seal

HALF = (torch.bfloat16, torch.float16)
TRAINED = [name for name, method in METHODS.items() if method.adapts != "head"]


def pattern_batches(steps: int, *, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Four patterns under noise: something to learn, so that masks move for a reason."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.randn(4, 3, 8, 8, generator=generator)
    batches = []
    for _ in range(steps):
        labels = torch.randint(0, 4, (16,), generator=generator)
        batches.append((patterns[labels] + 0.5 * torch.randn(16, 3, 8, 8, generator=generator), labels))
    return batches


def step(network: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, labels: Tensor) -> None:
    optimizer.zero_grad()
    F.cross_entropy(network(inputs).float(), labels).backward()
    optimizer.step()


@pytest.fixture
def half_adapter(make_ground: Callable, make_head: Callable, begin_of: Callable) -> Callable[..., Adapter]:
    """A half-precision network with a fresh task under a float32 head, in training."""

    def build(name: str = "piggyback", *, dtype: torch.dtype = torch.bfloat16, **options: Any) -> Adapter:
        method = METHODS[name]
        options = {"norm": "fixed", **options}
        adapter = piggyback.attach(make_ground(method).to(dtype), method=method, head="head", **options)
        adapter.add_task("task", head=make_head(0), **begin_of(method))
        adapter.train()
        return adapter

    return build


@pytest.fixture(scope="module")
def backbone() -> nn.Sequential:
    """The network of `make_network`'s form, trained for a while on another task."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            *(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 4)),
        )
    optimizer = torch.optim.Adam(network.parameters())
    for inputs, labels in pattern_batches(100, seed=0):
        step(network, optimizer, inputs, labels)
    return network


@pytest.mark.parametrize("update", ["eager", "compiled"])
@pytest.mark.parametrize("dtype", HALF)
def test_masks_are_those_of_the_float32_twin(
    backbone: nn.Sequential, dtype: torch.dtype, update: str, check_zeros: Callable
) -> None:
    half = copy.deepcopy(backbone).to(dtype)
    twin = copy.deepcopy(half).float()  # the same weights exactly
    torch.manual_seed(1)
    head = nn.Linear(32, 4)
    bits = []
    for network in (half, twin):
        adapter = piggyback.attach(network, method=piggyback.Binary(), head="8")
        adapter.add_task("task", head=copy.deepcopy(head))
        adapter.train()
        optimizer = adapter.optimizer(mask_lr=1e-4, head_lr=1e-3, update=update)
        for inputs, labels in pattern_batches(200, seed=1):
            step(network, optimizer, inputs.to(network[0].weight.dtype), labels)
        state = adapter.task("task")
        masks = {name: state.kept_of(name)["mask"] for name in adapter.anatomy.weights}
        check_zeros(masks)
        bits.append(torch.cat([mask.flatten() for mask in masks.values()]))
    assert (bits[0] == bits[1]).double().mean() >= 0.99


@pytest.mark.parametrize("dtype", HALF)
def test_small_steps_are_not_lost(half_adapter: Callable, dtype: torch.dtype) -> None:
    """Near 1e-2 numbers of bfloat16 are 6e-5 apart: a step of 1e-5 would vanish in them."""
    adapter = half_adapter(dtype=dtype)
    optimizer = adapter.optimizer(mask_lr=1e-5, update="eager")
    before = adapter.task("task").trained["hidden.weight"]["mask_real"].clone()
    assert torch.equal(before, torch.full_like(before, 1e-2))  # which bfloat16 cannot hold
    inputs, labels = pattern_batches(1, seed=0)[0]
    for _ in range(20):
        step(adapter.network, optimizer, inputs.to(dtype), labels)
    moved = (adapter.task("task").trained["hidden.weight"]["mask_real"] - before).abs()
    assert 1e-4 < moved.max() < 3e-4  # twenty steps of 1e-5


@pytest.mark.parametrize("rule", [None, SGDRule()])
@pytest.mark.parametrize("name", TRAINED)
def test_what_is_trained_is_float32_and_the_backbone_as_it_was(
    half_adapter: Callable, make_ground: Callable, name: str, rule: SGDRule | None
) -> None:
    original = make_ground(METHODS[name]).bfloat16()
    adapter = half_adapter(name, norm="trained")
    inputs, labels = pattern_batches(1, seed=0)[0]
    optimizer = adapter.optimizer(rule=rule, update="eager")
    for _ in range(3):
        step(adapter.network, optimizer, inputs.bfloat16(), labels)
    for state in optimizer.state.values():
        for key, value in state.items():
            if torch.is_tensor(value) and value.is_floating_point():
                assert value.dtype == torch.float32, key
    task = adapter.task("task")
    for parts in task.trained.values():
        assert all(part.dtype == torch.float32 for part in parts.values() if part.is_floating_point())
    for part, tensor in task.own.items():
        if part in adapter.anatomy.norm and tensor.is_floating_point():
            assert tensor.dtype == torch.float32, part
    for module in task.modules.values():
        assert all(t.dtype == torch.float32 for t in module.state_dict().values() if t.is_floating_point())
    adapter.base()
    adapter.eval()
    found = adapter.network.state_dict()
    for key, tensor in original.state_dict().items():
        assert found[key].dtype == tensor.dtype
        assert torch.equal(found[key], tensor), key
    assert torch.equal(adapter.network(inputs.bfloat16()), original(inputs.bfloat16()))


@pytest.mark.parametrize("name", list(METHODS))
def test_a_saved_task_gives_the_same_logits(
    half_adapter: Callable, make_ground: Callable, tmp_path: Path, name: str
) -> None:
    adapter = half_adapter(name, norm="fixed" if name in ("feature", "packnet") else "trained")
    optimizer = adapter.optimizer(mask_lr=1e-3, update="eager")
    for inputs, labels in pattern_batches(8, seed=0):
        step(adapter.network, optimizer, inputs.bfloat16(), labels)
    adapter.eval()
    expected = adapter.network(inputs.bfloat16())
    adapter.save(tmp_path / "task.safetensors", task="task")
    other = piggyback.attach(make_ground(METHODS[name]).bfloat16(), method=METHODS[name], head="head")
    other.load(tmp_path / "task.safetensors")
    other.eval()
    assert torch.equal(other.network(inputs.bfloat16()), expected)
    merged = adapter.merged("task")
    if METHODS[name].merge == "exact":
        assert torch.equal(merged(inputs.bfloat16()), expected)
    else:  # folded weights are rounded to the network's type
        torch.testing.assert_close(merged(inputs.bfloat16()), expected, rtol=0.1, atol=0.1)


def test_compiled_updates_agree_with_eager_ones(half_adapter: Callable) -> None:
    reals = []
    for update in ("compiled", "eager"):
        adapter = half_adapter()
        optimizer = adapter.optimizer(mask_lr=1e-3, update=update)
        inputs, labels = pattern_batches(1, seed=0)[0]
        for _ in range(3):
            step(adapter.network, optimizer, inputs.bfloat16(), labels)
        assert optimizer.update_form() == update
        reals.append(adapter.task("task").trained["conv2.weight"]["mask_real"])
    assert reals[0].dtype == torch.float32
    # where a gradient is tiny, rounding decides how large Adam's step is
    assert ((reals[0] - reals[1]).abs() < 1e-5).double().mean() > 0.99


# -- trained in place -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [None, SGDRule()])
def test_weights_trained_in_place_have_float32_masters(half_adapter: Callable, rule: SGDRule | None) -> None:
    adapter = half_adapter("finetune")
    optimizer = adapter.optimizer(weight_lr=1e-5, rule=rule, update="eager")
    weight = adapter.network.hidden.weight
    with torch.no_grad():
        weight.fill_(1.0)
    for _ in range(500):  # a step of 1e-5 is far below bfloat16's 2^-7 to 2^-8 at 1
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    assert weight.dtype == torch.bfloat16
    assert weight.max() < 1.0
    expected = 1 - 500e-5 if rule is None else 1 - 10 * 500e-5
    torch.testing.assert_close(optimizer.state[weight]["master"].mean().item(), expected, rtol=1e-3, atol=1e-3)
    with torch.no_grad():
        weight.fill_(0.5)  # whoever writes into the weights is followed
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert (optimizer.state[weight]["master"] - 0.5).abs().max() < 1e-3


def test_masters_and_moments_resume_exactly(half_adapter: Callable) -> None:
    adapter = half_adapter("finetune")
    batches = pattern_batches(6, seed=0)
    optimizer = adapter.optimizer(weight_lr=1e-4)
    for inputs, labels in batches[:3]:
        step(adapter.network, optimizer, inputs.bfloat16(), labels)
    saved = copy.deepcopy((optimizer.state_dict(), adapter.training_state("task")))
    found = []
    for _ in range(2):
        for inputs, labels in batches[3:]:
            step(adapter.network, optimizer, inputs.bfloat16(), labels)
        found.append(copy.deepcopy(optimizer.state_dict()["state"]))
        adapter.load_training_state("task", saved[1])
        optimizer = adapter.optimizer(weight_lr=1e-4)
        optimizer.load_state_dict(saved[0])
    for number, state in found[0].items():
        for key, value in state.items():
            assert torch.equal(value, found[1][number][key])
            assert value.dtype == torch.float32


# -- norm layers ----------------------------------------------------------------------------------------------


class OwnNorm(nn.Module):
    """A batch norm of a user's own, by torch's function or by hand."""

    def __init__(self, channels: int, *, by_hand: bool) -> None:
        super().__init__()
        self.by_hand = by_hand
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        if not self.by_hand:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training)
        scale = self.weight / (self.running_var + 1e-5).sqrt()
        return (x - self.running_mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]


@pytest.mark.parametrize("norm", ["statistics", "trained"])
@pytest.mark.parametrize("dtype", HALF)
def test_running_statistics_are_averaged_in_float32(half_adapter: Callable, dtype: torch.dtype, norm: str) -> None:
    adapter = half_adapter(dtype=dtype, norm=norm)
    layer = adapter.network.bn1
    assert {t.dtype for t in (layer.weight, layer.running_mean, layer.running_var)} == {torch.float32}
    with torch.no_grad():
        layer.running_var.fill_(1.0)
    adapter.train()
    features = torch.randn(64, 8, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = torch.tensor(1.0)
    for _ in range(5):
        layer(features)
        expected = 0.9 * expected + 0.1 * features.float().var(dim=(0, 2, 3))
    torch.testing.assert_close(layer.running_var, expected, rtol=1e-3, atol=0)
    assert not torch.equal(layer.running_var, layer.running_var.to(dtype).float())


def test_fixed_norm_layers_keep_the_types_that_they_came_with(
    make_network: Callable, make_head: Callable, half_adapter: Callable
) -> None:
    assert half_adapter().network.bn1.running_mean.dtype == torch.bfloat16
    network = make_network().bfloat16()
    network.bn1.float()
    adapter = piggyback.attach(network, method=piggyback.Binary(), head="head")
    for norm in ("fixed", "trained", "fixed"):
        adapter.add_task(f"{len(adapter.tasks)}", head=make_head(len(adapter.tasks)), norm=norm)
        assert network.bn1.weight.dtype == torch.float32
        assert network.bn2.weight.dtype == (torch.float32 if norm == "trained" else torch.bfloat16)
    adapter.base()
    assert (network.bn1.weight.dtype, network.bn2.running_var.dtype) == (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("by_hand", [False, True])
def test_norm_layers_of_a_users_own(make_network: Callable, make_head: Callable, *, by_hand: bool) -> None:
    network = make_network()
    network.bn1 = OwnNorm(8, by_hand=by_hand)
    network.bfloat16()
    adapter = piggyback.attach(network, method=piggyback.Binary(), head="head", norm="trained")
    adapter.add_task("task", head=make_head(0))
    adapter.train()
    inputs, labels = pattern_batches(1, seed=0)[0]
    optimizer = adapter.optimizer(update="eager")
    step(network, optimizer, inputs.bfloat16(), labels)
    assert network.bn1.running_mean.dtype == torch.float32
    assert adapter.network[:2](inputs.bfloat16()).dtype == torch.bfloat16
    adapter.base()
    assert network.bn1.running_mean.dtype == torch.bfloat16


def test_a_layer_norm_has_no_statistics_and_keeps_its_type(make_head: Callable) -> None:
    network = nn.Sequential(nn.Linear(6, 24), nn.LayerNorm(24), nn.ReLU(), nn.Linear(24, 4)).bfloat16()
    adapter = piggyback.attach(network, method=piggyback.Binary(), head="3", norm="trained")
    adapter.add_task("task", head=make_head(0))
    optimizer = adapter.optimizer(norm_lr=1e-4, update="eager")
    for _ in range(10):
        step(network, optimizer, torch.ones(2, 6).bfloat16(), torch.tensor([0, 1]))
    assert network[1].weight.dtype == torch.bfloat16
    assert optimizer.state[network[1].weight]["master"].dtype == torch.float32


# -- heads ----------------------------------------------------------------------------------------------------


def test_a_float32_head_stays_float32_and_takes_half_precision_features(
    half_adapter: Callable, make_network: Callable
) -> None:
    adapter = half_adapter()
    network, inputs = adapter.network, torch.ones(2, 3, 8, 8).bfloat16()
    head = network.head
    assert {p.dtype for p in head.parameters()} == {torch.float32}
    logits = network(inputs)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, head(network[:-1](inputs).float()))
    assert list(network.state_dict()) == list(make_network().state_dict())
    for copied in (copy.deepcopy(network), pickle.loads(pickle.dumps(network)), adapter.merged("task")):
        assert torch.equal(copied(inputs), logits)


def test_a_head_in_half_precision_stays_so(make_network: Callable, make_head: Callable) -> None:
    network = make_network()
    adapter = piggyback.attach(network, method=piggyback.Binary(), head="head")
    adapter.add_task("task", head=make_head(0).bfloat16())
    optimizer = adapter.optimizer(head_lr=1e-6, update="eager")
    inputs, labels = pattern_batches(1, seed=0)[0]
    step(network, optimizer, inputs, labels)
    assert network.head.weight.dtype == torch.bfloat16
    assert optimizer.state[network.head.weight]["exp_avg"].dtype == torch.float32
    adapter.base()
    assert network(inputs).dtype == torch.float32


def test_the_networks_own_float32_head_is_as_it_was(make_network: Callable, make_head: Callable) -> None:
    network = make_network().bfloat16()
    network.head = make_network().head
    own, values = network.head, network.head.weight.detach().clone()
    adapter = piggyback.attach(network, method=piggyback.Binary(), head="head")
    inputs = torch.ones(2, 3, 8, 8).bfloat16()
    logits = network(inputs)
    adapter.add_task("task", head=make_head(0))
    adapter.base()
    assert network.head is own
    assert torch.equal(own.weight, values)
    assert own.weight.dtype == torch.float32
    assert torch.equal(network(inputs), logits)


class CastingNetwork(nn.Module):
    """Casts its features itself, and gives them by name in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(6, 24)
        self.head: nn.Module = ListHead()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(features=[self.trunk(x), torch.tensor(1)])


class ListHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(24, 4)

    def forward(self, *, features: list[Tensor]) -> Tensor:
        assert features[1].dtype == torch.int64
        return self.layer(features[0])


def test_features_in_a_list_given_by_name() -> None:
    network = CastingNetwork().bfloat16()
    adapter = piggyback.attach(network, method=piggyback.Binary(), head="head")
    adapter.add_task("task", head=ListHead())
    assert network(torch.ones(2, 6).bfloat16()).dtype == torch.float32


def test_a_float32_head_in_a_compiled_network(half_adapter: Callable, make_head: Callable) -> None:
    adapter = half_adapter()
    adapter.eval()
    inputs = torch.ones(2, 3, 8, 8).bfloat16()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.compiler.reset()
        compiled = torch.compile(adapter.network, backend="aot_eager", fullgraph=True)
        with torch.no_grad():
            first = compiled(inputs)
            adapter.add_task("half", head=make_head(1).bfloat16())
            assert compiled(inputs).dtype == torch.bfloat16
            adapter.switch("task")
            again = compiled(inputs)
    assert first.dtype == torch.float32
    assert torch.equal(first, again)
    assert torch.equal(first, adapter.network(inputs))


def test_autocast_decides_by_itself(make_network: Callable, make_head: Callable) -> None:
    """A float32 network under autocast has bfloat16 features, and nothing of ours comes between."""
    adapter = piggyback.attach(make_network(), method=piggyback.Binary(), head="head")
    adapter.add_task("task", head=make_head(0))
    assert not adapter.network.head._forward_pre_hooks
    half = piggyback.attach(make_network().bfloat16(), method=piggyback.Binary(), head="head")
    half.add_task("task", head=make_head(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert half.network(torch.ones(2, 3, 8, 8)).dtype == torch.bfloat16


def test_a_network_that_becomes_half_precision_later(make_network: Callable, make_head: Callable) -> None:
    network = make_network()
    adapter = piggyback.attach(network, method=piggyback.Binary(), head="head", norm="trained")
    adapter.add_task("a", head=make_head(0))
    adapter.add_task("b", head=make_head(1))
    optimizer = adapter.optimizer(mask_lr=1e-3, update="eager")
    adapter.train()
    inputs, labels = pattern_batches(1, seed=0)[0]
    step(network, optimizer, inputs, labels)
    network.bfloat16()
    for _ in range(2):  # moments, masters and statistics go along
        step(network, optimizer, inputs.bfloat16(), labels)
    assert network.bn1.running_mean.dtype == torch.float32
    assert network.head.weight.dtype == torch.bfloat16
    state = adapter.task("b").trained["conv1.weight"]["mask_real"]
    assert state.dtype == torch.float32
    adapter.switch("a")  # its head was float32 as the whole network was, and becomes what that became
    assert network.head.weight.dtype == torch.bfloat16
    network.float()
    adapter.base()
    assert {t.dtype for t in network.state_dict().values() if t.is_floating_point()} == {torch.float32}
    adapter.switch("b")
    step(network, optimizer, inputs, labels)
    assert all(torch.equal(adapter.frozen[n], make_network().state_dict()[n]) for n in adapter.anatomy.weights)


# -- files ----------------------------------------------------------------------------------------------------


def halve_values(path: Path) -> None:
    """Rewrite a payload's numbers in bfloat16, as versions before wrote those of half-precision networks."""
    with safe_open(path, framework="pt") as file:
        header = file.metadata()[KEY]
    tensors = {
        name: t.bfloat16() if t.is_floating_point() and not name.startswith("head") else t
        for name, t in load_file(path).items()
    }
    digest = header[header.rindex('"sha256": "') + len('"sha256": "') :][:64]
    save_file(tensors, path, metadata={KEY: header.replace(digest, BLANK)})
    path.write_bytes(seal(path.read_bytes()))


@pytest.mark.parametrize("name", ["affine", "ksm", "dan", "parallel", "packnet", "series", "norm", "finetune"])
def test_payloads_with_numbers_in_half_precision_are_read(
    half_adapter: Callable, make_ground: Callable, tmp_path: Path, name: str
) -> None:
    adapter = half_adapter(name)
    optimizer = adapter.optimizer(mask_lr=1e-2, update="eager")
    for inputs, labels in pattern_batches(5, seed=0):
        step(adapter.network, optimizer, inputs.bfloat16(), labels)
    path = tmp_path / "task.safetensors"
    adapter.save(path, task="task")
    adapter.eval()
    expected = adapter.network(inputs.bfloat16())
    halve_values(path)
    other = piggyback.attach(make_ground(METHODS[name]).bfloat16(), method=METHODS[name], head="head")
    other.load(path)
    other.eval()
    torch.testing.assert_close(other.network(inputs.bfloat16()), expected, rtol=0.1, atol=0.1)
    state = other.task("task")
    kept = [part for name in state.kept for part in state.kept_of(name).values()]
    assert all(part.dtype == torch.float32 for part in kept if part.is_floating_point())
