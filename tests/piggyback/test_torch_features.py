"""What torch's own machinery does with an adapted network, and with its optimizer."""

import copy
import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

import piggyback
from piggyback import Adapter, SGDRule
from piggyback.optimizer import AdapterOptimizer

LR = 2e-3
STEPS = 20


@pytest.fixture
def begin(make_network: Callable, make_head: Callable) -> Callable[..., tuple[Adapter, AdapterOptimizer]]:
    """An adapter in training with a fresh task, and its optimizer."""

    def build(*, double: bool = False, update: str = "eager", **options: object) -> tuple[Adapter, AdapterOptimizer]:
        network = make_network().double() if double else make_network()
        adapter = piggyback.attach(network, method=piggyback.Binary(), head="head", norm="fixed")
        adapter.add_task("task", head=make_head(0).double() if double else make_head(0))  # a head keeps its type
        adapter.train()
        return adapter, adapter.optimizer(mask_lr=LR, head_lr=LR, update=update, **options)

    return build


@contextmanager
def compiler_warnings() -> Iterator[None]:
    """Inductor warns about the machine, such as one without a GPU; that is not ours to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.compiler.reset()
        yield


def real_masks(adapter: Adapter, task: str = "task") -> dict[str, Tensor]:
    return {name: trained["mask_real"].clone() for name, trained in adapter.task(task).trained.items()}


def test_a_compiled_network_sees_every_switch(moved_masks: Callable) -> None:
    """Weights are written in place: one graph serves all tasks, and none keeps a stale weight."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 8))
    adapter = piggyback.attach(network, method=piggyback.Binary())
    inputs = torch.randn(32, 12)
    for seed, name in enumerate("ab"):
        adapter.add_task(name)
        optimizer = adapter.optimizer(mask_lr=LR, update="eager")
        targets = torch.randn(32, 8, generator=torch.Generator().manual_seed(seed))
        for _ in range(STEPS):
            optimizer.zero_grad()
            F.mse_loss(network(inputs), targets).backward()
            optimizer.step()
        moved_masks(adapter, name)
    graphs = []

    def counting(graph: torch.fx.GraphModule, example: list[Tensor]) -> Callable:
        graphs.append(graph)
        return torch._inductor.compile(graph, example)

    with compiler_warnings(), torch.no_grad():
        compiled = torch.compile(network, backend=counting)
        seen = {}
        for name in ("a", "b", "a"):
            adapter.switch(name)
            logits = compiled(inputs)
            torch.testing.assert_close(logits, network(inputs), rtol=1e-5, atol=1e-6)
            assert torch.equal(logits, seen.setdefault(name, logits))
        assert len(graphs) == 1
        adapter.base()  # its parameters need no gradient, so this may be a graph of its own
        torch.testing.assert_close(compiled(inputs), network(inputs), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(seen["a"], seen["b"])


def test_a_compiled_network_trains_and_changes_heads(
    begin: Callable, make_head: Callable, make_batches: Callable, run_steps: Callable, moved_masks: Callable
) -> None:
    batches = make_batches(STEPS, dtype=torch.float64)
    plain, plain_optimizer = begin(double=True)
    run_steps(plain.network, plain_optimizer, batches)
    adapter, optimizer = begin(double=True)
    with compiler_warnings():
        compiled = torch.compile(adapter.network, backend="aot_eager")
        run_steps(compiled, optimizer, batches)
        expected = moved_masks(plain, "task")
        found = moved_masks(adapter, "task")
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        adapter.add_task("other", head=nn.Linear(24, 9))
        assert compiled(batches[0][0]).shape == (16, 9)
        torch.testing.assert_close(compiled(batches[0][0]), adapter.network(batches[0][0]))


@pytest.mark.parametrize("update", ["eager", "compiled"])
def test_bf16_autocast_trains(begin: Callable, make_batches: Callable, moved_masks: Callable, update: str) -> None:
    adapter, optimizer = begin(update=update)
    inputs, targets = make_batches(1)[0]
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = adapter.network(inputs)
            loss = F.cross_entropy(logits, targets)
        assert logits.dtype == torch.bfloat16
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    moved_masks(adapter, "task")
    assert losses[-1] < losses[0] - 0.05  # noise with random labels is learned slowly
    assert all(tensor.dtype == torch.float32 for tensor in real_masks(adapter).values())


@pytest.mark.parametrize("update", ["eager", "compiled"])
def test_channels_last_gives_the_same_masks_and_lines_up_in_memory(
    begin: Callable, make_batches: Callable, run_steps: Callable, moved_masks: Callable, update: str
) -> None:
    batches = make_batches(STEPS, dtype=torch.float64)
    plain, plain_optimizer = begin(double=True)
    run_steps(plain.network, plain_optimizer, batches)
    adapter, optimizer = begin(double=True, update=update)
    run_steps(adapter.network, optimizer, batches[:5])
    adapter.network.to(memory_format=torch.channels_last)  # in the middle of a training, and after attach
    last = [(inputs.contiguous(memory_format=torch.channels_last), targets) for inputs, targets in batches[5:]]
    run_steps(adapter.network, optimizer, last)

    parameter = adapter.network.conv2.weight
    assert parameter.stride() != plain.network.conv2.weight.stride()
    state = optimizer.state[parameter]
    assert state["mask_real"] is adapter.task("task").trained["conv2.weight"]["mask_real"]
    for tensor in (adapter.frozen["conv2.weight"], *(value for key, value in state.items() if key != "step")):
        assert tensor.stride() == parameter.stride()
    expected, found = moved_masks(plain, "task"), moved_masks(adapter, "task")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    for name, real in real_masks(plain).items():
        torch.testing.assert_close(real_masks(adapter)[name], real, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["affine", "ksm", "packnet", "parallel", "dan", "series"])
def test_channels_last_in_the_middle_of_a_training(
    name: str, make_ground: Callable, make_head: Callable, make_batches: Callable, run_steps: Callable
) -> None:
    """Also where what is trained is not of the weight's shape, so that it keeps a layout of its own."""
    batches, trained = make_batches(10, dtype=torch.float64), []
    for last in (False, True):
        method = piggyback.METHODS[name]
        adapter = piggyback.attach(make_ground(method).double(), method=method, head="head")
        adapter.add_task("task", head=make_head(0))
        adapter.train()
        optimizer = adapter.optimizer(mask_lr=LR, update="eager")
        run_steps(adapter.network, optimizer, batches[:5])
        if last:
            adapter.network.to(memory_format=torch.channels_last)
        run_steps(adapter.network, optimizer, batches[5:])
        trained.append(adapter.network.state_dict())
        assert (adapter.network.conv2.weight.stride(1) == 1) == last
    assert trained[0].keys() == trained[1].keys()
    for key, tensor in trained[0].items():
        torch.testing.assert_close(trained[1][key], tensor, rtol=0, atol=1e-9)


def test_two_half_batches_are_a_whole_one(
    begin: Callable, make_batches: Callable, run_steps: Callable, moved_masks: Callable
) -> None:
    batches = make_batches(STEPS, dtype=torch.float64)
    whole, optimizer = begin(double=True)
    run_steps(whole.network, optimizer, batches)
    halves, optimizer = begin(double=True)
    for inputs, targets in batches:
        optimizer.zero_grad()
        for part in (slice(0, 8), slice(8, 16)):
            (F.cross_entropy(halves.network(inputs[part]), targets[part]) / 2).backward()
        optimizer.step()
    expected, found = moved_masks(whole, "task"), moved_masks(halves, "task")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    for name, real in real_masks(whole).items():
        torch.testing.assert_close(real_masks(halves)[name], real, rtol=0, atol=1e-9)


def test_a_copy_of_the_adapter_is_independent(
    begin: Callable, make_batches: Callable, run_steps: Callable, moved_masks: Callable
) -> None:
    batches = make_batches(2 * STEPS)
    adapter, optimizer = begin()
    run_steps(adapter.network, optimizer, batches[:5])
    twin = copy.deepcopy(adapter)
    assert twin.network is not adapter.network
    reals = real_masks(adapter)
    logits = adapter.network(batches[0][0])
    run_steps(twin.network, twin.optimizer(mask_lr=LR, update="eager"), batches[5:])
    moved_masks(twin, "task")
    assert all(torch.equal(real, reals[name]) for name, real in real_masks(adapter).items())
    assert torch.equal(adapter.network(batches[0][0]), logits)
    with torch.no_grad():
        twin.frozen["conv1.weight"].zero_()
    adapter.base()
    adapter.switch("task")
    assert torch.equal(adapter.network(batches[0][0]), logits)


def test_a_copy_of_the_network_is_a_plain_network_at_the_current_task(
    begin: Callable, make_batches: Callable, run_steps: Callable, moved_masks: Callable
) -> None:
    batches = make_batches(STEPS + 1)
    adapter, optimizer = begin()
    run_steps(adapter.network, optimizer, batches[1:])
    moved_masks(adapter, "task")
    plain = copy.deepcopy(adapter.network)
    expected = adapter.network(batches[0][0])
    adapter.base()
    assert torch.equal(plain(batches[0][0]), expected)
    assert b"piggyback" not in pickle.dumps(plain)


def test_a_change_of_the_data_type_is_followed_from_the_exact_weights(
    begin: Callable, make_head: Callable, make_batches: Callable, run_steps: Callable, moved_masks: Callable
) -> None:
    batches = make_batches(STEPS + 1)
    adapter, optimizer = begin()
    run_steps(adapter.network, optimizer, batches[1:])
    moved_masks(adapter, "task")
    adapter.add_task("other", head=make_head(1))
    adapter.switch("task")
    inputs, targets = batches[0]
    trunk = adapter.network[:-1](inputs)
    for dtype in (torch.bfloat16, torch.float64):  # by way of bf16: what W lost there must come back
        adapter.network.to(dtype)
        for name in ("other", "task"):  # each head comes along
            adapter.switch(name)
            assert adapter.network(inputs.to(dtype)).dtype == dtype
    for name in adapter.anatomy.weights:
        mask = adapter.task("task").kept_of(name)["mask"]
        expected = torch.where(mask, adapter.frozen[name], 0.0).double()
        assert torch.equal(adapter.network.get_parameter(name), expected)
    before = real_masks(adapter)
    double = adapter.optimizer(mask_lr=1e-7, head_lr=LR, update="eager")  # too small a step to flip a bit
    run_steps(adapter.network, double, [(inputs.double(), targets)])
    after = real_masks(adapter)
    assert all(after[name].dtype == torch.float32 and not torch.equal(after[name], before[name]) for name in before)
    adapter.network.float()
    adapter.switch("task")
    assert torch.equal(adapter.network[:-1](inputs), trunk)


def test_real_masks_of_a_network_in_half_precision_resume_exactly(begin: Callable, make_batches: Callable) -> None:
    """torch casts an optimizer's state to the type of its parameters when it loads it."""
    adapter, optimizer = begin()
    adapter.network.bfloat16()
    inputs, targets = make_batches(1)[0]
    for _ in range(5):
        optimizer.zero_grad()
        F.cross_entropy(adapter.network(inputs.bfloat16()).float(), targets).backward()
        optimizer.step()
    expected = real_masks(adapter)
    saved = copy.deepcopy(optimizer.state_dict())
    for trained in adapter.task("task").trained.values():
        trained["mask_real"].zero_()
    optimizer.load_state_dict(saved)
    for name, real in real_masks(adapter).items():
        assert real.dtype == torch.float32
        assert torch.equal(real, expected[name])
        assert not torch.equal(real, real.bfloat16().float())
        moments = optimizer.state[adapter.network.get_parameter(name)]
        assert moments["mask_real.exp_avg"].dtype == torch.float32


def test_a_scheduler_drives_the_rates_of_all_groups(begin: Callable, make_batches: Callable) -> None:
    adapter, optimizer = begin(norm_lr=3e-3)
    scheduler = LambdaLR(optimizer, lambda step: 1.0 if step < 2 else 0.0)
    inputs, targets = make_batches(1)[0]
    reals = [real_masks(adapter)["conv1.weight"]]
    heads = [adapter.network.head.weight.detach().clone()]
    for _ in range(4):
        optimizer.zero_grad()
        F.cross_entropy(adapter.network(inputs), targets).backward()
        optimizer.step()
        scheduler.step()
        reals.append(real_masks(adapter)["conv1.weight"])
        heads.append(adapter.network.head.weight.detach().clone())
    for series in (reals, heads):
        assert [torch.equal(a, b) for a, b in pairwise(series)] == [False, False, True, True]
    # Adam's first step has the size of the learning rate wherever the gradient is not tiny
    torch.testing.assert_close((reals[1] - reals[0]).abs().max(), torch.tensor(LR), rtol=1e-3, atol=0)


def test_grad_scaler_scales_and_skips(
    begin: Callable, make_batches: Callable, run_steps: Callable, moved_masks: Callable
) -> None:
    batches = make_batches(STEPS, dtype=torch.float64)
    plain, plain_optimizer = begin(double=True)
    run_steps(plain.network, plain_optimizer, batches)
    adapter, optimizer = begin(double=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for inputs, targets in batches:
        optimizer.zero_grad()
        scaler.scale(F.cross_entropy(adapter.network(inputs), targets)).backward()
        scaler.step(optimizer)
        scaler.update()
    expected, found = moved_masks(plain, "task"), moved_masks(adapter, "task")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    for name, real in real_masks(plain).items():  # a power of two: scaling and unscaling cost no bit
        assert torch.equal(real_masks(adapter)[name], real)

    before = {name: tensor.clone() for name, tensor in adapter.network.state_dict().items()}
    inputs, targets = batches[0]
    optimizer.zero_grad()
    scaler.scale(F.cross_entropy(adapter.network(inputs), targets)).backward()
    adapter.network.conv2.weight.grad[0, 0, 0, 0] = float("inf")
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 512.0
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapter.network.state_dict().items())
    for name, real in real_masks(plain).items():
        assert torch.equal(real_masks(adapter)[name], real)


def test_clipping_acts_on_the_gradient_of_the_effective_weights(begin: Callable, make_batches: Callable) -> None:
    adapter, optimizer = begin(rule=SGDRule(momentum=0.0))
    inputs, targets = make_batches(1)[0]
    before = real_masks(adapter)
    F.cross_entropy(adapter.network(inputs), targets).backward()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    whole = nn.utils.clip_grad_norm_(parameters, 1e-3)
    assert whole > 1e-2
    clipped = {name: adapter.network.get_parameter(name).grad.clone() for name in before}
    norms = [parameter.grad.square().sum() for parameter in parameters if parameter.grad is not None]
    torch.testing.assert_close(torch.stack(norms).sum().sqrt(), torch.tensor(1e-3), rtol=1e-3, atol=0)
    optimizer.step()
    for name, real in real_masks(adapter).items():
        assert torch.equal(real, before[name].sub(clipped[name] * adapter.frozen[name], alpha=LR))
        assert not torch.equal(real, before[name])


def test_momentum_begins_when_a_gradient_first_comes(make_network: Callable, make_head: Callable) -> None:
    """As with stochastic depth: torch's fused kernel wants momentum for all parameters or for none."""
    adapter = piggyback.attach(make_network(), method=piggyback.Finetune(), head="head")
    adapter.add_task("task", head=make_head(0))
    optimizer = adapter.optimizer(weight_lr=0.1, head_lr=0.1, rule=SGDRule(momentum=0.5))
    weight = adapter.network.conv1.weight
    before = weight.detach().clone()
    adapter.network.hidden.weight.grad = torch.ones_like(adapter.network.hidden.weight)
    optimizer.step()
    assert torch.equal(weight, before)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), before - 0.1)
    optimizer.step()  # the same gradient again: 0.1 (1 + 0.5)
    torch.testing.assert_close(weight.detach(), before - 0.25)
