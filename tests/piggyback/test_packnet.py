"""PackNet: several tasks after one another on one network, none of which may touch those before it."""

import io
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import piggyback
from piggyback import Adapter
from piggyback.methods.packnet import BACKBONE, FirstPruning, PackNet, join_planes, split_planes
from piggyback.optimizer import AdapterOptimizer
from piggyback.shell.errors import BadInput, NotTrainable

METHOD = PackNet(tasks=3)
TASKS = ("first", "second", "third")
SHARE = 0.75
STEPS = 12
RULES = {
    "adam": (piggyback.AdamRule(weight_decay=0.1), 2e-3),
    "sgd": (piggyback.SGDRule(momentum=0.9, weight_decay=0.1), 2e-1),
}
each_rule = pytest.mark.parametrize("rule", RULES)


@pytest.fixture
def add_next(make_head: Callable) -> Callable[[Adapter, str, str], AdapterOptimizer]:
    """Adds the next task, on top of the ones before it, with its optimizer."""

    def add(adapter: Adapter, task: str, rule: str) -> AdapterOptimizer:
        previous = list(adapter.tasks)[-1] if adapter.tasks else None
        adapter.add_task(task, head=make_head(len(adapter.tasks)), after=previous)
        adapter.train()
        chosen, lr = RULES[rule]
        return adapter.optimizer(mask_lr=lr, head_lr=2e-3, rule=chosen, update="eager")

    return add


def look(adapter: Adapter) -> dict[str, Tensor]:
    """Everything that the network shows: effective weights, norm layers, head, and logits."""
    adapter.eval()
    network = adapter.network
    inputs = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(99))
    with torch.no_grad():
        shown = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        return {**shown, "logits": network(inputs)}


def owners_of(adapter: Adapter, task: str) -> dict[str, Tensor]:
    """Per weight: 0 nobody, 1 the backbone, 2 the first task and so on."""
    state = adapter.task(task)
    return {
        name: (adapter.frozen[name] != 0).to(torch.uint8) + join_planes(state.kept_of(name))
        for name in adapter.anatomy.weights
    }


@pytest.fixture
def train_next(add_next: Callable, make_batches: Callable, run_steps: Callable) -> Callable[..., dict[str, Tensor]]:
    """Adds the next task and trains it, pruned in the middle; what it shows at its end."""

    def train(adapter: Adapter, task: str, rule: str) -> dict[str, Tensor]:
        batches = make_batches(2 * STEPS, seed=len(adapter.tasks))
        optimizer = add_next(adapter, task, rule)
        run_steps(adapter.network, optimizer, batches[:STEPS])
        adapter.prune(SHARE)
        adapter.train()
        run_steps(adapter.network, optimizer, batches[STEPS:])
        return look(adapter)

    return train


@pytest.fixture
def train_all(
    make_ground: Callable, train_next: Callable
) -> Callable[..., tuple[Adapter, dict[str, dict[str, Tensor]]]]:
    """All tasks, and what each showed at its end."""

    def train(rule: str) -> tuple[Adapter, dict[str, dict[str, Tensor]]]:
        adapter = piggyback.attach(make_ground(METHOD), method=METHOD, head="head")
        return adapter, {task: train_next(adapter, task, rule) for task in TASKS}

    return train


@each_rule
def test_earlier_tasks_keep_their_bits_after_every_later_one(
    rule: str, make_ground: Callable, train_next: Callable
) -> None:
    adapter = piggyback.attach(make_ground(METHOD), method=METHOD, head="head")
    base = look(adapter)
    seen: dict[str, dict[str, Tensor]] = {}
    for task in TASKS:
        seen[task] = train_next(adapter, task, rule)
        for earlier, expected in seen.items():
            adapter.switch(earlier)
            found = look(adapter)
            assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
        adapter.base()
        assert all(torch.equal(look(adapter)[name], tensor) for name, tensor in base.items())
    for one, other in pairwise(seen.values()):
        for name in adapter.anatomy.weights:
            assert not torch.equal(one[name], other[name])


@each_rule
def test_owners_only_grow_and_share_nothing(rule: str, train_all: Callable) -> None:
    """A weight has one owner from the task that kept it on, and each later task uses it with the same bits."""
    adapter, seen = train_all(rule)
    owners = {task: owners_of(adapter, task) for task in TASKS}
    for name in adapter.anatomy.weights:
        free = int((adapter.frozen[name] == 0).sum())
        assert free == adapter.frozen[name].numel() // 2
        for number, task in enumerate(TASKS):
            owner = owners[task][name]
            assert torch.equal(owner == BACKBONE, adapter.frozen[name] != 0)
            assert owner.max() == BACKBONE + 1 + number
            own = int((owner == BACKBONE + 1 + number).sum())
            # all that was free, but for what was given back: more where many have never moved, which are equally small
            assert 0 < own <= free - round(SHARE * free)
            free -= own
            assert int((owner == 0).sum()) == free
            assert (seen[task][name][owner == 0] == 0).all()
            assert (seen[task][name][owner == BACKBONE + 1 + number] != 0).all()
        for earlier, later in pairwise(TASKS):
            taken = owners[earlier][name] > 0
            assert torch.equal(owners[later][name][taken], owners[earlier][name][taken])
            assert torch.equal(seen[later][name][taken], seen[earlier][name][taken])


@each_rule
def test_stale_moments_move_nothing_that_is_not_the_tasks_own(
    rule: str, make_ground: Callable, add_next: Callable, make_batches: Callable, run_steps: Callable
) -> None:
    adapter = piggyback.attach(make_ground(METHOD), method=METHOD, head="head")
    for seed, task in enumerate(TASKS[:2]):
        batches = make_batches(2 * STEPS, seed=seed)
        optimizer = add_next(adapter, task, rule)
        run_steps(adapter.network, optimizer, batches[:STEPS])
        adapter.prune(SHARE)
    before = {name: trained["value"].clone() for name, trained in adapter.task(task).trained.items()}
    adapter.train()
    run_steps(adapter.network, optimizer, batches[STEPS:])
    for name, trained in adapter.task(task).trained.items():
        owner, value = trained["owner"], trained["value"]
        shown = adapter.network.get_parameter(name)
        moment = optimizer.state[shown]["value.exp_avg"]
        assert {key.partition(".")[0] for key in optimizer.state[shown] if "exp_avg" in key} == {"value"}  # no owner's
        assert (moment[owner == 0] != 0).double().mean() > 0.1  # the optimizer itself has forgotten nothing
        assert (shown[owner == 0] == 0).all()
        first = owner == BACKBONE + 1
        assert first.any()
        assert torch.equal(value[first], before[name][first])
        assert torch.equal(shown[first], before[name][first])
        assert torch.equal(shown[owner == BACKBONE], adapter.frozen[name][owner == BACKBONE])
        own = owner == BACKBONE + 2
        assert not torch.equal(value[own], before[name][own])


@each_rule
@pytest.mark.parametrize("broken", [STEPS // 2, STEPS + 3])
def test_a_break_before_or_after_the_pruning_changes_no_bit(
    rule: str, broken: int, make_ground: Callable, add_next: Callable, make_batches: Callable, run_steps: Callable
) -> None:
    batches = make_batches(2 * STEPS)

    def begin() -> tuple[Adapter, AdapterOptimizer]:
        adapter = piggyback.attach(make_ground(METHOD), method=METHOD, head="head")
        return adapter, add_next(adapter, "task", rule)

    def go(adapter: Adapter, optimizer: AdapterOptimizer, *, start: int, stop: int) -> None:
        for step in range(start, stop):
            run_steps(adapter.network, optimizer, batches[step : step + 1])
            if step + 1 == STEPS:
                adapter.prune(SHARE)
                adapter.train()

    whole, optimizer = begin()
    go(whole, optimizer, start=0, stop=2 * STEPS)
    first, first_optimizer = begin()
    go(first, first_optimizer, start=0, stop=broken)
    file = io.BytesIO()
    torch.save({"optimizer": first_optimizer.state_dict(), "task": first.training_state("task")}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second, second_optimizer = begin()
    second.load_training_state("task", saved["task"])
    second_optimizer.load_state_dict(saved["optimizer"])
    go(second, second_optimizer, start=broken, stop=2 * STEPS)
    expected, found = look(whole), look(second)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    for name, owner in owners_of(whole, "task").items():
        assert torch.equal(owners_of(second, "task")[name], owner)


def test_the_payload_of_a_later_task_needs_no_other(
    make_ground: Callable, make_head: Callable, train_all: Callable, tmp_path: Path
) -> None:
    adapter, seen = train_all("adam")
    for task in TASKS:
        adapter.save(tmp_path / task, task=task)
    alone = piggyback.attach(make_ground(METHOD), method=METHOD, head="head")
    alone.load(tmp_path / "third")
    found = look(alone)
    assert all(torch.equal(found[name], tensor) for name, tensor in seen["third"].items())
    kept = [piggyback.read_payload(tmp_path / task).bytes_by_kind["value"] for task in TASKS]
    assert kept == sorted(set(kept))  # each holds the values of those before it as well

    going_on = piggyback.attach(make_ground(METHOD), method=METHOD, head="head")
    going_on.load(tmp_path / "first")
    going_on.add_task("second", head=make_head(1), after="first")
    for name, owner in owners_of(going_on, "second").items():
        assert (owner == BACKBONE + 2).sum() == (owners_of(adapter, "first")[name] == 0).sum()
        taken = owners_of(adapter, "first")[name] > 0
        assert torch.equal(going_on.network.get_parameter(name)[taken], seen["first"][name][taken])


# -- what cannot be -------------------------------------------------------------------------------------


def test_more_tasks_than_were_planned_for(make_ground: Callable, make_head: Callable) -> None:
    adapter = piggyback.attach(make_ground(METHOD), method=PackNet(tasks=2), head="head")
    adapter.add_task("first", head=make_head(0))
    adapter.prune(SHARE)
    adapter.add_task("second", head=make_head(1), after="first")
    adapter.prune(SHARE)
    with pytest.raises(BadInput, match="has its 2 tasks already: plan for more"):
        adapter.add_task("third", head=make_head(2), after="second")
    assert list(adapter.tasks) == ["first", "second"]
    assert adapter.current == "second"


def test_no_free_weights_are_left(make_ground: Callable, make_network: Callable, make_head: Callable) -> None:
    adapter = piggyback.attach(make_ground(METHOD), method=METHOD, head="head")
    adapter.add_task("first", head=make_head(0))
    with pytest.raises(BadInput, match=r"no free weights are left in a weight of shape \(8, 3, 3, 3\) for task 2: pr"):
        adapter.add_task("second", head=make_head(1), after="first")  # the first gave nothing back
    assert adapter.current == "first"
    whole = piggyback.attach(make_network(), method=METHOD, head="head")  # nobody has pruned it
    with pytest.raises(BadInput, match=r"'packnet' finds nothing to train.*no weight is free.*first_prune"):
        whole.add_task("first", head=make_head(0))
    assert not whole.tasks
    network = make_network()
    with torch.no_grad():
        network.hidden.weight[0] = 0.0  # one layer alone has free weights
    whole = piggyback.attach(network, method=METHOD, head="head")
    whole.add_task("first", head=make_head(0))
    with pytest.raises(BadInput, match=r"left in conv1\.weight for task 1: prune more .* first_prune and prune"):
        whole.prune(SHARE)


def test_what_gives_nothing_back(
    make_network: Callable, make_ground: Callable, make_head: Callable, tmp_path: Path
) -> None:
    adapter = piggyback.attach(make_network(), method=piggyback.Binary(), head="head")
    with pytest.raises(NotTrainable, match="add a task before pruning"):
        adapter.prune(SHARE)
    adapter.add_task("task", head=make_head(0))
    with pytest.raises(BadInput, match="tasks of method 'piggyback' give no weights back: there is nothing to prune"):
        adapter.prune(SHARE)
    done = piggyback.attach(make_ground(METHOD), method=METHOD, head="head")
    done.add_task("task", head=make_head(0))
    done.save(tmp_path / "task", task="task")
    done.load(tmp_path / "task", task="loaded")
    with pytest.raises(NotTrainable, match="task 'loaded' was loaded from a payload"):
        done.prune(SHARE)


def test_hooks_for_a_sequence() -> None:
    assert METHOD.for_tasks(5) == PackNet(tasks=5)
    assert METHOD.first(0.25) == FirstPruning(share=0.25)


@pytest.mark.parametrize("tasks", [0, -1, 254, 2.0, "3", True])
def test_how_many_tasks_there_may_be(tasks: object) -> None:
    with pytest.raises(ValueError, match=f"PackNet adds 1 to 253 tasks, not {tasks}"):
        PackNet(tasks=tasks)  # type: ignore[arg-type]


def test_what_a_task_may_follow(make_ground: Callable, make_head: Callable) -> None:
    adapter = piggyback.attach(make_ground(METHOD), method=METHOD, head="head")
    adapter.add_task("first", head=make_head(0))
    adapter.add_task("masks", head=make_head(1), method=piggyback.Binary())
    with pytest.raises(BadInput, match="by 'piggyback', so no task by 'packnet' can build on it"):
        adapter.add_task("second", head=make_head(2), after="masks")
    with pytest.raises(BadInput, match="so no task by 'packnet' can build"):
        adapter.add_task("second", head=make_head(2), after="first", method=PackNet(tasks=4))
    for name in ("piggyback", "feature", "finetune"):
        with pytest.raises(BadInput, match=f"'{name}' do not build on one another"):
            adapter.add_task("second", head=make_head(2), after="first", method=piggyback.METHODS[name])
    assert list(adapter.tasks) == ["first", "masks"]


# -- pruning by hand ------------------------------------------------------------------------------------


def dealt(values: list[float], *, others: int = 0) -> dict[str, Tensor]:
    """The state of the second task, which owns these; so many more are the first one's, with small values."""
    owner = [3] * len(values) + [2] * others
    value = torch.tensor([*values, *[0.001] * others])
    return {"owner": torch.tensor(owner, dtype=torch.uint8), "value": value, "task": torch.tensor(3)}


@pytest.mark.parametrize(
    ("values", "share", "left"),
    [
        ([4.0, -3.0, 2.0, -1.0], 0.5, [4.0, -3.0]),  # by size, not by sign
        ([1.0, -1.0, 1.0, 2.0], 0.25, [2.0]),  # one was to go, but three stand at the cutoff
        ([1.0, 1.0, 1.0, 1.0], 0.75, []),
        ([3.0], 0.25, [3.0]),  # round(0.25): none, where kthvalue(0) would fail
        ([3.0], 0.75, []),
        ([3.0, 2.0], 0.0, [3.0, 2.0]),
        ([3.0, 2.0], 1.0, []),
        ([0.0, 0.0, 3.0, 2.0], 0.25, [3.0, 2.0]),  # weights that never moved go together
    ],
)
def test_the_smallest_of_the_tasks_own_are_given_back(values: list[float], share: float, left: list[float]) -> None:
    trained = dealt(values, others=5)
    METHOD.prune(trained, share=share, name="layer")
    own = trained["owner"] == 3
    assert trained["value"][own].tolist() == left
    gone = trained["owner"] == 0
    assert int(gone.sum()) == len(values) - len(left)
    assert (trained["value"][gone] == 0).all()
    assert int((trained["owner"] == 2).sum()) == 5
    assert (trained["value"][-5:] == torch.tensor(0.001)).all()


def test_numbers_of_owners_survive_their_planes() -> None:
    """253 tasks, the most there may be, take 254 numbers: eight planes."""
    owner = torch.arange(256, dtype=torch.uint8)
    planes = split_planes(owner, count=8)
    assert [key for key in planes] == [f"owner{bit}" for bit in range(8)]
    assert planes["owner0"].tolist() == [False, True] * 128
    assert torch.equal(join_planes({**planes, "value": torch.zeros(256)}), owner)


@each_rule
def test_the_first_pruning_leaves_a_network_with_half_of_each_weight_free(
    rule: str, make_network: Callable, make_batches: Callable, run_steps: Callable
) -> None:
    network = make_network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    adapter = piggyback.attach(network, method=FirstPruning(share=0.5), head="head", norm="trained")
    adapter.add_task("own", head=nn.Linear(24, 4))
    smaller = {}
    for name in adapter.anatomy.weights:
        sizes = before[name].abs().flatten()
        smaller[name] = (before[name].abs() <= sizes.sort().values[len(sizes) // 2 - 1]).clone()
        assert smaller[name].sum() == len(sizes) // 2
        expected = torch.where(smaller[name], 0.0, before[name])
        assert torch.equal(network.get_parameter(name), expected)
    chosen, lr = RULES[rule]
    adapter.train()
    optimizer = adapter.optimizer(mask_lr=lr, head_lr=2e-3, rule=chosen, update="eager")
    run_steps(network, optimizer, make_batches(STEPS))
    plain = adapter.merged("own")
    for name, gone in smaller.items():
        weight = plain.get_parameter(name)
        assert torch.equal(weight == 0, gone)
        assert (weight[~gone] != before[name][~gone]).double().mean() > 0.5
    packed = piggyback.attach(plain, method=METHOD, head="head")
    packed.add_task("first", head=nn.Linear(24, 4))
    for name, trained in packed.task("first").trained.items():
        assert torch.equal(trained["owner"] == BACKBONE + 1, smaller[name])


def test_a_first_pruning_of_next_to_nothing() -> None:
    weight = torch.tensor([[3.0, 0.0, -1.0]])
    kept = FirstPruning(share=0.1).start(weight)  # round(0.3) is 0, but a zero is no weight that is used
    assert kept["used"].tolist() == [[True, False, True]]
    kept = FirstPruning(share=0.5).start(torch.tensor([[1.0, -1.0, 1.0, 2.0]]))  # ties go with the cutoff
    assert kept["value"].tolist() == [[0.0, 0.0, 0.0, 2.0]]
