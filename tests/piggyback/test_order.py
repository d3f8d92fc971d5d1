"""Whether the order in which tasks are added matters: not to Piggyback (paper, section 1), but to PackNet."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

import piggyback
from piggyback import METHODS, Method
from piggyback.methods.contract import Follows

TASKS = ("a", "b", "c")
AGNOSTIC = sorted(
    name for name, method in METHODS.items() if method.stands_on == "backbone" and method.adapts != "anew"
)


def train_in_order(
    method: Method,
    order: Sequence[str],
    network: nn.Module,
    train: Callable[[piggyback.Adapter, str, str | None], None],
) -> dict[str, dict[str, Tensor]]:
    """The network's tensors as each task has them at the end, by task."""
    adapter = piggyback.attach(network, method=method, head="head")
    for before, name in zip((None, *order), order, strict=False):
        train(adapter, name, before if isinstance(method, Follows) else None)
    return {name: adapter.merged(name).state_dict() for name in order}


@pytest.fixture
def train(make_head: Callable, make_batches: Callable, run_steps: Callable) -> Callable:
    """Adds a task with pictures and a head of its own, whatever its place, and trains it."""

    def run(adapter: piggyback.Adapter, name: str, after: str | None) -> None:
        number = TASKS.index(name)
        adapter.add_task(name, head=make_head(number), after=after)
        adapter.train()
        optimizer = adapter.optimizer(mask_lr=2e-3, head_lr=2e-3, update="eager")
        run_steps(adapter.network, optimizer, make_batches(12, seed=number))
        if isinstance(adapter.method, Follows):
            adapter.prune(0.5)

    return run


def prune(network: nn.Module) -> nn.Module:
    """Half of each weight is free."""
    with torch.no_grad():
        for layer in (network.conv1, network.conv2, network.hidden):
            layer.weight[layer.weight.abs() < layer.weight.abs().median()] = 0
    return network


@pytest.mark.parametrize("name", AGNOSTIC)
def test_tasks_have_the_same_bits_in_every_order(name: str, make_network: Callable, train: Callable) -> None:
    one = train_in_order(METHODS[name], TASKS, make_network(), train)
    other = train_in_order(METHODS[name], TASKS[::-1], make_network(), train)
    for task in TASKS:
        assert one[task].keys() == other[task].keys()
        assert all(torch.equal(one[task][key], other[task][key]) for key in one[task])
    assert not torch.equal(one["a"]["head.weight"], one["b"]["head.weight"])


def test_packnets_order_matters(make_network: Callable, train: Callable) -> None:
    one = train_in_order(METHODS["packnet"], TASKS, prune(make_network()), train)
    other = train_in_order(METHODS["packnet"], TASKS[::-1], prune(make_network()), train)
    for task in TASKS:
        assert not torch.equal(one[task]["conv2.weight"], other[task]["conv2.weight"])
    used = {task: int((one[task]["conv2.weight"] != 0).sum()) for task in TASKS}
    assert used["a"] < used["b"] < used["c"]  # each uses its own and those of all before it
