"""Arguments are checked where they come in, and nothing is left half-done after an error."""

import copy
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import piggyback
from piggyback import METHODS, Adapter, Binary, Ternary
from piggyback.methods.series import Series
from piggyback.shell.errors import BadInput, UnknownName

INPUTS, TARGETS = torch.ones(2, 3, 8, 8), torch.tensor([0, 1])


@pytest.fixture
def adapter(make_network: Callable, make_head: Callable) -> Adapter:
    """With a task that has been trained a step, in training mode, and gradients of the next step."""
    adapter = piggyback.attach(make_network(), method=Binary(), head="head")
    adapter.add_task("task", head=make_head(0))
    optimizer = adapter.optimizer(mask_lr=1e-2, update="eager")
    adapter.train()
    for _ in range(2):
        F.cross_entropy(adapter.network(INPUTS), TARGETS).backward()
        optimizer.step()
    return adapter


class unchanged:  # noqa: N801 -- reads as a statement
    """The block raises `error`, and adapter and network are as they were before it."""

    def __init__(self, adapter: Adapter, error: type[BaseException], match: str | None = None) -> None:
        self.adapter, self.raises = adapter, pytest.raises(error, match=match)

    def look(self) -> dict[str, Any]:
        network = self.adapter.network
        return {
            "tasks": list(self.adapter.tasks),
            "current": self.adapter.current,
            "head": network.head,
            "modes": [module.training for module in network.modules()],
            "asks": [parameter.requires_grad for parameter in network.parameters()],
            "grads": [parameter.grad for parameter in network.parameters()],
            "hooks": [len(module._forward_hooks) for module in network.modules()],
        }

    def __enter__(self) -> None:
        self.before, self.values = self.look(), copy.deepcopy(self.adapter.network.state_dict())
        self.raises.__enter__()

    def __exit__(self, *fault: Any) -> bool:
        caught = self.raises.__exit__(*fault)
        found, values = self.look(), self.adapter.network.state_dict()
        for key, value in self.before.items():
            if key == "grads":
                assert all(a is b for a, b in zip(value, found[key], strict=True))
            else:
                assert found[key] == value, key
        assert values.keys() == self.values.keys()
        assert all(torch.equal(tensor, self.values[key]) for key, tensor in values.items())
        self.adapter.look()
        return caught


# -- methods ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("piggyback", Binary()),
        (Binary, Binary()),
        (Binary(init=0.5), Binary(init=0.5)),
        ("piggyback-ternary", Ternary()),
    ],
)
def test_methods_by_name_class_and_object(
    make_network: Callable, make_head: Callable, given: Any, expected: piggyback.Method
) -> None:
    adapter = piggyback.attach(make_network(), method=given, head="head")
    assert adapter.method == expected
    adapter.add_task("own", head=make_head(0))
    assert adapter.task("own").method == expected
    adapter.add_task("other", head=make_head(1), method="affine")
    assert adapter.task("other").method == METHODS["affine"]
    adapter.add_task("third", head=make_head(2), method=Ternary)
    assert adapter.task("third").method == Ternary()


@dataclass
class Loose(Binary.__mro__[1]):  # type: ignore[misc] # not frozen, so that equal settings are not one method
    pass


class NeedsSettings:
    def __init__(self, *, share: float) -> None:
        self.share = share


@pytest.mark.parametrize("method", [None, 1, object(), nn.Linear(1, 1), Loose, NeedsSettings, ["piggyback"]])
def test_what_is_no_method(adapter: Adapter, make_network: Callable, make_head: Callable, method: object) -> None:
    with pytest.raises(BadInput, match=r"method"):
        piggyback.attach(make_network(), method=method, head="head")
    if method is not None:  # which means the adapter's own
        with unchanged(adapter, BadInput, "method"):
            adapter.add_task("b", head=make_head(1), method=method)
    with unchanged(adapter, UnknownName, r"no method is called 'pigyback'\. Did you mean 'piggyback'"):
        adapter.add_task("b", head=make_head(1), method="pigyback")


@pytest.mark.parametrize("norm", ["train", "TRAINED", True, 1, ""])
def test_words_for_norm_layers(adapter: Adapter, make_network: Callable, make_head: Callable, norm: Any) -> None:
    message = "norm is one of 'fixed', 'statistics', 'trained', not "
    with pytest.raises(BadInput, match=message):
        piggyback.attach(make_network(), method=Binary(), head="head", norm=norm)
    with unchanged(adapter, BadInput, message):
        adapter.add_task("b", head=make_head(1), norm=norm)


def test_forms_of_updates(adapter: Adapter) -> None:
    with unchanged(adapter, BadInput, "update is 'auto', 'compiled' or 'eager', not fast"):
        adapter.optimizer(update="fast")


# -- names and files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "\x1b[31m", "a" * 201, "\ud800", 3, None, ("a",)])
def test_names_that_no_file_could_carry(adapter: Adapter, make_head: Callable, tmp_path: Path, name: Any) -> None:
    with unchanged(adapter, BadInput, r"a task's name is 1 to 200 characters of text that print, not .{1,80}$"):
        adapter.add_task(name, head=make_head(1))
    adapter.save(tmp_path / "task", task="task")
    if name is not None:  # which means the file's own
        with unchanged(adapter, BadInput, "a task's name is .* by task="):
            adapter.load(tmp_path / "task", task=name)


@pytest.mark.parametrize("name", ["a", "a" * 200, "Vögel/2 — 鳥", "../up"])
def test_other_names_come_back_from_a_file(
    make_network: Callable, make_head: Callable, tmp_path: Path, name: str
) -> None:
    adapter = piggyback.attach(make_network(), method=Binary(), head="head")
    adapter.add_task(name, head=make_head(0))
    adapter.save(tmp_path / "task", task=name)
    assert piggyback.read_payload(tmp_path / "task").task == name
    other = piggyback.attach(make_network(), method=Binary(), head="head")
    assert other.load(tmp_path / "task") == name


@pytest.mark.parametrize("name", [None, 3, ["task"]])
def test_tasks_are_asked_for_by_text(adapter: Adapter, name: Any) -> None:
    with unchanged(adapter, BadInput, "a task is asked for by its name, a text"):
        adapter.switch(name)


def test_payloads_are_read_by_path_or_text(adapter: Adapter, tmp_path: Path) -> None:
    path = tmp_path / "task.safetensors"
    adapter.save(str(path), task="task")
    assert piggyback.read_payload(str(path)).task == piggyback.read_payload(path).task == "task"
    with pytest.raises(BadInput, match="cannot read a string: No such file"):
        piggyback.read_payload("a string")


def test_saving_makes_no_folders(adapter: Adapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with unchanged(adapter, BadInput, f"no folder {tmp_path / 'runs' / 'one'} to save into"):
        adapter.save(tmp_path / "runs" / "one" / "task.safetensors", task="task")
    assert os.listdir(tmp_path) == []
    (tmp_path / "folder").mkdir()
    with unchanged(adapter, BadInput, "folder is a folder: give the path of a file in it"):
        adapter.save(tmp_path / "folder", task="task")
    with unchanged(adapter, UnknownName, "Did you mean 'task'"):
        adapter.save(tmp_path / "task", task="tasks")
    monkeypatch.chdir(tmp_path)
    adapter.save("task.safetensors", task="task")
    assert sorted(os.listdir(tmp_path)) == ["folder", "task.safetensors"]


# -- networks and heads -----------------------------------------------------------------------------------------


def inference_network(network: nn.Module) -> nn.Module:
    with torch.inference_mode():
        network.conv2.weight = nn.Parameter(torch.ones(16, 4, 3, 3), requires_grad=False)
    return network


def with_layer(layer: nn.Module) -> Callable[[nn.Module], nn.Module]:
    def put(network: nn.Module) -> nn.Module:
        network.hidden = layer
        return network

    return put


def int8_linear() -> nn.Module:
    layer = nn.Linear(64, 24)
    layer.weight = nn.Parameter(torch.ones(24, 64, dtype=torch.int8), requires_grad=False)
    return layer


def sparse_linear() -> nn.Module:
    layer = nn.Linear(64, 24)
    layer.weight = nn.Parameter(torch.eye(24, 64).to_sparse(), requires_grad=False)
    return layer


class Quantized(nn.Module):
    __module__ = "torch.ao.nn.quantized.modules.linear"  # torch's own need a backend that a build may lack

    def weight(self) -> torch.Tensor:
        return torch.zeros(2, 2)


NETWORKS = {
    "meta": (lambda n: n.to("meta"), r"'conv1\.weight' is on the meta device.*to_empty"),
    "inference": (inference_network, r"'conv2\.weight' was made under torch\.inference_mode.*outside"),
    "lazy": (with_layer(nn.LazyLinear(24)), r"'hidden\.weight' has no shape yet: run one batch"),
    "int8": (with_layer(int8_linear()), r"'hidden\.weight' is int8, no floating.*attach to the network as it was"),
    "float8": (lambda n: n.to(torch.float8_e4m3fn), r"'conv1\.weight' is float8_e4m3fn"),
    "complex": (
        with_layer(nn.Linear(64, 24, dtype=torch.complex64)),
        r"'hidden\.weight' is complex64.*cannot be masked",
    ),
    "sparse": (with_layer(sparse_linear()), r"'hidden\.weight' is sparse_coo"),
    "quantized": (with_layer(Quantized()), r"Quantized \(hidden\) is quantized.*merged\(task\)"),
    "a class": (lambda _: nn.Linear, "must be a torch.nn.Module, not the class Linear itself"),
    "weights": (lambda n: n.state_dict(), "must be a torch.nn.Module, not a OrderedDict"),
}


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
@pytest.mark.parametrize("kind", NETWORKS)
def test_networks_that_no_task_could_be_put_onto(make_network: Callable, kind: str) -> None:
    change, message = NETWORKS[kind]
    network = change(make_network())
    asks = [p.requires_grad for p in network.parameters()] if isinstance(network, nn.Module) else []
    with pytest.raises(BadInput, match=message):
        piggyback.attach(network, method=Binary(), head="head")
    assert asks == ([p.requires_grad for p in network.parameters()] if isinstance(network, nn.Module) else [])


def test_numbers_of_other_types_elsewhere_are_fine(make_network: Callable, make_head: Callable) -> None:
    network = make_network()
    network.register_buffer("places", torch.arange(3))
    network.register_parameter("phase", nn.Parameter(torch.ones(2, dtype=torch.complex64)))
    adapter = piggyback.attach(network, method=Binary(), head="head")
    adapter.add_task("task", head=make_head(0))
    assert network(INPUTS).shape == (2, 4)


def test_everything_works_under_inference_mode(make_network: Callable, make_head: Callable, tmp_path: Path) -> None:
    """As evaluation scripts are written; what is made there can be trained all the same."""
    network, head = make_network(), make_head(0)
    with torch.inference_mode():
        adapter = piggyback.attach(network, method=Binary(), head="head", norm="trained")
    with torch.inference_mode():
        adapter.add_task("a", head=head)
        adapter.save(tmp_path / "a", task="a")
        adapter.base()
        adapter.switch("a")
        adapter.load(tmp_path / "a", task="b")
        adapter.switch("a")
        adapter.merged("b")
    optimizer = adapter.optimizer(update="eager")
    adapter.train()
    F.cross_entropy(adapter.network(INPUTS), TARGETS).backward()
    optimizer.step()
    adapter.load_training_state("a", adapter.training_state("a"))


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
@pytest.mark.parametrize(
    ("head", "message"),
    [
        (nn.Linear, "not the class Linear itself"),
        ("head", "not a str"),
        (nn.Linear(24, 4, device="meta"), "the head's 'weight' is on the meta device"),
        (nn.LazyLinear(4), "the head's 'weight' has no shape yet"),
    ],
)
def test_heads_that_could_not_be_trained(adapter: Adapter, tmp_path: Path, head: Any, message: str) -> None:
    with unchanged(adapter, BadInput, message):
        adapter.add_task("b", head=head)
    adapter.save(tmp_path / "a", task="task")
    with unchanged(adapter, BadInput, message):
        adapter.load(tmp_path / "a", task="b", head=head)


# -- nothing half-done ------------------------------------------------------------------------------------------


class Broken(RuntimeError):
    pass


class StuckHead(nn.Linear):
    """It cannot be moved, as when the memory of a GPU runs out."""

    def _apply(self, *_: Any, **__: Any) -> nn.Module:
        raise Broken


def raise_broken(*_: Any, **__: Any) -> Any:
    raise Broken


@pytest.mark.parametrize("step", ["start", "keep", "apply"])
def test_a_method_that_fails(adapter: Adapter, make_head: Callable, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    monkeypatch.setattr(Ternary, step, raise_broken)
    with unchanged(adapter, Broken):
        adapter.add_task("b", head=make_head(1), method=Ternary())
    monkeypatch.undo()
    adapter.add_task("b", head=make_head(1), method=Ternary())


def test_a_module_that_fails(adapter: Adapter, make_head: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Series, "module", raise_broken)
    with unchanged(adapter, Broken):
        adapter.add_task("b", head=make_head(1), method="series")


def test_a_head_that_cannot_be_moved(adapter: Adapter) -> None:
    with unchanged(adapter, Broken):
        adapter.add_task("b", head=StuckHead(24, 4))


@pytest.mark.parametrize("interrupt", [Broken, KeyboardInterrupt])
@pytest.mark.parametrize("how", ["add", "switch", "load", "base"])
def test_showing_fails_in_its_middle(
    adapter: Adapter,
    make_head: Callable,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    how: str,
    interrupt: type[BaseException],
) -> None:
    """At the last thing that is done: weights, modules and head have changed by then."""
    adapter.save(tmp_path / "task", task="task")
    adapter.add_task("other", head=make_head(1), method="series")
    adapter.switch("task")
    F.cross_entropy(adapter.network(INPUTS), TARGETS).backward()
    acts: Mapping[str, Callable[[], Any]] = {
        "add": lambda: adapter.add_task("b", head=make_head(2), method="series", norm="trained"),
        "switch": lambda: adapter.switch("other"),
        "load": lambda: adapter.load(tmp_path / "task", task="b"),
        "base": adapter.base,
    }
    faults: Iterator[type[BaseException] | None] = iter([interrupt])
    set_modes = Adapter._set_modes

    def fail_once(self: Adapter, mode: bool) -> None:
        if (fault := next(faults, None)) is not None:
            raise fault
        set_modes(self, mode)

    monkeypatch.setattr(Adapter, "_set_modes", fail_once)
    with unchanged(adapter, interrupt):
        acts[how]()
    monkeypatch.undo()
    acts[how]()


def test_a_failed_load_leaves_the_head_as_it_was(adapter: Adapter, make_head: Callable, tmp_path: Path) -> None:
    adapter.save(tmp_path / "a", task="task")
    wrong = nn.Sequential(nn.Linear(24, 4))
    fitting, values = make_head(3), make_head(3).weight
    with unchanged(adapter, BadInput, "there is a task 'task' already"):
        adapter.load(tmp_path / "a", head=fitting)
    assert torch.equal(fitting.weight, values)
    before = copy.deepcopy(wrong.state_dict())
    with unchanged(adapter, BadInput, "does not fit the head given"):
        adapter.load(tmp_path / "a", task="b", head=wrong)
    assert all(torch.equal(tensor, before[key]) for key, tensor in wrong.state_dict().items())
    half = nn.Linear(24, 5)  # its weight does not fit, its name does
    before = copy.deepcopy(half.state_dict())
    with unchanged(adapter, BadInput, "does not fit the head given"):
        adapter.load(tmp_path / "a", task="b", head=half)
    assert all(torch.equal(tensor, before[key]) for key, tensor in half.state_dict().items())


def test_an_optimizer_that_fails_leaves_the_task_as_it_was(adapter: Adapter) -> None:
    real: Tensor = adapter.task("task").trained["conv1.weight"]["mask_real"].clone()
    for wrong in ({"mask_lr": -1}, {"rule": torch.optim.LBFGS}, {"head_rule": "adamw"}, {"norm_lr": "1"}):
        with unchanged(adapter, piggyback.shell.errors.PiggybackError):
            adapter.optimizer(**wrong)
    assert torch.equal(adapter.task("task").trained["conv1.weight"]["mask_real"], real)
