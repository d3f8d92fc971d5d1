"""Numbers, modules and shapes in payloads: files whose digest is right, made by somebody who means harm."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

import piggyback
from piggyback import METHODS, Adapter
from piggyback.payload import BLANK, KEY, check, seal
from piggyback.shell.errors import BadInput, BadPayload
from piggyback.suite.verbs.core_options import ShowOptions
from piggyback.suite.verbs.payload_show import run_show

Parts = dict[str, Tensor]
Edit = Callable[[dict[str, Any], Parts], object]
CONV, LINEAR = "0.weight", "2.weight"


def build(name: str, *, double: bool = False) -> Adapter:
    """A convolution of 4 x 2 kernels and a square linear layer, half of each zero; in it the method's task."""
    torch.manual_seed(0)
    flatten = nn.Sequential(nn.BatchNorm2d(4), nn.Flatten()) if name == "norm" else nn.Flatten()
    network = nn.Sequential(nn.Conv2d(2, 4, 3), flatten, nn.Linear(4, 4), nn.Linear(4, 2))
    with torch.no_grad():
        for layer in (network[0], network[2]):
            layer.weight[layer.weight < 0] = 0.0
    return piggyback.attach(network.double() if double else network, method=METHODS[name], head="3")


def add_drawn(adapter: Adapter) -> None:
    """A task with numbers drawn at random for everything that it trains."""
    begin = {"begin": adapter.base_state_dict()} if adapter.method.adapts == "anew" else {}
    dtype = adapter.frozen[LINEAR].dtype  # a head keeps its type
    adapter.add_task("task", head=nn.Linear(4, 3, dtype=dtype), **begin)
    state = adapter.task("task")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for trained in state.trained.values():
            for tensor in (tensor for tensor in trained.values() if tensor.is_floating_point()):
                tensor.uniform_(-0.02, 0.02, generator=generator)
        for module in state.modules.values():
            for tensor in module.parameters():
                tensor.uniform_(0.1, 0.9, generator=generator)
    adapter.switch("task")


def forge(path: Path, name: str, edit: Edit) -> None:
    """A method's payload with another header or other parts, and the digest that belongs to them."""
    adapter = build(name)
    add_drawn(adapter)
    adapter.save(path, task="task")
    data = path.read_bytes()
    header, parts = check(data), load(data)
    header["sha256"] = BLANK
    edit(header, parts)
    path.write_bytes(seal(save(parts, metadata={KEY: json.dumps(header, sort_keys=True)})))


def drop(part: str) -> Edit:
    return lambda header, parts: parts.pop(part)


def put(part: str, tensor: Tensor) -> Edit:
    return lambda header, parts: parts.update({part: tensor})


def shorten(part: str) -> Edit:
    return lambda header, parts: parts.update({part: parts[part][:-1].clone()})


def lengthen(part: str) -> Edit:
    return lambda header, parts: parts.update({part: torch.cat([parts[part], parts[part][:1]])})


def head_entry(key: str, value: Any) -> Edit:
    return lambda header, parts: header.update({key: value})


def shape_entry(name: str, value: Any) -> Edit:
    return lambda header, parts: header["shapes"].update({name: value})


def setting(**values: Any) -> Edit:
    return lambda header, parts: header["method"].update(values)


def rename_plane(plane: str, to: str) -> Edit:
    """Give the bits of a plane to a key that the method does not have, or has already."""

    def edit(header: dict[str, Any], parts: Parts) -> None:
        parts[f"mask/{to}/{LINEAR}"] = parts.pop(f"mask/{plane}/{LINEAR}")
        header["masks"][f"{to}/{LINEAR}"] = header["masks"].pop(f"{plane}/{LINEAR}")

    return edit


def reshape_plane(key: str, shape: list[int]) -> Edit:
    return lambda header, parts: header["masks"][f"{key}/{LINEAR}"].update(shape=shape)


def unmask(header: dict[str, Any], parts: Parts) -> None:
    """Numbers where the mask's bits were, of the right shape."""
    header["masks"].pop(f"mask/{LINEAR}")
    parts.pop(f"mask/mask/{LINEAR}")
    parts[f"value/mask/{LINEAR}"] = torch.ones(4, 4)


@pytest.mark.parametrize("name", METHODS)
def test_an_unchanged_forgery_is_the_file_itself(name: str, tmp_path: Path) -> None:
    adapter = build(name)
    add_drawn(adapter)
    adapter.save(tmp_path / "whole", task="task")
    forge(tmp_path / "forged", name, lambda header, parts: None)
    header_of_head = len(tmp_path.joinpath("whole").read_bytes())
    assert len((tmp_path / "forged").read_bytes()) == header_of_head
    assert build(name).load(tmp_path / "forged") == "task"


SOFT, VALUE, MIX = f"value/soft/{LINEAR}", f"value/value/{LINEAR}", "module/mix.weight/0"
FORGERIES: dict[str, tuple[str, Edit]] = {
    # KSM: a number for each masked kernel
    "a soft value too few": ("ksm", shorten(SOFT)),
    "a soft value too many": ("ksm", lengthen(SOFT)),
    "no soft values": ("ksm", drop(SOFT)),
    "soft values in full": ("ksm", put(SOFT, torch.zeros(4, 4))),
    "soft values of another type": ("ksm", lambda header, parts: parts.update({SOFT: parts[SOFT].double()})),
    "soft values of eight bits": ("ksm", lambda header, parts: parts.update({SOFT: parts[SOFT].to(torch.float8_e5m2)})),
    "no mask for the soft values": ("ksm", drop(f"mask/mask/{LINEAR}")),
    "a mask of numbers": ("ksm", unmask),
    "a mask of another shape": ("ksm", reshape_plane("mask", [16])),
    "another mask": ("ksm", rename_plane("mask", "negative")),
    # PackNet: planes of owners' numbers, and a value for each that is owned
    "a value too few": ("packnet", shorten(VALUE)),
    "a value too many": ("packnet", lengthen(VALUE)),
    "no values": ("packnet", drop(VALUE)),
    "a plane too few": ("packnet", drop(f"mask/owner3/{LINEAR}")),
    "no planes": ("packnet", lambda header, parts: [parts.pop(f"mask/owner{bit}/{LINEAR}") for bit in range(4)]),
    "a plane of another shape": ("packnet", reshape_plane("owner1", [16])),
    "planes of another number": ("packnet", rename_plane("owner3", "owner5")),
    "planes that are a task's": ("packnet", rename_plane("owner3", "task")),
    "planes of numbers": ("packnet", put(f"value/owner3/{LINEAR}", torch.zeros(4, 4))),
    "no task's number": ("packnet", drop(f"value/task/{LINEAR}")),
    "two numbers of tasks": ("packnet", put(f"value/task/{LINEAR}", torch.tensor([2, 2], dtype=torch.uint8))),
    "planes for fewer tasks": ("packnet", setting(tasks=3)),
    "half a task": ("packnet", setting(tasks=9.5)),
    # numbers of other methods
    "five scalars": ("affine", put(f"value/scalars/{LINEAR}", torch.zeros(5))),
    "a list for a setting": ("affine", setting(train_k0=[True])),
    "a setting too large": ("affine", setting(init=1e300)),
    "a setting beyond any float": ("piggyback", setting(init=10**400)),
    "a controller too small": ("dan", put(f"value/controller/{LINEAR}", torch.zeros(3, 3))),
    "a controller of another type": ("dan", put(f"value/controller/{LINEAR}", torch.zeros(4, 4, dtype=torch.int64))),
    "no controller": ("dan", drop(f"value/controller/{LINEAR}")),
    "an adapter for a layer without one": ("parallel", put(f"value/adapter/{LINEAR}", torch.zeros(4, 4))),
    "no adapter": ("parallel", drop(f"value/adapter/{CONV}")),
    "numbers for a method that keeps none": ("norm", put(f"value/mask/{CONV}", torch.zeros(4))),
    # modules
    "a module without its weight": ("series", drop(MIX)),
    "a module's weight too small": ("series", shorten(MIX)),
    "a module with more": ("series", put("module/more/0", torch.zeros(4))),
    "a module behind a linear layer": ("series", put("module/mix.weight/2", torch.zeros(4, 4, 1, 1))),
    "a module behind nothing": ("series", put("module/mix.weight", torch.zeros(4, 4, 1, 1))),
    "a module for a method that has none": ("piggyback", put(MIX, torch.zeros(4, 4, 1, 1))),
    # shapes
    **{f"{value!r} for shapes": ("ksm", head_entry("shapes", value)) for value in (7, None, [], "4 x 4", {CONV: 4})},
    **{
        f"a weight of shape {shape!r}": ("ksm", shape_entry(CONV, shape))
        for shape in ([], [0, 2, 3, 3], [-4, -2, 3, 3], [4, 2, 3, True], [4.0, 2, 3, 3], [1] * 9, [4, 2, 3, 4], "4233")
    },
    "the shape of another network's weight": ("dan", shape_entry("5.weight", [3, 3])),
    "no shapes and a controller without dimensions": (
        "dan",
        lambda header, parts: (header.pop("shapes"), parts.update({f"value/controller/{LINEAR}": torch.zeros(())})),
    ),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_what_does_not_fit_is_refused(forgery: str, tmp_path: Path) -> None:
    name, edit = FORGERIES[forgery]
    forge(tmp_path / "forged", name, edit)
    adapter = build(name)
    before = {key: tensor.clone() for key, tensor in adapter.network.state_dict().items()}
    with pytest.raises(BadPayload, match="forged"):
        adapter.load(tmp_path / "forged")
    assert not adapter.tasks
    assert adapter.current is None
    after = adapter.network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(tensor, before[key]) for key, tensor in after.items())
    with suppress(BadPayload):  # what can be read without the network can be shown
        assert run_show(ShowOptions(file=tmp_path / "forged")) == 0


def test_some_of_these_can_be_read_without_the_network(tmp_path: Path) -> None:
    """The control: else nothing above would have shown a file."""
    for forgery in ("planes for fewer tasks", "a module with more", "five scalars"):
        name, edit = FORGERIES[forgery]
        forge(tmp_path / "forged", name, edit)
        assert run_show(ShowOptions(file=tmp_path / "forged")) == 0


# -- types and shapes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.adapts in ("weights", "modules")])
def test_a_task_in_double_precision_keeps_its_bits(name: str, tmp_path: Path) -> None:
    adapter = build(name, double=True)
    add_drawn(adapter)
    adapter.eval()
    adapter.save(tmp_path / "task", task="task")
    inputs = torch.ones(1, 2, 3, 3, dtype=torch.float64)
    other = build(name, double=True)
    other.load(tmp_path / "task")
    other.eval()
    assert torch.equal(other.network(inputs), adapter.network(inputs))
    assert not torch.equal(other.network(inputs), other.network(inputs).float().double())


@pytest.mark.parametrize("name", METHODS)
def test_the_shapes_of_all_weights_are_told(name: str, tmp_path: Path) -> None:
    """By parts of that shape, or by the header where there are none."""
    adapter = build(name)
    add_drawn(adapter)
    adapter.save(tmp_path / "task", task="task")
    shapes = piggyback.read_payload(tmp_path / "task").shapes
    if METHODS[name].adapts in ("weights", "modules"):
        assert shapes == {CONV: (4, 2, 3, 3), LINEAR: (4, 4)}
        told = "shapes" in check((tmp_path / "task").read_bytes())
        assert told == (name not in ("piggyback", "piggyback-ternary", "affine", "packnet"))
    else:
        assert shapes == {}


def test_a_weight_of_fewer_values_than_scalars_is_known_by_its_mask(tmp_path: Path) -> None:
    adapter = piggyback.attach(nn.Sequential(nn.Linear(3, 1), nn.Linear(1, 2)), method=METHODS["affine"], head="1")
    adapter.add_task("task", head=nn.Linear(1, 2))
    adapter.save(tmp_path / "task", task="task")
    assert piggyback.read_payload(tmp_path / "task").shapes == {"0.weight": (1, 3)}


def test_no_head_slot_and_a_module(tmp_path: Path) -> None:
    """A network that is one layer: its modules stand behind the empty name."""
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 4, 3)
    adapter = piggyback.attach(layer, method=METHODS["series"])
    adapter.add_task("task")
    with torch.no_grad():
        adapter.task("task").modules[""].mix.weight.fill_(0.5)
    adapter.eval()
    adapter.save(tmp_path / "task", task="task")
    inputs = torch.randn(1, 2, 5, 5)
    expected = adapter.network(inputs)
    adapter.base()
    assert not torch.equal(adapter.network(inputs), expected)
    other = piggyback.attach(layer, method=METHODS["feature"])
    other.load(tmp_path / "task")
    other.eval()
    assert torch.equal(other.network(inputs), expected)
    with pytest.raises(BadInput, match="or not a payload"):
        other.load(Path(__file__))
