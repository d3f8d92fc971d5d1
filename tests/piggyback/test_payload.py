import copy
import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save as save_tensors
from torch import nn

import piggyback
from piggyback.payload import KEY, check, seal
from piggyback.shell.errors import BackboneMismatch, BadInput, BadPayload, Diverged, UnknownName

BLANK = "0" * 64


@pytest.fixture
def tiny() -> piggyback.Adapter:
    """One layer of three weights 1, 2, 3, whose mask is 1, 0, 1; numbers small enough to write down."""
    network = nn.Sequential(nn.Linear(3, 1, bias=False), nn.Linear(1, 2))
    network[0].weight.data.copy_(torch.tensor([[1.0, 2.0, 3.0]]))
    adapter = piggyback.attach(network, method=piggyback.Binary(), head="1", norm="fixed")
    head = nn.Linear(1, 2)
    head.weight.data.copy_(torch.tensor([[1.0], [2.0]]))
    head.bias.data.copy_(torch.tensor([0.0, 0.5]))
    adapter.add_task("dots", head=head)
    adapter.task("dots").trained["0.weight"]["mask_real"].copy_(torch.tensor([[1.0, 0.0, 1.0]]))
    adapter.switch("dots")
    return adapter


@pytest.fixture
def tiny_file(tiny: piggyback.Adapter, tmp_path: Path) -> Path:
    path = tmp_path / "dots.safetensors"
    tiny.save(path, task="dots", recipe={"epochs": 60})
    return path


def fresh_tiny() -> piggyback.Adapter:
    network = nn.Sequential(nn.Linear(3, 1, bias=False), nn.Linear(1, 2))
    network[0].weight.data.copy_(torch.tensor([[1.0, 2.0, 3.0]]))
    return piggyback.attach(network, method=piggyback.Binary(), head="1")


def tiny_fingerprint() -> str:
    """As docs/payload-format.md has it: the line of the one weight, then its values."""
    return hashlib.sha256(b"0.weight float32 (1, 3)\n" + struct.pack("<3f", 1, 2, 3)).hexdigest()


def tiny_bytes(*, coverage: bool = True) -> bytes:
    """The file of the tiny task, written by hand from docs/payload-format.md; not a line of ours runs here.

    Args:
        coverage: whether the header has this entry, which older files lack.
    """
    known = {"coverage": {"trunk": 3, "masked": 3, "norm": 0, "left_out": {}}}
    header = {
        "format": 1,
        "method": {"name": "piggyback", "threshold": 0.005, "init": 0.01},
        "task": "dots",
        "norm": "fixed",
        "backbone": tiny_fingerprint(),
        "recipe": {"epochs": 60},
        "masks": {"mask/0.weight": {"shape": [1, 3], "coding": "raw", "ones": 2}},
        "sha256": BLANK,
        **(known if coverage else {}),
    }
    outer = {
        "__metadata__": {"piggyback": json.dumps(header, sort_keys=True)},
        "head/bias": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "head/weight": {"dtype": "F32", "shape": [2, 1], "data_offsets": [8, 16]},
        "mask/mask/0.weight": {"dtype": "U8", "shape": [1], "data_offsets": [16, 17]},
    }
    text = json.dumps(outer, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # safetensors aligns the tensors
    mask = bytes([0b101])  # 1, 0, 1 with the first in the lowest bit: 1 + 0 + 4
    data = struct.pack("<Q", len(text)) + text + struct.pack("<4f", 0, 0.5, 1, 2) + mask
    return data.replace(BLANK.encode(), hashlib.sha256(data).hexdigest().encode())


def test_the_bytes_are_pinned(tiny_file: Path) -> None:
    expected = tiny_bytes()
    assert tiny_file.read_bytes() == expected
    assert expected[-1:] == b"\x05"
    # of tiny_bytes() as of format 1: the specification and this program may not drift together either
    assert hashlib.sha256(expected).hexdigest() == PINNED
    assert hashlib.sha256(tiny_bytes(coverage=False)).hexdigest() == PINNED_BEFORE


PINNED = "7223c1428a22c114bbb18951b37636c67daa3045dbccb7a370345c8b64228ce3"
PINNED_BEFORE = "a7f37acf1719ea2b6b113c9f773c7b33288bcd7b2009eac6453870cda05c0ec2"


@pytest.mark.parametrize("coverage", [True, False])
def test_a_file_written_by_hand_is_read(coverage: bool, tmp_path: Path) -> None:
    path = tmp_path / "hand.safetensors"
    path.write_bytes(tiny_bytes(coverage=coverage))
    adapter = fresh_tiny()
    assert adapter.load(path) == "dots"
    assert adapter.network[0].weight.tolist() == [[1.0, 0.0, 3.0]]
    assert adapter.network(torch.ones(1, 3)).tolist() == [[4.0, 8.5]]
    payload = piggyback.read_payload(path)
    assert payload.masks["0.weight"].zeros == 1
    assert payload.masks["0.weight"].weights == 3
    size = path.stat().st_size
    assert payload.bytes_by_kind == {"mask": 1, "value": 0, "norm": 0, "weight": 0, "head": 16, "header": size - 17}
    assert payload.shapes == {"0.weight": (1, 3)}
    assert (payload.coverage is not None) == coverage


def test_any_flipped_byte_is_refused(tiny_file: Path) -> None:
    whole = tiny_file.read_bytes()
    piggyback.read_payload(tiny_file)
    for place in range(len(whole)):
        for turned in (1 << (place % 8), 0xFF):
            damaged = bytearray(whole)
            damaged[place] ^= turned
            tiny_file.write_bytes(damaged)
            with pytest.raises(BadPayload, match=r"dots\.safetensors"):
                piggyback.read_payload(tiny_file)


def test_any_truncation_and_anything_appended_is_refused(tiny_file: Path) -> None:
    whole = tiny_file.read_bytes()
    pieces = [whole[:length] for length in range(len(whole))]
    for other in (*pieces, whole + b"\0", whole + b" ", whole + whole, b"\0" + whole):
        tiny_file.write_bytes(other)
        with pytest.raises(BadPayload, match=r"dots\.safetensors"):
            piggyback.read_payload(tiny_file)
    tiny_file.write_bytes(whole)
    piggyback.read_payload(tiny_file)


def test_what_is_no_payload_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot read"):
        piggyback.read_payload(tmp_path / "missing.safetensors")
    plain = tmp_path / "plain.safetensors"
    plain.write_bytes(save_tensors({"weight": torch.zeros(3)}))
    with pytest.raises(BadPayload, match="not a payload file"):
        piggyback.read_payload(plain)


def test_another_backbone_is_refused_with_both_fingerprints(tiny_file: Path) -> None:
    network = nn.Sequential(nn.Linear(3, 1, bias=False), nn.Linear(1, 2))
    network[0].weight.data.copy_(torch.tensor([[1.0, 2.0, 3.0000002]]))  # the next float after 3
    adapter = piggyback.attach(network, method=piggyback.Binary(), head="1")
    assert adapter.fingerprint != tiny_fingerprint()
    with pytest.raises(BackboneMismatch) as caught:
        adapter.load(tiny_file)
    assert tiny_fingerprint()[:12] in str(caught.value)
    assert adapter.fingerprint[:12] in str(caught.value)
    assert not adapter.tasks
    assert adapter.current is None


def test_another_head_slot_is_refused(tmp_path: Path, make_network: Callable, make_head: Callable) -> None:
    adapter = piggyback.attach(make_network(), method=piggyback.Binary(), head="head")
    adapter.add_task("task", head=make_head(0))
    adapter.save(tmp_path / "task.safetensors", task="task")
    other = piggyback.attach(make_network(), method=piggyback.Binary(), head="hidden")
    with pytest.raises(BackboneMismatch, match="the same head slot"):
        other.load(tmp_path / "task.safetensors")


def test_a_head_that_does_not_fit_is_refused(tiny_file: Path) -> None:
    adapter = fresh_tiny()
    with pytest.raises(BadPayload, match="does not fit the head"):
        adapter.load(tiny_file, head=nn.Linear(1, 3))
    adapter.load(tiny_file, head=nn.Linear(1, 2))
    with pytest.raises(BadInput, match="there is a task 'dots' already"):
        adapter.load(tiny_file)
    assert adapter.load(tiny_file, task="again") == "again"


def test_a_head_of_several_layers_needs_a_module_to_fill(make_network: Callable, tmp_path: Path) -> None:
    adapter = piggyback.attach(make_network(), method=piggyback.Feature(), head="head")
    head = nn.Sequential(nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 4))
    adapter.add_task("task", head=head)
    adapter.save(tmp_path / "task.safetensors", task="task")
    inputs = torch.ones(1, 3, 8, 8)
    expected = adapter.network(inputs)
    other = piggyback.attach(make_network(), method=piggyback.Feature(), head="head")
    with pytest.raises(BadInput, match="not one linear layer"):
        other.load(tmp_path / "task.safetensors")
    other.load(tmp_path / "task.safetensors", head=nn.Sequential(nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 4)))
    assert torch.equal(other.network(inputs), expected)


def test_an_adapter_without_a_head_slot_refuses_a_head_and_the_other_way_round(tmp_path: Path) -> None:
    """Behind a slot without parameters both have the same fingerprint."""

    def build(head: str | None) -> piggyback.Adapter:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(3, 2), nn.Identity())
        return piggyback.attach(network, method=piggyback.Binary(), head=head)

    with_slot, without = build("1"), build(None)
    assert with_slot.fingerprint == without.fingerprint
    with_slot.add_task("with", head=nn.Linear(2, 4))
    without.add_task("without")
    with_slot.save(tmp_path / "with.safetensors", task="with")
    without.save(tmp_path / "without.safetensors", task="without")
    with pytest.raises(BadPayload, match="no head slot"):
        build(None).load(tmp_path / "with.safetensors")
    with pytest.raises(BadInput, match=r"give load\(\) a head module"):
        build("1").load(tmp_path / "without.safetensors")
    assert build(None).load(tmp_path / "without.safetensors") == "without"


def test_a_task_in_double_precision_keeps_its_type(tmp_path: Path, make_network: Callable, make_head: Callable) -> None:
    adapter = piggyback.attach(make_network().double(), method=piggyback.Binary(), head="head")
    adapter.add_task("task", head=make_head(0).double())
    adapter.save(tmp_path / "task.safetensors", task="task")
    inputs = torch.ones(1, 3, 8, 8, dtype=torch.float64)
    other = piggyback.attach(make_network().double(), method=piggyback.Binary(), head="head")
    other.load(tmp_path / "task.safetensors")
    assert torch.equal(other.network(inputs), adapter.network(inputs))


@pytest.mark.parametrize("recipe", [{"digest": BLANK}, {"sha256": BLANK}, {"nested": {"sha256": BLANK}}])
def test_a_recipe_may_hold_what_looks_like_the_digest(tiny: piggyback.Adapter, tmp_path: Path, recipe: Any) -> None:
    tiny.save(tmp_path / "zeros.safetensors", task="dots", recipe=recipe)
    assert piggyback.read_payload(tmp_path / "zeros.safetensors").recipe == recipe


@pytest.mark.parametrize("recipe", [{"loss": float("nan")}, {"path": Path("a")}])
def test_a_recipe_that_is_not_json_is_refused_before_anything_is_written(
    tiny: piggyback.Adapter, tmp_path: Path, recipe: Any
) -> None:
    with pytest.raises(BadInput, match="cannot be written as JSON"):
        tiny.save(tmp_path / "file.safetensors", task="dots", recipe=recipe)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["head", "norm", "real mask"])
def test_a_task_that_diverged_is_not_saved(
    value: float, where: str, make_network: Callable, make_head: Callable, tmp_path: Path
) -> None:
    adapter = piggyback.attach(make_network(), method=piggyback.Binary(), head="head", norm="trained")
    adapter.add_task("task", head=make_head(0))
    adapter.save(tmp_path / "good.safetensors", task="task")
    with torch.no_grad():
        {
            "head": adapter.network.head.weight,
            "norm": adapter.network.bn1.running_var,
            # NaN is not above the threshold: the mask alone would look like any other
            "real mask": adapter.task("task").trained["conv1.weight"]["mask_real"],
        }[where].view(-1)[0] = value
    with pytest.raises(Diverged, match="not finite"):
        adapter.save(tmp_path / "bad.safetensors", task="task")
    assert [path.name for path in tmp_path.iterdir()] == ["good.safetensors"]


def test_saving_a_task_that_is_not_there_names_the_nearest(tiny: piggyback.Adapter, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="Did you mean 'dots'"):
        tiny.save(tmp_path / "file.safetensors", task="dost")


# -- files whose digest is right, made by somebody who means harm -------------------------------------------


Edit = Callable[[dict[str, Any]], None]


def forge(path: Path, *, edit: Edit, tensors: dict[str, torch.Tensor] | None = None) -> None:
    """The tiny file with another header or other tensors, and the digest that belongs to them."""
    data = tiny_bytes()
    header = copy.deepcopy(check(data))
    header["sha256"] = BLANK
    edit(header)
    found = {
        "head/bias": torch.tensor([0.0, 0.5]),
        "head/weight": torch.tensor([[1.0], [2.0]]),
        "mask/mask/0.weight": torch.tensor([5], dtype=torch.uint8),
    }
    found |= tensors or {}
    path.write_bytes(seal(save_tensors(found, metadata={KEY: json.dumps(header, sort_keys=True)})))


MASK = "mask/0.weight"


def set_mask(**entries: Any) -> Edit:
    return lambda header: header["masks"][MASK].update(entries)


def set_method(**entries: Any) -> Edit:
    return lambda header: header["method"].update(entries)


def test_an_unchanged_forgery_is_the_file_itself(tmp_path: Path) -> None:
    forge(tmp_path / "file", edit=lambda header: None)
    assert (tmp_path / "file").read_bytes() == tiny_bytes()


@pytest.mark.parametrize(
    "edit",
    [
        *(lambda header, key=key: header.pop(key) for key in ("method", "task", "norm", "backbone", "recipe", "masks")),
        *(lambda header, key=key: header.update({key: 7}) for key in ("method", "task", "norm", "backbone", "masks")),
        lambda header: header.update(format=2),
        lambda header: header.update(norm="sometimes"),
        lambda header: header["masks"].clear(),
        lambda header: header["masks"].update({MASK: None}),
        set_mask(shape=[3, True]),
        set_mask(shape=[1, "3"]),
        set_mask(shape=[-1, -3]),
        set_mask(shape=3),
        set_mask(ones=1),
        set_mask(ones="2"),
        set_mask(coding="zip"),
        set_mask(coding=["raw"]),
        set_mask(shape=[1 << 40], coding="gap1", ones=0),
        set_mask(shape=[1 << 20] * 5, coding="gap0", ones=1),
        set_method(name=7),
        set_method(thresholds=1),
        set_method(threshold="high"),
        set_method(init=0.001),
        set_method(adapts="everything"),
        set_method(merge="close"),
        set_method(stands_on="joint"),
    ],
)
def test_headers_that_say_the_impossible_are_refused(edit: Edit, tmp_path: Path) -> None:
    path = tmp_path / "forged.safetensors"
    forge(path, edit=edit)
    with pytest.raises(BadPayload, match=r"forged\.safetensors"):
        piggyback.read_payload(path)


def test_half_a_surrogate_pair_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "forged.safetensors"
    text = json.dumps({"__metadata__": {KEY: "\ud800"}}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(BadPayload, match="lacks our header"):
        piggyback.read_payload(path)


def test_a_method_nobody_knows_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "forged.safetensors"
    forge(path, edit=set_method(name="pigyback"))
    with pytest.raises(UnknownName, match="Did you mean 'piggyback'"):
        piggyback.read_payload(path)


@pytest.mark.parametrize(
    ("tensors", "edit"),
    [
        ({}, set_mask(shape=[1, 4])),
        ({"mask/mask/0.weight": torch.tensor([5.0])}, lambda header: None),
        ({"other/thing": torch.zeros(1)}, lambda header: None),
        ({"mask/negative/0.weight": torch.tensor([0], dtype=torch.uint8)}, lambda header: None),
        (
            {"mask/negative/0.weight": torch.tensor([0], dtype=torch.uint8)},
            lambda header: header["masks"].update({"negative/0.weight": {"shape": [1, 3], "coding": "raw", "ones": 0}}),
        ),
        ({"value/mask/0.weight": torch.ones(1, 3)}, lambda header: None),
        ({"mask/mask/0.bias": torch.tensor([5], dtype=torch.uint8)}, lambda header: None),
        ({"mask/mask/0.weight": torch.tensor([7], dtype=torch.uint8)}, set_mask(shape=[3], ones=3)),
        ({"norm/0.weight": torch.zeros(1, 3)}, lambda header: None),
        ({"weight/0.weight": torch.zeros(1, 3)}, lambda header: None),
        ({"head/bias": torch.zeros(5)}, lambda header: None),
        ({"head/more": torch.zeros(5)}, lambda header: None),
    ],
)
def test_tensors_that_do_not_belong_there_are_refused(
    tensors: dict[str, torch.Tensor], edit: Edit, tmp_path: Path
) -> None:
    path = tmp_path / "forged.safetensors"
    forge(path, edit=edit, tensors=tensors)
    adapter = fresh_tiny()
    with pytest.raises(BadInput, match=r"forged\.safetensors"):
        adapter.load(path)
    assert not adapter.tasks
    assert adapter.network[0].weight.tolist() == [[1.0, 2.0, 3.0]]


def test_own_tensors_of_another_shape_are_refused(make_network: Callable, make_head: Callable, tmp_path: Path) -> None:
    adapter = piggyback.attach(make_network(), method=piggyback.Feature(), head="head", norm="trained")
    adapter.add_task("task", head=make_head(0))
    state = adapter.task("task")
    adapter.base()
    state.own["bn1.weight"] = torch.ones(1)  # would broadcast over eight channels without a word
    adapter.save(tmp_path / "task.safetensors", task="task")
    with pytest.raises(BadPayload, match=r"'bn1.weight' has shape \(1,\)"):
        piggyback.attach(make_network(), method=piggyback.Feature(), head="head").load(tmp_path / "task.safetensors")
