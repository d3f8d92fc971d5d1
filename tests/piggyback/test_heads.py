"""Heads and weights that several names reach, compiled wrappers, and networks with several heads."""

import copy
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import piggyback
from piggyback.network.heads import Heads
from piggyback.shell.errors import BadInput, BadPayload


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval()


def train(network: nn.Module, optimizer: torch.optim.Optimizer, *, steps: int = 4, size: int = 6) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        out = network(torch.randn(16, size, generator=generator))
        outs = out if isinstance(out, tuple) else (out,)
        sum(F.cross_entropy(one, torch.arange(16) % one.shape[1]) for one in outs).backward()
        optimizer.step()


# -- aliases ------------------------------------------------------------------------------------------------


class Datasets(nn.Module):
    """The form of the Piggyback authors' networks: heads in a list, and the one in use under a name of its own."""

    def __init__(self, order: str = "list first") -> None:
        super().__init__()
        self.shared = nn.Linear(6, 8)
        heads = nn.ModuleList([nn.Linear(8, 3)])
        if order == "list first":
            self.classifiers = heads
        self.classifier = heads[0]
        if order != "list first":
            self.classifiers = heads

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.relu(self.shared(x)))


@pytest.mark.parametrize("order", ["list first", "list last"])
@pytest.mark.parametrize("head", ["classifier", "classifiers.0"])
def test_every_name_of_a_head_follows(head: str, order: str, tmp_path: Path) -> None:
    network = seeded(lambda: Datasets(order))
    before = copy.deepcopy(network.state_dict())
    adapter = piggyback.attach(network, method=piggyback.Binary(), head=head)
    assert adapter.anatomy.weights == ("shared.weight",)
    new = nn.Linear(8, 5)
    adapter.add_task("task", head=new)
    assert network.classifier is network.classifiers[0] is new
    train(network, adapter.optimizer(mask_lr=1e-2, update="eager"))
    base = adapter.base_state_dict()
    assert base.keys() == before.keys()
    assert all(torch.equal(base[name], before[name]) for name in base)
    adapter.save(tmp_path / "task", task="task")
    inputs = torch.randn(3, 6)
    expected = network(inputs)
    assert torch.equal(adapter.merged("task")(inputs), expected)
    other = piggyback.attach(seeded(Datasets), method=piggyback.Binary(), head="classifiers.0")
    other.load(tmp_path / "task")
    assert torch.equal(other.network(inputs), expected)
    adapter.base()
    assert network.classifier is network.classifiers[0] is adapter.base_head


def test_a_head_within_a_shared_block_follows() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3))
            self.two = self.one

        def forward(self, x: Tensor) -> Tensor:
            return self.two(x)

    adapter = piggyback.attach(seeded(Twice), method=piggyback.Binary(), head="two.1")
    adapter.add_task("task", head=nn.Linear(8, 5))
    assert adapter.network(torch.randn(2, 6)).shape == (2, 5)
    assert adapter.anatomy.weights == ("one.0.weight",)


class Hidden(nn.Module):
    def __init__(self, hide: Callable[[nn.Module], object]) -> None:
        super().__init__()
        self.shared = nn.Linear(6, 8)
        self.head = nn.Linear(8, 3)
        self.used = hide(self.head)


@pytest.mark.parametrize("hide", [lambda m: [None, m], lambda m: (m,), lambda m: {"animals": m}], ids="ltd")
def test_a_head_that_a_plain_attribute_holds_is_refused(hide: Callable[[nn.Module], object]) -> None:
    with pytest.raises(BadInput, match="the head 'head' is also held by the attribute 'used'"):
        piggyback.attach(Hidden(hide), method=piggyback.Binary(), head="head")


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (("classifier", "classifiers.0"), "'classifier' and 'classifiers.0' are one module: name it once"),
        (("classifiers", "classifiers.0"), "one lies in the other"),
        (("classifier", "fc"), "no module 'fc'"),
        ("", "no module ''"),
        (3, "the name of a slot"),
        ((nn.Linear(1, 1),), "the name of a slot"),
    ],
)
def test_slots_that_cannot_be(head: object, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        piggyback.attach(Datasets(), method=piggyback.Binary(), head=head)


# -- tied weights -------------------------------------------------------------------------------------------


class Language(nn.Module):
    """Words in and words out by one matrix; the parts are registered in a given order."""

    def __init__(self, order: tuple[str, ...]) -> None:
        super().__init__()
        made = {"embed": nn.Embedding(6, 8), "hidden": nn.Linear(8, 8), "out": nn.Linear(8, 6, bias=False)}
        made["out"].weight = made["embed"].weight
        for name in order:
            self.add_module(name, made[name])
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.out(torch.relu(self.hidden(self.embed(x.argmax(1))))))


ORDERS = list(itertools.permutations(("embed", "hidden", "out")))


def test_a_tied_weight_is_masked_whatever_the_order_of_registration() -> None:
    adapters = [
        piggyback.attach(seeded(lambda o=o: Language(o)), method=piggyback.Binary(), head="head") for o in ORDERS
    ]
    for adapter in adapters:
        assert set(adapter.anatomy.weights) == {"hidden.weight", "out.weight"}
        assert sum(part.size for part in adapter.coverage().parts) == sum(
            p.numel() for p in adapter.network.parameters()
        )
    assert len({adapter.fingerprint for adapter in adapters}) == 1
    adapter = adapters[0]
    adapter.add_task("task", head=nn.Linear(6, 3))
    train(adapter.network, adapter.optimizer(mask_lr=1e-2, update="eager"), steps=8)
    network = adapter.network
    assert network.embed.weight is network.out.weight
    assert (network.embed.weight == 0).any()
    mask = adapter.task("task").kept_of("out.weight")["mask"]
    assert torch.equal(network.embed.weight, torch.where(mask, adapter.frozen["out.weight"], 0.0))


def test_loading_may_untie_weights_before_the_first_task() -> None:
    network = seeded(lambda: Language(("embed", "hidden", "out")))
    adapter = piggyback.attach(network, method=piggyback.Binary(), head="head")
    assert "embed.weight" not in adapter.frozen
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state["embed.weight"] += 1.0
    network.load_state_dict(state, assign=True)
    adapter.add_task("task", head=nn.Linear(6, 3))
    assert torch.equal(adapter.frozen["embed.weight"], state["embed.weight"])
    assert torch.equal(adapter.frozen["out.weight"], state["out.weight"])


@pytest.mark.parametrize("order", ORDERS)
def test_a_weight_of_the_trunk_that_the_head_shares_is_the_trunks(order: tuple[str, ...], tmp_path: Path) -> None:
    """As in language models, whose last layer is their first; registered before the trunk, too."""

    def make() -> nn.Module:
        network = Language(order)
        network.head = nn.Identity()
        return network

    network = seeded(make)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    adapter = piggyback.attach(network, method=piggyback.Finetune(), head="out")
    assert "embed.weight" in adapter.frozen  # so that the fingerprint has it
    other = seeded(make)
    with torch.no_grad():
        other.embed.weight[0, 0] += 1
    assert piggyback.attach(other, method=piggyback.Binary(), head="out").fingerprint != adapter.fingerprint
    adapter.add_task("task", head=nn.Linear(8, 4))
    train(network, adapter.optimizer(weight_lr=1e-2, update="eager"))
    assert not torch.equal(network.embed.weight, before["embed.weight"])
    base = adapter.base_state_dict()
    assert base.keys() == before.keys()
    assert all(torch.equal(base[name], before[name]) for name in base)
    adapter.base()
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert network.out.weight is network.embed.weight


def test_a_tasks_head_may_share_nothing_with_the_network_or_another_head() -> None:
    network = seeded(lambda: Language(("embed", "hidden", "out")))
    adapter = piggyback.attach(network, method=piggyback.Binary(), head="head")
    tied = nn.Linear(8, 6, bias=False)
    tied.weight = network.embed.weight
    with pytest.raises(BadInput, match=r"shares its '0\.weight' with 'out\.weight' of the network.*a copy"):
        adapter.add_task("task", head=nn.Sequential(tied))
    head = nn.Linear(6, 3)
    adapter.add_task("task", head=head)
    again = nn.Linear(6, 3)
    again.bias = head.bias
    with pytest.raises(BadInput, match="belongs to another task already"):
        adapter.add_task("other", head=again)
    assert list(adapter.tasks) == ["task"]


def test_an_inner_part_of_the_head_under_another_name_is_the_trunks() -> None:
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = nn.Linear(6, 8)
            self.fc = nn.Linear(8, 3)
            self.classifier = nn.Sequential(nn.ReLU(), self.fc)

        def forward(self, x: Tensor) -> Tensor:
            return self.classifier(self.shared(x))

    network = seeded(Inner)
    adapter = piggyback.attach(network, method=piggyback.Binary(), head="fc")
    adapter.add_task("task", head=nn.Linear(8, 5))
    assert network(torch.randn(2, 6)).shape == (2, 5)
    adapter.base()
    assert network.classifier[1] is network.fc


@pytest.mark.parametrize(
    "view", [lambda w: w.data, lambda w: w.data.t(), lambda w: w.data[2:]], ids=["all", "turned", "part"]
)
@pytest.mark.parametrize("head", ["3", None])
def test_parameters_that_share_memory_are_refused_with_both_names(view: Callable, head: str | None) -> None:
    network = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2))
    network[2].weight = nn.Parameter(view(network[0].weight))
    with pytest.raises(BadInput, match=r"'[02]\.weight' and '[02]\.weight' are two tensors in the same memory"):
        piggyback.attach(network, method=piggyback.Binary(), head=head)


def test_parameters_side_by_side_in_one_memory_are_welcome() -> None:
    """As recurrent layers keep theirs on a GPU, and optimizers that flatten parameters do."""
    memory = torch.randn(72)
    network = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2))
    network[0].weight, network[1].weight = (nn.Parameter(part.view(6, 6)) for part in memory.split(36))
    adapter = piggyback.attach(network, method=piggyback.Binary(), head="2")
    adapter.add_task("task", head=nn.Linear(6, 2))


# -- compiled wrappers --------------------------------------------------------------------------------------


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Sequential(nn.ReLU(), nn.Linear(8, 8)), nn.Linear(8, 3))


# torch's own, from a graph whose input asks for gradients
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("compiled", ["whole", "part", "layer"])
@pytest.mark.parametrize("form", ["plain", "wrapper's"])
def test_a_compiled_network_has_the_plain_ones_names(compiled: str, form: str, tmp_path: Path) -> None:
    network = seeded(plain)
    shown: nn.Module = network
    if compiled == "whole":
        shown = torch.compile(network, backend="eager")
    elif compiled == "part":
        network[1] = torch.compile(network[1], backend="eager")
    else:
        network[0] = torch.compile(network[0], backend="eager")
    head = "_orig_mod.2" if form != "plain" and compiled == "whole" else "2"
    exclude = "1._orig_mod.1" if form != "plain" and compiled == "part" else ()
    reference = piggyback.attach(seeded(plain), method=piggyback.Binary(), head="2")
    before = reference.base_state_dict()
    adapter = piggyback.attach(shown, method=piggyback.Binary(), head=head, exclude=exclude)
    assert adapter.network is network
    assert adapter.fingerprint == reference.fingerprint
    assert adapter.head_slots == ("2",)
    assert adapter.anatomy.weights == (("0.weight",) if exclude else ("0.weight", "1.1.weight"))
    inputs = torch.randn(3, 6)
    shown(inputs)  # there is a graph of the backbone already
    outputs = {}
    for task, classes in (("one", 5), ("two", 4)):
        adapter.add_task(task, head=nn.Linear(8, classes))
        train(shown, adapter.optimizer(mask_lr=1e-2, update="eager"))
        outputs[task] = shown(inputs)
        assert outputs[task].shape == (3, classes)
        assert torch.equal(outputs[task], network(inputs))
        adapter.save(tmp_path / task, task=task)
    for task in ("one", "two", "one"):
        adapter.switch(task)
        assert torch.equal(shown(inputs), outputs[task])
        assert torch.equal(adapter.merged(task)(inputs), outputs[task])
    for task in outputs:
        reference.load(tmp_path / task)
        assert torch.equal(reference.network(inputs), outputs[task])
    base = adapter.base_state_dict()
    assert base.keys() == before.keys()
    assert all(torch.equal(base[name], before[name]) for name in base)


def test_a_compiled_network_with_modules_behind_layers() -> None:
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(4, 3))
    network[0] = torch.compile(network[0], backend="eager")
    adapter = piggyback.attach(network, method=piggyback.METHODS["series"], head="2")
    adapter.add_task("task", head=nn.Linear(4, 3))
    assert list(adapter.task("task").modules) == ["0"]
    inputs = torch.randn(2, 2, 3, 3)
    before = network(inputs)
    with torch.no_grad():
        adapter.task("task").modules["0"].mix.weight += 1.0
    adapter.switch("task")
    shown = network(inputs)
    assert not torch.allclose(shown, before)
    plain = nn.Sequential(network[0]._orig_mod, network[1], network[2])
    assert torch.allclose(plain(inputs), shown)
    adapter.base()
    assert list(dict(network.named_parameters())) == ["0._orig_mod.weight", "0._orig_mod.bias", "2.weight", "2.bias"]


def test_a_compiled_head_is_saved_by_its_plain_names(tmp_path: Path) -> None:
    adapter = piggyback.attach(seeded(plain), method=piggyback.Binary(), head="2")
    adapter.add_task("task", head=torch.compile(nn.Linear(8, 5), backend="eager"))
    adapter.save(tmp_path / "task", task="task")
    other = piggyback.attach(seeded(plain), method=piggyback.Binary(), head="2")
    other.load(tmp_path / "task")
    assert torch.equal(other.network[2].weight, adapter.network[2].weight)


# -- several heads ------------------------------------------------------------------------------------------


class Aux(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(8, 7)
        self.fc = nn.Linear(7, 3)


class TwoHeads(nn.Module):
    """Like Inception: a second head on an earlier layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.AuxLogits = Aux()
        self.second = nn.Linear(8, 8)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.relu(self.first(x))
        return self.fc(torch.relu(self.second(y))), self.AuxLogits.fc(torch.relu(self.AuxLogits.mix(y)))


SLOTS = ("fc", "AuxLogits.fc")


def two(classes: int = 5) -> dict[str, nn.Module]:
    return {"AuxLogits.fc": nn.Linear(7, classes), "fc": nn.Linear(8, classes)}


def test_a_network_with_two_heads(tmp_path: Path) -> None:
    network = seeded(TwoHeads)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    adapter = piggyback.attach(network, method=piggyback.Binary(), head=SLOTS)
    assert adapter.anatomy.weights == ("first.weight", "AuxLogits.mix.weight", "second.weight")
    assert {part.name for part in adapter.coverage().parts if part.kind == "head"} == {
        *("fc.weight", "fc.bias", "AuxLogits.fc.weight", "AuxLogits.fc.bias"),
    }
    inputs, shown = torch.randn(3, 6), {}
    for task, classes in (("one", 5), ("two", 4)):
        heads = two(classes)
        started = {slot: module.weight.clone() for slot, module in heads.items()}
        adapter.add_task(task, head=heads)
        assert network.fc is heads["fc"]
        assert network.AuxLogits.fc is heads["AuxLogits.fc"]
        train(network, adapter.optimizer(mask_lr=1e-2, head_lr=1e-2, update="eager"))
        assert all(not torch.equal(heads[slot].weight, started[slot]) for slot in SLOTS)
        shown[task] = network(inputs)
        adapter.save(tmp_path / task, task=task)
    for task in ("one", "two"):
        adapter.switch(task)
        assert all(map(torch.equal, network(inputs), shown[task]))
        assert all(map(torch.equal, adapter.merged(task)(inputs), shown[task]))
    base = adapter.base_state_dict()
    assert base.keys() == before.keys()
    assert all(torch.equal(base[name], before[name]) for name in base)

    payload = piggyback.read_payload(tmp_path / "one")
    assert payload.heads == SLOTS
    assert set(payload.head) == {f"{slot}/{part}" for slot in SLOTS for part in ("weight", "bias")}
    other = piggyback.attach(seeded(TwoHeads), method=piggyback.Binary(), head=SLOTS[::-1])
    other.load(tmp_path / "one")
    assert all(map(torch.equal, other.network(inputs), shown["one"]))
    other.load(tmp_path / "two", head={"fc": nn.Linear(8, 4)})  # the other one is made
    assert all(map(torch.equal, other.network(inputs), shown["two"]))
    other.save(tmp_path / "again", task="two")
    assert piggyback.read_payload(tmp_path / "again").head.keys() == payload.head.keys()


def test_checkpoints_have_both_heads() -> None:
    adapters = [piggyback.attach(seeded(TwoHeads), method=piggyback.Binary(), head=SLOTS) for _ in range(2)]
    for adapter in adapters:
        adapter.add_task("task", head=two())
    train(adapters[0].network, adapters[0].optimizer(head_lr=1e-2, update="eager"))
    adapters[1].load_training_state("task", copy.deepcopy(adapters[0].training_state("task")))
    for slot in SLOTS:
        one, other = (adapter.network.get_submodule(slot).weight for adapter in adapters)
        assert torch.equal(one, other)


def test_the_head_of_one_slot_may_come_in_a_mapping(make_network: Callable, make_head: Callable) -> None:
    adapter = piggyback.attach(make_network(), method=piggyback.Binary(), head=["head"])
    head = make_head(0)
    adapter.add_task("task", head={"head": head})
    assert adapter.network.head is adapter.task("task").head is head
    assert adapter.head_slot == "head"


def test_heads_for_other_slots_are_refused(tmp_path: Path) -> None:
    adapter = piggyback.attach(seeded(TwoHeads), method=piggyback.Binary(), head=SLOTS)
    for wrong in (nn.Linear(8, 5), {"fc": nn.Linear(8, 5)}, {**two(), "more": nn.Linear(8, 5)}, {}, None):
        with pytest.raises(BadInput, match=r"AuxLogits\.fc"):
            adapter.add_task("task", head=wrong)
    with pytest.raises(BadInput, match=r"the head slots fc, AuxLogits\.fc: ask for head_slots"):
        _ = adapter.head_slot
    assert not adapter.tasks
    adapter.add_task("task", head=two())
    adapter.save(tmp_path / "task", task="task")
    with pytest.raises(BadInput, match="a mapping of the slots"):
        adapter.load(tmp_path / "task", task="again", head=nn.Linear(8, 5))
    with pytest.raises(BadPayload, match="does not fit the head given"):
        adapter.load(tmp_path / "task", task="again", head=two(classes=4))
    assert list(adapter.tasks) == ["task"]
    assert isinstance(adapter.task("task").head, Heads)


def test_a_file_with_two_heads_on_a_network_with_one(tmp_path: Path) -> None:
    """Without parameters of its own the second slot leaves no trace in the fingerprint."""
    network = nn.Sequential(nn.Linear(8, 8), nn.Identity(), nn.Linear(8, 8))
    both = piggyback.attach(copy.deepcopy(network), method=piggyback.Binary(), head=("1", "2"))
    one = piggyback.attach(network, method=piggyback.Binary(), head="2")
    assert both.fingerprint == one.fingerprint
    both.add_task("both", head={"1": nn.Linear(8, 8), "2": nn.Linear(8, 8)})
    one.add_task("one", head=nn.Linear(8, 8))
    for adapter in (both, one):
        adapter.save(tmp_path / adapter.current, task=adapter.current)
    with pytest.raises(BadPayload, match="heads for the slots 1, 2, the adapter the slots 2"):
        one.load(tmp_path / "both")
    with pytest.raises(BadPayload, match="one head, the adapter the slots 1, 2"):
        both.load(tmp_path / "one")
    assert (list(both.tasks), list(one.tasks)) == (["both"], ["one"])
