"""What others bring to an adapted network: loops of other packages, averages, copies, exports, threads."""

import copy
import io
import pickle
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint
from torchvision import models

import piggyback
from piggyback import Adapter
from piggyback.optimizer import AdapterOptimizer
from piggyback.shell.errors import NotTrainable

LR = 2e-3
STEPS = 20

Begin = Callable[..., tuple[Adapter, AdapterOptimizer]]


@pytest.fixture
def begin(make_network: Callable, make_head: Callable) -> Begin:
    """An adapter in training with a fresh task, and its optimizer."""

    def build(*, method: str = "piggyback", norm: str = "fixed") -> tuple[Adapter, AdapterOptimizer]:
        adapter = piggyback.attach(make_network(), method=piggyback.METHODS[method], head="head", norm=norm)
        adapter.add_task("task", head=make_head(0))
        adapter.train()
        return adapter, adapter.optimizer(mask_lr=LR, head_lr=LR, update="eager")

    return build


@contextmanager
def third_party_warnings() -> Iterator[None]:
    """Torch announces successors of its own parts; the rows of these tests say which parts they are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def everything_of(adapter: Adapter) -> dict[str, Tensor]:
    """Copies of what the network shows and of the real masks behind it."""
    reals = {f"real {name}": parts["mask_real"] for name, parts in adapter.task("task").trained.items()}
    return {name: tensor.clone() for name, tensor in {**adapter.network.state_dict(), **reals}.items()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name, tensor in expected.items() if not torch.equal(found[name], tensor)] == []


# -- loops of other packages ------------------------------------------------------------------------------


def test_a_step_with_a_closure_is_a_step_after_it(
    begin: Begin, make_batches: Callable, run_steps: Callable, moved_masks: Callable
) -> None:
    """Lightning's automatic optimization: ``optimizer.step(closure=...)`` does forward and backward in the closure."""
    batches = make_batches(STEPS)
    plain, plain_optimizer = begin()
    run_steps(plain.network, plain_optimizer, batches)
    adapter, optimizer = begin()
    for inputs, targets in batches:

        def closure(inputs: Tensor = inputs, targets: Tensor = targets) -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(adapter.network(inputs), targets)
            loss.backward()
            return loss

        assert optimizer.step(closure=closure).requires_grad
    moved_masks(adapter, "task")
    assert_same(everything_of(adapter), everything_of(plain))


def test_parameters_that_a_loop_switches_off_and_on(
    begin: Begin, make_batches: Callable, run_steps: Callable, moved_masks: Callable
) -> None:
    """Lightning's ``toggle_optimizer``: what other optimizers hold asks for no gradient meanwhile."""
    batches = make_batches(STEPS)
    plain, plain_optimizer = begin()
    run_steps(plain.network, plain_optimizer, batches)
    adapter, optimizer = begin()
    asking = {parameter: parameter.requires_grad for parameter in adapter.network.parameters()}
    run_steps(adapter.network, optimizer, batches[:10])
    before = everything_of(adapter)
    for parameter in asking:
        parameter.requires_grad_(False)
    optimizer.zero_grad()
    optimizer.step()  # nothing has a gradient
    assert_same(everything_of(adapter), before)
    for parameter, asks in asking.items():
        parameter.requires_grad_(asks)
    run_steps(adapter.network, optimizer, batches[10:])
    moved_masks(adapter, "task")
    assert_same(everything_of(adapter), everything_of(plain))


class Wrapper(torch.optim.Optimizer):
    """The form of ``accelerate.optimizer.AcceleratedOptimizer``: an optimizer that has no parameters of its own."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self.inner = inner
        inner.load_state_dict(inner.state_dict())  # accelerate does so, to bring the state to the device

    @property
    def state(self) -> dict:
        return self.inner.state

    @property
    def param_groups(self) -> list:
        return self.inner.param_groups

    @property
    def defaults(self) -> dict:
        return self.inner.defaults

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.inner.zero_grad(set_to_none=set_to_none)

    def step(self, closure: None = None) -> None:
        self.inner.step(closure)


def test_an_optimizer_in_a_wrapper_that_skips_steps(
    begin: Begin, make_batches: Callable, run_steps: Callable, moved_masks: Callable
) -> None:
    """Accelerate: the wrapper steps at the last batch of an accumulation, and schedulers hold the optimizer inside."""
    batches = make_batches(STEPS)
    plain, plain_optimizer = begin()
    schedule = CosineAnnealingLR(plain_optimizer, STEPS)
    for inputs, targets in batches:
        run_steps(plain.network, plain_optimizer, [(inputs, targets)])
        schedule.step()
    adapter, optimizer = begin()
    wrapper, schedule = Wrapper(optimizer), CosineAnnealingLR(optimizer, STEPS)
    for inputs, targets in batches:
        for part in (slice(0, 8), slice(8, 16)):
            (F.cross_entropy(adapter.network(inputs[part]), targets[part]) / 2).backward()
        wrapper.step()
        schedule.step()
        wrapper.zero_grad()
    expected, found = moved_masks(plain, "task"), moved_masks(adapter, "task")
    for name, mask in expected.items():  # sums of halves round otherwise
        assert (mask == found[name]).double().mean() > 0.99
    assert optimizer.param_groups[0]["lr"] == plain_optimizer.param_groups[0]["lr"] < LR / 10


class Trained(nn.Module):
    """What a user hands to a trainer that calls ``train()`` on its own: the mode goes through the adapter."""

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        self.network = adapter.network
        object.__setattr__(self, "adapter", adapter)  # no part of this module

    def train(self, mode: bool = True) -> "Trained":
        super().train(mode)
        self.adapter.train(mode)
        return self

    def forward(self, inputs: Tensor) -> Tensor:
        return self.network(inputs)


def test_a_trainer_that_calls_train_itself(begin: Begin, make_batches: Callable, run_steps: Callable) -> None:
    """Hugging Face's Trainer does so before every step, Lightning at the start of a fit."""
    adapter, optimizer = begin()
    model = Trained(adapter)
    for batch in make_batches(3):
        model.train()
        assert adapter.network.conv1.training
        run_steps(model, optimizer, [batch])
    with pytest.raises(NotTrainable, match=r"call adapter\.train\(\)"):
        run_steps(nn.Sequential(adapter.network).train(), optimizer, make_batches(1))


def test_a_trainer_resumes_from_state_dicts(
    begin: Begin, make_batches: Callable, run_steps: Callable, moved_masks: Callable
) -> None:
    """Lightning and Hugging Face load the model's state dict first, then the optimizer's: into a fresh adapter."""
    batches = make_batches(2 * STEPS)
    adapter, optimizer = begin(norm="trained")
    run_steps(adapter.network, optimizer, batches[:STEPS])
    saved = copy.deepcopy((adapter.network.state_dict(), optimizer.state_dict()))
    run_steps(adapter.network, optimizer, batches[STEPS:])
    resumed, other = begin(norm="trained")
    resumed.network.load_state_dict(saved[0])
    other.load_state_dict(saved[1])
    moved_masks(resumed, "task")
    run_steps(resumed.network, other, batches[STEPS:])
    assert_same(everything_of(resumed), everything_of(adapter))


# -- numbers, memory and averages -------------------------------------------------------------------------


def test_fp16_autocast_with_a_scaler_trains(begin: Begin, make_batches: Callable, moved_masks: Callable) -> None:
    adapter, optimizer = begin()
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    inputs, targets = make_batches(1)[0]
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            logits = adapter.network(inputs)
            loss = F.cross_entropy(logits, targets)
        assert logits.dtype == torch.float16
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(adapter.network.parameters(), 10.0)
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    moved_masks(adapter, "task")
    assert losses[-1] < losses[0] - 0.02
    assert all(parts["mask_real"].dtype == torch.float32 for parts in adapter.task("task").trained.values())


class Checkpointed(nn.Module):
    """A network of which a part is computed again in the backward pass."""

    def __init__(self, network: nn.Sequential, *, reentrant: bool) -> None:
        super().__init__()
        self.network, self.reentrant = network, reentrant

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = checkpoint(self.network[:6], inputs, use_reentrant=self.reentrant)
        return self.network[6:](hidden)


def test_gradient_checkpointing_learns_the_same(
    begin: Begin, make_batches: Callable, run_steps: Callable, moved_masks: Callable
) -> None:
    batches = make_batches(STEPS)
    plain, plain_optimizer = begin()
    run_steps(plain.network, plain_optimizer, batches)
    adapter, optimizer = begin()
    run_steps(Checkpointed(adapter.network, reentrant=False), optimizer, batches)
    moved_masks(adapter, "task")
    assert_same(everything_of(adapter), everything_of(plain))


def test_reentrant_checkpointing_of_the_first_layers_is_warned_of(
    begin: Begin, make_batches: Callable, run_steps: Callable
) -> None:
    """As on any network: inputs ask for no gradient, so torch computes none behind them, and says so."""
    adapter, optimizer = begin()
    before = everything_of(adapter)
    with pytest.warns(UserWarning, match="None of the inputs have requires_grad=True"):
        run_steps(Checkpointed(adapter.network, reentrant=True), optimizer, make_batches(1))
    after = everything_of(adapter)
    assert torch.equal(after["real conv1.weight"], before["real conv1.weight"])
    assert not torch.equal(after["real hidden.weight"], before["real hidden.weight"])


def test_an_average_of_weights_is_a_plain_network_between_masks(
    begin: Begin, make_batches: Callable, run_steps: Callable, moved_masks: Callable
) -> None:
    """An average of effective weights is no task: where a mask flipped, it lies between 0 and the weight."""
    batches = make_batches(STEPS)
    adapter, optimizer = begin()
    average = AveragedModel(adapter.network, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    expected = adapter.network.conv1.weight.detach().clone()
    run_steps(adapter.network, optimizer, batches, before_step=lambda: average.update_parameters(adapter.network))
    average.update_parameters(adapter.network)
    moved_masks(adapter, "task")
    trained = everything_of(adapter)
    averaged, frozen = average.module.conv1.weight, adapter.frozen["conv1.weight"]
    between = (averaged != 0) & (averaged != frozen)
    assert 0 < between.double().mean() < 1
    assert ((averaged / frozen)[between] > -1e-6).all()
    assert ((averaged / frozen)[between] < 1 + 1e-6).all()
    assert not torch.equal(averaged, expected)
    logits = average(batches[0][0])
    adapter.base()
    assert torch.equal(average(batches[0][0]), logits)  # it has its own head and its own weights
    adapter.switch("task")
    assert_same(everything_of(adapter), trained)


# -- wrappers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["piggyback", "series"])
def test_data_parallel_around_a_task_sees_every_switch(
    method: str, begin: Begin, make_head: Callable, make_batches: Callable, run_steps: Callable
) -> None:
    """Without GPUs it calls the module; that replicas on several do the same is not tried."""
    batches = make_batches(5)
    plain, plain_optimizer = begin(method=method)
    run_steps(plain.network, plain_optimizer, batches)
    adapter, optimizer = begin(method=method)
    wrapped = nn.DataParallel(adapter.network)
    run_steps(wrapped, optimizer, batches)
    assert_same(adapter.network.state_dict(), plain.network.state_dict())
    adapter.add_task("other", head=make_head(1))
    for name in ("task", "other"):
        adapter.switch(name)
        assert torch.equal(wrapped(batches[0][0]), adapter.network(batches[0][0]))


def test_a_network_compiled_in_place_before_attach(
    begin: Begin, make_network: Callable, make_head: Callable, make_batches: Callable, run_steps: Callable
) -> None:
    batches = make_batches(5)
    plain, plain_optimizer = begin()
    run_steps(plain.network, plain_optimizer, batches)
    graphs = []

    def counting(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable:
        graphs.append(graph)
        return graph.forward

    network = make_network()
    torch.compiler.reset()
    with third_party_warnings():
        network.compile(backend=counting)
        adapter = piggyback.attach(network, method=piggyback.Binary(), head="head", norm="fixed")
        adapter.add_task("task", head=make_head(0))
        adapter.train()
        run_steps(network, adapter.optimizer(mask_lr=LR, head_lr=LR, update="eager"), batches)
    assert graphs
    assert_same(everything_of(adapter), everything_of(plain))


def test_the_fast_path_of_attention_computes_with_the_task() -> None:
    """In evaluation mode a whole encoder layer is one kernel that reads the parameters itself."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
    adapter = piggyback.attach(nn.Sequential(layer, nn.Linear(16, 4)), method=piggyback.Binary(), head="1")
    inputs, targets = torch.randn(8, 5, 16), torch.randint(0, 4, (8,))
    seen = {}
    for name in "ab":
        adapter.add_task(name, head=nn.Linear(16, 4))
        adapter.train()
        optimizer = adapter.optimizer(mask_lr=LR, update="eager")
        for _ in range(STEPS):
            optimizer.zero_grad()
            F.cross_entropy(adapter.network(inputs).mean(1), targets).backward()
            optimizer.step()
        targets = targets.flip(0)
    adapter.eval()
    with torch.no_grad():
        for name in "ab":
            adapter.switch(name)
            for fast in (True, False):
                torch.backends.mha.set_fastpath_enabled(fast)
                seen[name, fast] = adapter.network(inputs)
    torch.backends.mha.set_fastpath_enabled(True)
    for name in "ab":
        assert not torch.equal(seen[name, True], seen[name, False])  # two ways indeed
        torch.testing.assert_close(seen[name, True], seen[name, False], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(seen["a", True], seen["b", True], atol=1e-3)


# -- copies, files and threads ----------------------------------------------------------------------------


def through_pickle(value: object) -> object:
    return pickle.loads(pickle.dumps(value))


def through_torch(value: object) -> object:
    file = io.BytesIO()
    torch.save(value, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=False)


@pytest.mark.parametrize("way", [through_pickle, through_torch, copy.deepcopy])
def test_an_adapter_and_its_optimizer_go_on_from_a_copy(
    way: Callable, begin: Begin, make_batches: Callable, run_steps: Callable, moved_masks: Callable
) -> None:
    batches = make_batches(2 * STEPS)
    adapter, optimizer = begin()
    run_steps(adapter.network, optimizer, batches[:STEPS])
    before = everything_of(adapter)
    twin, twin_optimizer = way((adapter, optimizer))
    assert twin_optimizer.overlay is twin
    run_steps(twin.network, twin_optimizer, batches[STEPS:])
    assert_same(everything_of(adapter), before)
    run_steps(adapter.network, optimizer, batches[STEPS:])
    moved_masks(adapter, "task")
    assert_same(everything_of(twin), everything_of(adapter))


def test_a_compiled_optimizer_is_pickled_without_its_code(
    begin: Begin, make_batches: Callable, run_steps: Callable
) -> None:
    adapter, _ = begin()
    optimizer = adapter.optimizer(mask_lr=LR, head_lr=LR, update="compiled")
    batches = make_batches(4)
    run_steps(adapter.network, optimizer, batches[:2])
    twin, twin_optimizer = through_pickle((adapter, optimizer))
    assert optimizer.update_form() == twin_optimizer.update_form() == "compiled"
    run_steps(adapter.network, optimizer, batches[2:])
    run_steps(twin.network, twin_optimizer, batches[2:])
    assert_same(everything_of(twin), everything_of(adapter))


def test_a_plain_network_takes_what_the_network_shows(
    begin: Begin, make_network: Callable, make_batches: Callable, run_steps: Callable, tmp_path: Path
) -> None:
    """By state dict, and by the functions of safetensors that Hugging Face saves with."""
    adapter, optimizer = begin()
    batches = make_batches(STEPS)
    run_steps(adapter.network, optimizer, batches)
    adapter.eval()
    expected = adapter.network(batches[0][0])
    safetensors.torch.save_model(adapter.network, tmp_path / "model.safetensors")
    plain, other = make_network(classes=4), make_network(classes=4, seed=5)
    plain.load_state_dict(adapter.network.state_dict())
    safetensors.torch.load_model(other, tmp_path / "model.safetensors")
    adapter.base()
    assert torch.equal(plain(batches[0][0]), expected)
    assert torch.equal(other(batches[0][0]), expected)


def freeze_by_export(network: nn.Module, inputs: Tensor) -> nn.Module:
    return torch.export.export(network, (inputs,)).module()


def freeze_by_script(network: nn.Module, inputs: Tensor) -> nn.Module:
    with third_party_warnings():
        return torch.jit.trace(network, inputs)


@pytest.mark.parametrize("freeze", [freeze_by_export, freeze_by_script])
@pytest.mark.parametrize("method", ["piggyback", "series"])
def test_exported_programs_are_made_of_merged_networks(
    freeze: Callable, method: str, begin: Begin, make_batches: Callable, run_steps: Callable
) -> None:
    """A program of the adapted network itself reads the same memory, so that it follows switches by half."""
    adapter, optimizer = begin(method=method)
    batches = make_batches(STEPS)
    run_steps(adapter.network, optimizer, batches)
    adapter.eval()
    inputs = batches[0][0]
    expected = adapter.network(inputs)
    merged, own = freeze(adapter.merged("task").eval(), inputs), freeze(adapter.network, inputs)
    torch.testing.assert_close(merged(inputs), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(own(inputs), expected, rtol=1e-4, atol=1e-5)
    adapter.base()
    torch.testing.assert_close(merged(inputs), expected, rtol=1e-4, atol=1e-5)
    if method == "piggyback":  # weights of the backbone now, head of the task still
        assert not torch.allclose(own(inputs), expected, rtol=1e-4, atol=1e-5)


def test_threads_share_a_task_and_have_merged_copies_of_several(
    begin: Begin, make_head: Callable, make_batches: Callable, run_steps: Callable
) -> None:
    """An adapter shows one task at a time: who switches, switches for all threads."""
    adapter, optimizer = begin()
    inputs = make_batches(1)[0][0]
    run_steps(adapter.network, optimizer, make_batches(STEPS))
    adapter.add_task("other", head=make_head(1))
    adapter.eval()
    plain = {name: adapter.merged(name).eval() for name in ("task", "other")}
    expected = {}
    for name in plain:
        adapter.switch(name)
        expected[name] = adapter.network(inputs)

    def ask(number: int) -> bool:
        name = ("task", "other")[number % 2]
        with torch.no_grad():
            both = torch.equal(plain[name](inputs), expected[name])
            return both and torch.equal(adapter.network(inputs), expected["other"])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(80)))
    assert not torch.allclose(expected["task"], expected["other"])


# -- families ---------------------------------------------------------------------------------------------

CONVNEXT = [models.convnext.CNBlockConfig(16, 24, 1), models.convnext.CNBlockConfig(24, None, 1)]
VISION: dict[str, tuple[Callable[[], nn.Module], str]] = {  # by family: how a small one is made, the head's slot
    "resnet": (lambda: models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=7), "fc"),
    "mobilenet": (lambda: models.MobileNetV2(7, width_mult=0.25), "classifier.1"),
    "shufflenet": (lambda: models.ShuffleNetV2([1, 2, 1], [8, 16, 32, 64, 128], num_classes=7), "fc"),
    "squeezenet": (lambda: models.squeezenet1_1(num_classes=7), "classifier.1"),
    "densenet": (lambda: models.DenseNet(8, (2, 2, 2, 2), 16, num_classes=7), "classifier"),
    "convnext": (lambda: models.ConvNeXt(CONVNEXT, num_classes=7), "classifier.2"),
    "vit": (lambda: models.VisionTransformer(64, 16, 1, 2, 32, 64, num_classes=7), "heads.head"),
    "swin": (lambda: models.SwinTransformer([4, 4], 24, [1, 1], [2, 2], [4, 4], num_classes=7), "head"),
}


@pytest.mark.parametrize("family", VISION)
def test_families_of_torchvision_train_save_and_load(family: str, make_batches: Callable, tmp_path: Path) -> None:
    make, slot = VISION[family]
    torch.manual_seed(0)
    network = make()
    twin = copy.deepcopy(network)
    adapter = piggyback.attach(network, method=piggyback.Binary(), head=slot, norm="trained")
    old = network.get_submodule(slot)

    def make_head() -> nn.Module:
        return nn.Conv2d(old.in_channels, 4, 1) if isinstance(old, nn.Conv2d) else nn.Linear(old.in_features, 4)

    adapter.add_task("task", head=make_head())
    adapter.train()
    optimizer = adapter.optimizer(mask_lr=1e-2, head_lr=1e-2, update="eager")
    for inputs, targets in make_batches(2, (3, 64, 64), size=2):
        optimizer.zero_grad()
        F.cross_entropy(network(inputs).flatten(1), targets).backward()
        optimizer.step()
    inputs = make_batches(1, (3, 64, 64), size=2, seed=1)[0][0]
    adapter.eval()
    expected = network(inputs)
    adapter.save(tmp_path / "task.safetensors", task="task")
    other = piggyback.attach(twin, method=piggyback.Binary(), head=slot)
    backbone = twin.eval()(inputs)
    other.load(tmp_path / "task.safetensors", head=make_head())
    other.eval()
    assert torch.equal(twin(inputs), expected)
    other.base()
    assert torch.equal(twin.eval()(inputs), backbone)
