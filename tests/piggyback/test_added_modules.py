"""Modules behind layers: seen by everything that walks a network while their task is shown, and gone afterwards."""

import copy
import io
import pickle
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import piggyback
from piggyback import METHODS, Adapter, Method
from piggyback.methods.series import Series
from piggyback.shell.errors import BadInput

SERIES = METHODS["series"]
PARTS = {"mix.weight", "norm.weight", "norm.bias"}
PARAMETERS = {f"{layer}.added.{part}" for layer in ("conv1", "conv2") for part in PARTS}
STEPS = 12


@pytest.fixture
def adapter(make_network: Callable, make_head: Callable) -> Adapter:
    """With a fresh task, in training."""
    adapter = piggyback.attach(make_network(), method=SERIES, head="head", norm="fixed")
    adapter.add_task("task", head=make_head(0))
    adapter.train()
    return adapter


@pytest.fixture
def trained(adapter: Adapter, make_batches: Callable, run_steps: Callable) -> Adapter:
    """After a few steps, in evaluation mode."""
    run_steps(adapter.network, adapter.optimizer(mask_lr=1e-2, update="eager"), make_batches(STEPS))
    adapter.eval()
    return adapter


def logits_of(network: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(99)
    like = next(network.parameters())
    with torch.no_grad():
        return network(torch.randn(5, 3, 8, 8, generator=generator, dtype=torch.float64).to(like.dtype))


def added_keys(network: nn.Module) -> set[str]:
    return {key for key in network.state_dict() if ".added." in key}


def test_what_walks_the_network_sees_them(adapter: Adapter) -> None:
    """The linear layer has none, nor has the head."""
    network = adapter.network
    names = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert names == PARAMETERS | {"head.weight", "head.bias"}
    in_optimizer = {parameter for group in adapter.optimizer().param_groups for parameter in group["params"]}
    assert in_optimizer == {network.get_parameter(name) for name in names}
    roles = {group["role"]: len(group["params"]) for group in adapter.optimizer().param_groups}
    assert roles == {"module": 6, "head": 2}
    assert network.conv1.added.norm.training
    assert not network.bn1.training
    adapter.eval()
    assert not network.conv1.added.norm.training


def test_the_rules_weight_decay_acts_on_them(adapter: Adapter, make_batches: Callable, run_steps: Callable) -> None:
    """They are weights like any other, and no masks."""
    shrunk = []
    for decay in (0.0, 0.5):
        twin = copy.deepcopy(adapter)
        rule = piggyback.SGDRule(momentum=0.0, weight_decay=decay)
        run_steps(twin.network, twin.optimizer(mask_lr=0.1, rule=rule, update="eager"), make_batches(1))
        shrunk.append(twin.network.conv2.added.norm.weight.detach())
    torch.testing.assert_close(shrunk[1], shrunk[0] - 0.1 * 0.5)


def test_gradients_left_over_are_gone_after_a_switch(adapter: Adapter) -> None:
    network = adapter.network
    F.cross_entropy(network(torch.ones(2, 3, 8, 8)), torch.tensor([0, 1])).backward()
    assert network.conv1.added.mix.weight.grad is not None
    adapter.base()
    adapter.switch("task")
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_copy_of_the_network_works_by_itself(trained: Adapter, make_batches: Callable, run_steps: Callable) -> None:
    network = trained.network
    before, state = logits_of(network), copy.deepcopy(network.state_dict())
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert added_keys(twin) == added_keys(network)
        assert torch.equal(logits_of(twin), before)
        optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
        run_steps(twin, optimizer, make_batches(3))
        assert not torch.equal(twin.conv1.added.mix.weight, network.conv1.added.mix.weight)
        assert not torch.equal(logits_of(twin), before)
    trained.base()  # nothing of the copies is the adapter's
    assert added_keys(twin) != set()
    trained.switch("task")
    assert all(torch.equal(tensor, state[key]) for key, tensor in network.state_dict().items())
    assert torch.equal(logits_of(network), before)


def test_such_a_copy_is_no_backbone(trained: Adapter) -> None:
    """What stands behind its layers would count as the backbone's and be taken away."""
    twin = copy.deepcopy(trained.network)
    with pytest.raises(BadInput, match=r"modules behind layers: attach to a copy by adapter\.merged"):
        piggyback.attach(twin, method=piggyback.Binary(), head="head")
    merged = trained.merged("task")
    again = piggyback.attach(merged, method=piggyback.Binary(), head="head")
    torch.testing.assert_close(logits_of(again.network), logits_of(trained.network), rtol=1e-5, atol=1e-5)


def test_a_copy_of_the_adapter_is_independent(trained: Adapter, make_batches: Callable, run_steps: Callable) -> None:
    before = logits_of(trained.network)
    twin = copy.deepcopy(trained)
    assert twin.network.conv1.added is twin.task("task").modules["conv1"]
    assert twin.network.conv1.added is not trained.network.conv1.added
    twin.train()
    run_steps(twin.network, twin.optimizer(mask_lr=1e-2, update="eager"), make_batches(STEPS, seed=1))
    twin.eval()
    assert not torch.equal(logits_of(twin.network), before)
    assert torch.equal(logits_of(trained.network), before)
    twin.base()
    assert added_keys(twin.network) == set()
    assert len(added_keys(trained.network)) == 2 * 6  # with mean, variance and counter
    trained.base()
    trained.switch("task")
    assert torch.equal(logits_of(trained.network), before)


def test_they_are_in_a_checkpoint(
    trained: Adapter, make_network: Callable, make_head: Callable, make_batches: Callable, run_steps: Callable
) -> None:
    file = io.BytesIO()
    torch.save(trained.training_state("task"), file)
    before = logits_of(trained.network)
    trained.train()
    run_steps(trained.network, trained.optimizer(mask_lr=1e-2, update="eager"), make_batches(2))
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other = piggyback.attach(make_network(), method=SERIES, head="head", norm="fixed")
    other.add_task("task", head=make_head(3))
    other.add_task("shown", head=make_head(4))  # also for a task that the network does not show
    other.load_training_state("task", saved)
    other.switch("task")
    other.eval()
    assert torch.equal(logits_of(other.network), before)
    assert other.network.conv1.added.norm.num_batches_tracked == STEPS


@pytest.mark.parametrize("shown", [True, False])
def test_they_move_with_the_network(trained: Adapter, shown: bool) -> None:
    before = logits_of(trained.network)
    if not shown:
        trained.base()
    trained.network.to(torch.float64)
    if not shown:
        trained.switch("task")
    module = trained.network.conv1.added
    assert {tensor.dtype for tensor in module.parameters()} == {torch.float64}
    assert module.norm.num_batches_tracked.dtype == torch.int64
    torch.testing.assert_close(logits_of(trained.network).float(), before, rtol=1e-5, atol=1e-5)
    trained.network.float()
    assert torch.equal(logits_of(trained.network), before)


@pytest.mark.parametrize("head", [None, "2"])
def test_a_compiled_network_sees_them_come_and_go(head: str | None) -> None:
    """torch does not look whether a layer has hooks before it takes a graph that it knows."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    adapter = piggyback.attach(network, method=SERIES, head=head)
    inputs, seen = torch.randn(2, 3, 3, 3), {}
    for name, method in (("one", SERIES), ("other", SERIES), ("masks", piggyback.Binary())):
        adapter.add_task(name, head=nn.Linear(4, 2) if head else None, method=method)
        for module in adapter.task(name).modules.values():
            nn.init.normal_(module.mix.weight)
    adapter.base()
    adapter.eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what the compiler finds on the machine
        compiled = torch.compile(network, backend="eager")
        compiled(inputs)
        for name in ("one", "masks", "other", "one"):
            adapter.switch(name)
            seen[name] = compiled(inputs)
            torch.testing.assert_close(seen[name], network(inputs))
        adapter.base()
        torch.testing.assert_close(compiled(inputs), network(inputs))
    assert not torch.allclose(seen["one"], seen["other"])


@pytest.mark.parametrize("attached_with", [SERIES, piggyback.Binary()])
def test_a_compiled_network_is_compiled_once_for_each_task_at_most(attached_with: Method) -> None:
    """Backbone, A, B, A, B; graphs of tasks alike are even the same.  Heads of their own sizes are not."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    adapter = piggyback.attach(network, method=attached_with, head="4")
    counter = CompileCounterWithBackend("eager")
    compiled, inputs = torch.compile(network, backend=counter), torch.randn(2, 3, 5, 5)
    adapter.eval()
    torch.compiler.reset()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what the compiler finds on the machine
        compiled(inputs)
        counts = [counter.frame_count]
        for number, name in enumerate("ABCD"):
            adapter.add_task(name, head=nn.Linear(4, 3 + number // 2), method=SERIES)
            for module in adapter.task(name).modules.values():
                nn.init.normal_(module.mix.weight)
        for name in "ABABCACD":
            adapter.switch(name)
            torch.testing.assert_close(compiled(inputs), network(inputs))
            counts.append(counter.frame_count)
        adapter.base()
        torch.testing.assert_close(compiled(inputs), network(inputs))
    assert counts == [1, 2, 2, 2, 2, 3, 3, 3, 3]
    hooked_late = attached_with is not SERIES  # what was compiled before the first hooks is compiled again
    assert counter.frame_count == 3 + hooked_late


def test_more_tasks_than_torch_keeps_graphs_for() -> None:
    """The ninth graph of a function is one too many for torch, which says so and goes on uncompiled."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    adapter = piggyback.attach(network, method=SERIES, head="2")
    counter = CompileCounterWithBackend("eager")
    compiled, inputs = torch.compile(network, backend=counter), torch.randn(2, 3, 3, 3)
    for number in range(12):
        adapter.add_task(str(number), head=nn.Linear(4, 2 + number))
        nn.init.normal_(adapter.task(str(number)).modules["0"].mix.weight)
    adapter.eval()
    torch.compiler.reset()
    seen: list[Tensor] = []
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in [*range(12), *range(12)]:
            adapter.switch(str(number))
            seen.append(compiled(inputs))
            torch.testing.assert_close(seen[-1], network(inputs))
    assert counter.frame_count == torch._dynamo.config.recompile_limit == 8
    assert [len(logits[0]) for logits in seen] == [*range(2, 14), *range(2, 14)]
    assert all(torch.equal(first, second) for first, second in zip(seen[:12], seen[12:], strict=True))


def test_attaching_leaves_random_numbers_and_other_layers_as_they_were() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(4, 2))
    before = torch.get_rng_state()
    piggyback.attach(network, method=SERIES, head="3")
    assert torch.equal(torch.get_rng_state(), before)
    assert [len(layer._forward_hooks) for layer in network] == [1, 0, 0, 0]


def test_a_merged_network_has_no_hooks(trained: Adapter, make_head: Callable) -> None:
    trained.add_task("masks", head=make_head(1), method=piggyback.Binary())
    for task in ("task", "masks"):
        assert not any(module._forward_hooks for module in trained.merged(task).modules())


def test_each_task_has_its_own_and_other_methods_have_none(
    trained: Adapter, make_head: Callable, make_batches: Callable, run_steps: Callable
) -> None:
    network = trained.network
    first = network.conv1.added
    trained.add_task("masks", head=make_head(1), method=piggyback.Binary())
    assert added_keys(network) == set()
    assert len(network.conv1._forward_hooks) == 1  # stays, so that compiled graphs stay valid, and does nothing
    trained.add_task("more", head=make_head(2), method=METHODS["series-joint"])
    assert network.conv1.added is not first
    assert len(network.conv1._forward_hooks) == 1
    trained.add_task("plain", head=make_head(3), method=piggyback.Finetune())
    trained.train()
    run_steps(network, trained.optimizer(update="eager"), make_batches(2))
    assert added_keys(network) == set()
    for _ in range(2):
        trained.switch("task")
        assert network.conv1.added is first
        assert len(network.conv1._forward_hooks) == 1
        trained.switch("task")
        assert len(network.conv1._forward_hooks) == 1


def test_hooks_and_children_of_others_stay(make_network: Callable, make_head: Callable) -> None:
    """A network may hook its layers itself, and call a part of its own ``added``."""
    network, seen = make_network(), []
    network.conv1.register_forward_hook(lambda layer, args, output: seen.append(output.shape))
    network.added = nn.Linear(2, 2)

    def forward(x: Tensor) -> Tensor:
        return nn.Sequential(*list(network.children())[:-1])(x)

    network.forward = forward
    adapter = piggyback.attach(network, method=SERIES, head="head")
    adapter.add_task("task", head=make_head(0))
    assert not network.added.weight.requires_grad
    assert not network.added.bias.requires_grad
    network(torch.ones(2, 3, 8, 8))
    adapter.base()
    network(torch.ones(2, 3, 8, 8))
    assert seen == [(2, 8, 8, 8)] * 2
    assert "added" in dict(network.named_children())


# -- folding --------------------------------------------------------------------------------------------


def drawn_module(channels: int) -> nn.Module:
    torch.manual_seed(1)
    module = Series().module(nn.Conv2d(3, channels, 3))
    assert module is not None
    nn.init.normal_(module.mix.weight)
    for tensor in (module.norm.weight.data, module.norm.running_var):
        tensor.uniform_(0.5, 1.5)
    for tensor in (module.norm.bias.data, module.norm.running_mean):
        tensor.normal_()
    return module.eval().double()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}, {"dilation": 2}, {"groups": 2}, {"groups": 4}])
def test_a_folded_convolution_does_what_both_did(options: dict[str, int], bias: bool) -> None:
    """Also where the convolution has groups, which the module mixes."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(4, 8, 3, bias=bias, **options), nn.AdaptiveAvgPool2d(2)).double()
    adapter = piggyback.attach(network, method=SERIES)
    adapter.add_task("task")
    adapter.task("task").modules["0"].load_state_dict(drawn_module(8).state_dict())
    adapter.eval()
    inputs = torch.randn(3, 4, 9, 9, dtype=torch.float64)
    merged = adapter.merged("task")
    torch.testing.assert_close(merged(inputs), network(inputs), rtol=1e-10, atol=1e-10)
    assert list(merged.state_dict()) == ["0.weight", "0.bias"]
    assert not merged[0]._forward_hooks
    assert network[0].groups == options.get("groups", 1)  # the network's own layer is as it was
    assert network[0].weight.shape == (8, 4 // network[0].groups, 3, 3)
    adapter.base()
    assert not torch.allclose(merged(inputs), network(inputs), rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("layer", "channels"),
    [
        (nn.Conv2d(2, 4, 3), 4),
        (nn.Conv2d(2, 6, (1, 3)), 6),
        (nn.Conv2d(2, 4, 1), None),  # as the shortcuts of the authors' networks
        (nn.Linear(2, 4), None),
        (nn.ConvTranspose2d(2, 4, 3), None),
        (nn.Conv1d(2, 4, 3), None),
    ],
)
def test_which_layers_get_one(layer: nn.Module, channels: int | None) -> None:
    module = Series().module(layer)
    assert (None if module is None else module.mix.weight.shape) == (channels and (channels, channels, 1, 1))


class Taken(nn.Conv2d):
    def __init__(self) -> None:
        super().__init__(4, 4, 3, padding=1)
        self.added = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.added(x)


def test_a_layer_with_a_part_called_added_is_refused_by_name() -> None:
    network = nn.Sequential(Taken(), nn.Flatten(), nn.Linear(64, 4))
    own = network[0].added
    with pytest.raises(BadInput, match="layer '0' has a part called 'added' of its own"):
        piggyback.attach(network, method=piggyback.METHODS["series"], head="2")
    adapter = piggyback.attach(network, method=piggyback.Binary(), head="2")
    with pytest.raises(BadInput, match="layer '0' has a part called 'added' of its own"):
        adapter.add_task("a", head=nn.Linear(64, 4), method=piggyback.METHODS["series"])
    assert network[0].added is own
    assert not adapter.tasks
    adapter.add_task("a", head=nn.Linear(64, 4))
