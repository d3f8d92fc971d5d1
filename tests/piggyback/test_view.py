"""Whatever else writes into an adapter's network is noticed before a training is lost."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

import piggyback
from piggyback.shell.errors import BadInput, Diverged, NetworkChanged, NotTrainable, PiggybackError

Make = Callable[..., nn.Sequential]


@pytest.fixture
def adapter(make_network: Make, make_head: Callable) -> piggyback.Adapter:
    adapter = piggyback.attach(make_network(), method=piggyback.Binary(), head="head", norm="fixed")
    adapter.add_task("a", head=make_head(0))
    return adapter


def backward(network: nn.Module, batch: tuple[Tensor, Tensor] | None = None) -> None:
    inputs, targets = batch or (torch.ones(2, 3, 8, 8), torch.tensor([0, 1]))
    F.cross_entropy(network(inputs), targets).backward()


def step_with(optimizer: type[torch.optim.Optimizer], **options: object) -> Callable[[nn.Module], None]:
    def step(network: nn.Module) -> None:
        other = optimizer(network.parameters(), lr=0.1, **options)
        backward(network)
        other.step()
        other.zero_grad()

    return step


def load_others(network: nn.Module) -> None:
    network.load_state_dict({name: tensor + 1 for name, tensor in network.state_dict().items()})


def assign_others(network: nn.Module) -> None:
    network.load_state_dict({name: tensor + 1 for name, tensor in network.state_dict().items()}, assign=True)


def write_data(network: nn.Module) -> None:
    network.conv1.weight.data[0, 0, 0, 0] += 1


def write_counted(network: nn.Module) -> None:
    with torch.no_grad():
        network.conv1.bias.add_(1)


def replace_parameter(network: nn.Module) -> None:
    network.conv2.weight = nn.Parameter(network.conv2.weight.detach() + 1)


def move_statistics(network: nn.Module) -> None:
    network.train()
    network(torch.ones(2, 3, 8, 8))


def prune_layer(network: nn.Module) -> None:
    prune.l1_unstructured(network.conv1, "weight", amount=0.5)


WRITES = {
    "another optimizer": step_with(torch.optim.Adam),
    "a fused optimizer, which torch does not count": step_with(torch.optim.Adam, fused=True),
    "momentum": step_with(torch.optim.SGD, momentum=0.9),
    "load_state_dict": load_others,
    "load_state_dict that assigns": assign_others,
    "data": write_data,
    "a bias": write_counted,
    "a replaced parameter": replace_parameter,
    "pruning": prune_layer,
    "statistics of fixed norm layers": move_statistics,
}

CALLS: dict[str, Callable[[piggyback.Adapter, Path], object]] = {
    "save": lambda adapter, folder: adapter.save(folder / "a.safetensors", task="a"),
    "switch to another": lambda adapter, _: adapter.switch("other"),
    "switch to the same": lambda adapter, _: adapter.switch("a"),
    "base": lambda adapter, _: adapter.base(),
    "merged": lambda adapter, _: adapter.merged("a"),
    "add_task": lambda adapter, _: adapter.add_task("new", head=nn.Linear(24, 2)),
    "load": lambda adapter, folder: adapter.load(folder / "other.safetensors", task="new"),
    "optimizer": lambda adapter, _: adapter.optimizer(),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("write", WRITES)
def test_writes_of_others_are_noticed(
    write: str, call: str, adapter: piggyback.Adapter, make_head: Callable, tmp_path: Path
) -> None:
    adapter.add_task("other", head=make_head(1))
    adapter.save(tmp_path / "other.safetensors", task="other")
    adapter.switch("a")
    WRITES[write](adapter.network)
    words = r"'\w+\.\w+' was .*adapter\.optimizer\(\).*adapter\.restore\(\)"
    if write == "pruning":  # which cannot be undone
        words = r"was rebuilt after attach: 'conv1\.weight' is gone; 'conv1\.weight_orig' has come"
    with pytest.raises(NetworkChanged, match=words) as told:
        CALLS[call](adapter, tmp_path)
    assert "\n" not in str(told.value)
    assert sorted(adapter.tasks) == ["a", "other"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.safetensors"]


@pytest.mark.parametrize("write", [name for name in WRITES if name != "pruning"])
def test_a_step_notices_them(write: str, adapter: piggyback.Adapter, make_batches: Callable) -> None:
    optimizer = adapter.optimizer(update="eager")
    batches = iter(make_batches(8))

    def step() -> None:
        optimizer.zero_grad()
        backward(adapter.network, next(batches))
        optimizer.step()

    for _ in range(2):
        step()
    WRITES[write](adapter.network)
    uncounted = "data" in write or "fused" in write
    if uncounted:
        step()  # the third; the values are compared in the fourth, eighth and so on
        WRITES[write](adapter.network)
    before = {name: parts["mask_real"].clone() for name, parts in adapter.task("a").trained.items()}
    with pytest.raises(PiggybackError, match=r"was changed|was replaced|in training mode"):
        step()
    for name, parts in adapter.task("a").trained.items():
        assert torch.equal(parts["mask_real"], before[name])


@pytest.mark.parametrize("write", [name for name in WRITES if name != "pruning"])
def test_what_was_shown_can_be_put_back(write: str, adapter: piggyback.Adapter, make_batches: Callable) -> None:
    inputs, _ = make_batches(1)[0]
    optimizer = adapter.optimizer(mask_lr=1e-2, update="eager")
    for batch in make_batches(3):
        backward(adapter.network, batch)
        optimizer.step()
        optimizer.zero_grad()
    head = copy.deepcopy(adapter.network.head)
    expected = adapter.network(inputs)
    WRITES[write](adapter.network)
    adapter.network.head.load_state_dict(head.state_dict())  # a head is trained in place: nobody else keeps it
    adapter.restore()
    adapter.eval()
    assert torch.equal(adapter.network(inputs), expected)
    adapter.base()
    adapter.switch("a")
    assert torch.equal(adapter.network(inputs), expected)


@pytest.mark.parametrize("replaced", ["one", "other"])
def test_a_tie_is_put_back(replaced: str) -> None:
    network = nn.Sequential()
    for name in ("one", "other"):
        network.add_module(name, nn.Linear(4, 4))
    network.other.weight = network.one.weight
    network.add_module("head", nn.Linear(4, 4))
    adapter = piggyback.attach(network, method=piggyback.Binary(), head="head")
    keys = adapter.base_state_dict().keys()
    adapter.add_task("a", head=nn.Linear(4, 4))
    network.get_submodule(replaced).weight = nn.Parameter(torch.ones(4, 4))
    with pytest.raises(NetworkChanged):
        adapter.base()
    adapter.restore()
    assert network.one.weight is network.other.weight
    assert torch.equal(network.one.weight, adapter.frozen[adapter.anatomy.weights[0]])
    assert adapter.base_state_dict().keys() == keys


def test_pruning_cannot_be_undone(adapter: piggyback.Adapter) -> None:
    prune_layer(adapter.network)
    with pytest.raises(NetworkChanged, match=r"no tensor 'conv1\.weight' of shape \(8, 3, 3, 3\) any more"):
        adapter.restore()


def test_statistics_of_fixed_norm_layers_are_put_back_by_train(adapter: piggyback.Adapter, tmp_path: Path) -> None:
    move_statistics(adapter.network)
    adapter.train()
    adapter.save(tmp_path / "a.safetensors", task="a")


def test_weights_loaded_before_the_first_task_are_the_backbone(make_network: Make, make_head: Callable) -> None:
    adapter = piggyback.attach(make_network(seed=1), method=piggyback.Binary(), head="head")
    pretrained = make_network(seed=0)
    adapter.network.load_state_dict(pretrained.state_dict())
    adapter.add_task("a", head=make_head(0))
    assert torch.equal(adapter.network.conv1.weight, pretrained.conv1.weight)
    expected = piggyback.attach(pretrained, method=piggyback.Binary(), head="head")
    assert adapter.fingerprint == expected.fingerprint
    adapter.base()
    assert torch.equal(adapter.network(torch.ones(1, 3, 8, 8)), pretrained(torch.ones(1, 3, 8, 8)))


def test_a_payload_goes_onto_weights_loaded_before_it(
    make_network: Make, adapter: piggyback.Adapter, tmp_path: Path
) -> None:
    adapter.save(tmp_path / "a.safetensors", task="a")
    other = piggyback.attach(make_network(seed=1), method=piggyback.Binary(), head="head")
    other.network.load_state_dict(make_network(seed=0).state_dict(), assign=True)
    other.load(tmp_path / "a.safetensors")
    inputs = torch.ones(1, 3, 8, 8)
    assert torch.equal(other.network.eval()(inputs), adapter.network.eval()(inputs))


def test_equal_values_are_no_change(adapter: piggyback.Adapter, tmp_path: Path) -> None:
    adapter.network.load_state_dict(copy.deepcopy(adapter.network.state_dict()))
    adapter.network.half().float()  # a round trip of the network is no training
    adapter.switch("a")
    adapter.save(tmp_path / "a.safetensors", task="a")


def test_the_head_and_what_is_trained_in_place_are_free(make_network: Make, make_head: Callable) -> None:
    adapter = piggyback.attach(make_network(), method=piggyback.Binary(), head="head", norm="trained")
    adapter.add_task("a", head=make_head(0))
    other = torch.optim.SGD([*adapter.network.head.parameters(), *adapter.network.bn1.parameters()], lr=0.1)
    backward(adapter.network.train())
    other.step()
    found = {name: tensor.clone() for name, tensor in adapter.network.state_dict().items()}
    adapter.base()
    adapter.switch("a")
    assert all(torch.equal(tensor, found[name]) for name, tensor in adapter.network.state_dict().items())


def test_real_masks_written_by_hand_are_shown_next(adapter: piggyback.Adapter) -> None:
    adapter.task("a").trained["conv1.weight"]["mask_real"].zero_()
    adapter.switch("a")
    assert not adapter.network.conv1.weight.any()


def test_a_second_adapter_is_refused_while_a_task_is_shown(adapter: piggyback.Adapter) -> None:
    network = adapter.network
    for part in (network, nn.Sequential(network.conv1, nn.Flatten()), nn.Sequential(network)):
        with pytest.raises(BadInput, match=r"shows task 'a' of another adapter.*base\(\)"):
            piggyback.attach(part, method=piggyback.Binary())
    merged = piggyback.attach(adapter.merged("a"), method=piggyback.Binary(), head="head")
    assert torch.equal(merged.frozen["conv1.weight"], network.conv1.weight)
    adapter.base()
    second = piggyback.attach(network, method=piggyback.Binary(), head="head")
    second.add_task("b", head=nn.Linear(24, 4))
    second.task("b").trained["conv1.weight"]["mask_real"].zero_()
    second.restore()
    with pytest.raises(NetworkChanged):
        adapter.switch("a")


def test_the_task_of_a_dead_adapter_is_still_no_backbone(make_network: Make) -> None:
    network = make_network()
    piggyback.attach(network, method=piggyback.Binary(), head="head").add_task("a", head=nn.Linear(24, 4))
    with pytest.raises(BadInput, match="shows task 'a' of another adapter"):
        piggyback.attach(network, method=piggyback.Binary(), head="head")


def test_copies_are_watched_for_themselves(adapter: piggyback.Adapter) -> None:
    twin = copy.deepcopy(adapter)
    twin.switch("a")
    load_others(twin.network)
    with pytest.raises(NetworkChanged):
        twin.base()
    adapter.base()
    with pytest.raises(BadInput, match="shows task 'a'"):
        piggyback.attach(twin.network, method=piggyback.Binary())


def test_tasks_come_and_go_in_inference_mode(adapter: piggyback.Adapter, make_head: Callable, tmp_path: Path) -> None:
    adapter.save(tmp_path / "a.safetensors", task="a")
    inputs = torch.ones(1, 3, 8, 8)
    expected = adapter.network.eval()(inputs)
    head = make_head(1)
    with torch.inference_mode():
        adapter.load(tmp_path / "a.safetensors", task="b")
        with pytest.raises(BadInput, match=r"the head's 'weight' was made under torch\.inference_mode"):
            adapter.add_task("c", head=nn.Linear(24, 4))
        adapter.add_task("c", head=head)
        adapter.switch("b")
        assert torch.equal(adapter.network(inputs), expected)
    for task in ("a", "c"):
        adapter.switch(task)
        optimizer = adapter.optimizer(update="eager")
        backward(adapter.network)
        optimizer.step()
    adapter.switch("b")
    assert torch.equal(adapter.network(inputs), expected)


def test_a_copy_whose_real_masks_were_stepped_is_watched(adapter: piggyback.Adapter, make_batches: Callable) -> None:
    optimizer = adapter.optimizer(update="eager")
    for batch in make_batches(3):
        backward(adapter.network, batch)
        optimizer.step()
    twin = copy.deepcopy(adapter)
    twin.network.conv1.weight.data = twin.network.conv1.weight.data + 1
    with pytest.raises(NetworkChanged, match=r"'conv1\.weight' was changed"):
        twin.base()


def test_what_a_finished_task_has_for_itself_is_watched(make_network: Make, make_head: Callable) -> None:
    adapter = piggyback.attach(make_network(), method=piggyback.Binary(), head="head", norm="statistics")
    adapter.add_task("a", head=make_head(0))
    adapter.network.bn1.running_mean.add_(1)  # in training, it is the task's own to move
    adapter.finish_task("a")
    adapter.switch("a")
    adapter.network.bn1.running_mean.data.add_(1)
    with pytest.raises(NetworkChanged, match=r"'bn1\.running_mean' was changed"):
        adapter.switch("a")


def test_a_module_that_is_only_called_as_a_compiled_one_is(make_head: Callable) -> None:
    network = nn.Sequential()
    network.add_module("_orig_mod", nn.Sequential(nn.Linear(4, 24), nn.ReLU()))
    network.add_module("head", nn.Linear(24, 4))
    adapter = piggyback.attach(network, method=piggyback.Binary(), head="head", exclude="_orig_mod.0.bias")
    assert adapter.anatomy.weights == ("_orig_mod.0.weight",)
    assert adapter.base_state_dict().keys() == network.state_dict().keys()


# -- modules with buffers of their own --------------------------------------------------------------------


class OwnNorm(nn.Module):
    """Batch norm by hand: no subclass of torch's."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training)


class EvoNormB0(nn.Module):
    """Liu et al., *Evolving Normalization-Activation Layers*, NeurIPS 2020, table 2: only a variance moves."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.v = nn.Parameter(torch.ones(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1, 1, 1)
        if self.training:
            variance = x.var((0, 2, 3), unbiased=False)
            self.running_var.mul_(0.9).add_(0.1 * variance.detach())
        else:
            variance = self.running_var
        instance = x.var((2, 3), unbiased=False, keepdim=True).add(1e-5).sqrt()
        below = torch.maximum(variance.add(1e-5).sqrt().view(shape), self.v.view(shape) * x + instance)
        return x / below * self.weight.view(shape) + self.bias.view(shape)


class MovingAverage(nn.Module):
    """Subtracts an average of its inputs that moves in training."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("average", torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.average.lerp_(x.detach().mean((0, 2, 3)), 0.1)
        return x - self.average.view(1, -1, 1, 1)


def network_with(module: nn.Module) -> nn.Sequential:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), module, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network.add_module("head", nn.Linear(8, 4))
    return network


@pytest.mark.parametrize("norm", ["fixed", "statistics", "trained"])
@pytest.mark.parametrize("make", [OwnNorm, EvoNormB0])
def test_norm_layers_of_others_are_norm_layers(
    make: type[nn.Module], norm: str, make_batches: Callable, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = network_with(make(8))
    before = copy.deepcopy(network)
    adapter = piggyback.attach(network, method=piggyback.Binary(), head="head", norm=norm)
    adapter.add_task("a", head=nn.Linear(8, 4))
    optimizer = adapter.optimizer(mask_lr=1e-2, head_lr=1e-2, update="eager")
    adapter.train()
    for batch in make_batches(5):
        backward(network, batch)
        optimizer.step()
        optimizer.zero_grad()
    state = dict(network.named_buffers()) | dict(network.named_parameters())
    moved = {name for name, tensor in before.state_dict().items() if not torch.equal(state[name], tensor)}
    assert ("1.running_var" in moved) == (norm != "fixed")
    assert ("1.weight" in moved) == (norm == "trained")
    adapter.eval()
    inputs = make_batches(1)[0][0]
    expected = network(inputs)
    adapter.save(tmp_path / "a.safetensors", task="a")
    assert torch.equal(adapter.merged("a")(inputs), expected)
    other = piggyback.attach(before, method=piggyback.Binary(), head="head")
    other.load(tmp_path / "a.safetensors")
    other.eval()
    assert torch.equal(before(inputs), expected)


def test_a_norm_layer_of_others_in_training_mode_is_refused() -> None:
    network = network_with(OwnNorm(8))
    adapter = piggyback.attach(network, method=piggyback.Binary(), head="head", norm="fixed")
    adapter.add_task("a", head=nn.Linear(8, 4))
    optimizer = adapter.optimizer(update="eager")
    network.train()
    backward(network)
    with pytest.raises(NotTrainable, match="norm layer '1' is fixed but in training mode"):
        optimizer.step()


@pytest.mark.parametrize("norm", ["fixed", "trained"])
def test_other_buffers_that_move_are_refused(norm: str, tmp_path: Path) -> None:
    network = network_with(MovingAverage(8))
    adapter = piggyback.attach(network, method=piggyback.Binary(), head="head", norm=norm)
    adapter.add_task("a", head=nn.Linear(8, 4))
    optimizer = adapter.optimizer(update="eager")
    adapter.train()
    backward(network)
    with pytest.raises(NetworkChanged, match=r"buffer '1\.average' was changed, by its own MovingAverage"):
        optimizer.step()
    with pytest.raises(NetworkChanged, match=r"buffer '1\.average'"):
        adapter.save(tmp_path / "a.safetensors", task="a")
    adapter.restore()
    network[1].eval()
    backward(network)
    optimizer.step()
    adapter.save(tmp_path / "a.safetensors", task="a")


class Cached(nn.Module):
    """A moving average that no state dict has, and a table that is made again for every size."""

    def __init__(self, *, moves: bool) -> None:
        super().__init__()
        self.moves = moves
        self.register_buffer("average", torch.zeros(8), persistent=False)
        self.register_buffer("table", torch.zeros(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.table = torch.ones(x.shape[-1], device=x.device)
        if self.training and self.moves:
            self.average.lerp_(x.detach().mean((0, 2, 3)), 0.1)
        return x * self.table - self.average.view(1, -1, 1, 1)


@pytest.mark.parametrize("moves", [False, True])
def test_buffers_that_are_not_saved_may_be_replaced_but_not_moved(moves: bool) -> None:
    network = network_with(Cached(moves=moves))
    adapter = piggyback.attach(network, method=piggyback.Binary(), head="head")
    adapter.add_task("a", head=nn.Linear(8, 4))
    optimizer = adapter.optimizer(update="eager")
    adapter.train()
    backward(network)
    if moves:
        with pytest.raises(NetworkChanged, match=r"'1\.average' of a Cached moves in training.*not persistent"):
            optimizer.step()
    else:
        optimizer.step()
        adapter.switch("a")


# -- heads and shared memory ------------------------------------------------------------------------------


def test_a_head_put_into_the_slot_by_hand_is_refused(adapter: piggyback.Adapter, tmp_path: Path) -> None:
    optimizer = adapter.optimizer(update="eager")
    own = adapter.network.head
    adapter.network.head = nn.Linear(24, 4)
    backward(adapter.network)
    with pytest.raises(NetworkChanged, match="another head than the adapter put there"):
        optimizer.step()
    for name in ("save", "switch to the same", "base", "merged", "add_task", "optimizer"):
        with pytest.raises(NetworkChanged):
            CALLS[name](adapter, tmp_path)
    adapter.restore()
    assert adapter.network.head is own
    backward(adapter.network)
    optimizer.step()


def test_a_parameter_of_the_head_replaced_after_the_optimizer_was_made(adapter: piggyback.Adapter) -> None:
    optimizer = adapter.optimizer(update="eager")
    adapter.network.head.weight = nn.Parameter(torch.zeros(4, 24))
    backward(adapter.network)
    with pytest.raises(NetworkChanged, match=r"'head\.weight' is another tensor than when the optimizer was made"):
        optimizer.step()
    optimizer = adapter.optimizer(update="eager")
    backward(adapter.network)
    optimizer.step()
    assert adapter.network.head.weight.any()


def test_tensors_that_share_memory_are_refused_by_name(make_network: Make) -> None:
    network = make_network()
    network.bn2.weight.data = network.bn2.bias.data
    with pytest.raises(BadInput, match=r"'bn2\.weight' and 'bn2\.bias' are two tensors in the same memory"):
        piggyback.attach(network, method=piggyback.Binary(), head="head")
    network = make_network()
    network.conv1.register_buffer("scale", torch.ones(1).expand(4))
    with pytest.raises(BadInput, match=r"'conv1\.scale' has values that share memory"):
        piggyback.attach(network, method=piggyback.Binary(), head="head")


def test_whole_numbers_among_the_parameters_stay_what_they_are(make_network: Make, make_head: Callable) -> None:
    network = make_network()
    network.codes = nn.Parameter(torch.arange(3), requires_grad=False)
    adapter = piggyback.attach(network, method=piggyback.Binary(), head="head")
    adapter.add_task("a", head=make_head(0))
    adapter.add_task("b", head=make_head(1), method=piggyback.Finetune())
    assert adapter.merged("a").codes.tolist() == [0, 1, 2]
    assert adapter.current == "b"


# -- gradients that are not finite ------------------------------------------------------------------------


@pytest.mark.parametrize("update", ["eager", "compiled"])
@pytest.mark.parametrize("where", ["the whole batch", "one filter"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_gradient_that_is_not_finite_is_refused_before_anything_is_stepped(
    value: float, where: str, update: str, adapter: piggyback.Adapter, make_batches: Callable
) -> None:
    optimizer = adapter.optimizer(mask_lr=1e-2, update=update)
    inputs, targets = make_batches(1)[0]
    backward(adapter.network, (inputs, targets))
    optimizer.step()
    before = {name: tensor.clone() for name, tensor in adapter.network.state_dict().items()}
    reals = {name: parts["mask_real"].clone() for name, parts in adapter.task("a").trained.items()}
    optimizer.zero_grad()
    if where == "one filter":
        backward(adapter.network, (inputs, targets))
        adapter.network.conv2.weight.grad[3] = value
        name = r"'conv2\.weight'"
    else:
        backward(adapter.network, (inputs * value, targets))
        name = r"'conv1\.weight'"
    with pytest.raises(Diverged, match=f"gradient of {name} is not finite: nothing was stepped"):
        optimizer.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapter.network.state_dict().items())
    assert all(torch.equal(adapter.task("a").trained[name]["mask_real"], real) for name, real in reals.items())
    optimizer.zero_grad()
    backward(adapter.network, (inputs, targets))
    optimizer.step()
