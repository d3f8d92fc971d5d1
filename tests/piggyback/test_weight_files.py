"""What decathlon's tests of checkpoints and backbones do not say already of reading and writing weights."""

import json
import struct
from pathlib import Path
from typing import Literal

import pytest
import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn

from piggyback.shell.errors import BadInput
from piggyback.weight_files import (
    ENTRY,
    check_weights,
    find_numbers,
    find_state,
    is_safetensors,
    load_weights,
    read_entry,
    write_backbone,
)


class Header(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    format: Literal[1] = 1
    architecture: Literal["mlp"] = "mlp"
    widths: tuple[int, ...]


class Plain(BaseModel):
    format: Literal[1] = 1


HEADER = Header(widths=(3, 2))


def make_network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "new" / "b.safetensors"
    assert write_backbone(path, make_network().state_dict(), header=HEADER)
    return path


def test_weights_and_header_come_back(file: Path) -> None:
    assert is_safetensors(file)
    assert read_entry(file, model=Header) == HEADER
    found = find_state(load_weights(file), path=file)
    expected = make_network().state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())
    assert found["1.num_batches_tracked"].dtype == torch.int64


def test_the_same_content_is_the_same_bytes_whatever_its_form(file: Path) -> None:
    before = file.read_bytes()
    state = make_network().double().to(memory_format=torch.channels_last).state_dict()
    assert not write_backbone(file, dict(reversed(state.items())), header=HEADER)
    assert file.read_bytes() == before
    assert {tensor.dtype for tensor in load_file(file).values()} == {torch.float32, torch.int64}


def test_a_header_can_be_a_mapping(tmp_path: Path) -> None:
    path, header = tmp_path / "b.safetensors", {"architecture": "mlp", "widths": [3, 2]}
    assert write_backbone(path, make_network().state_dict(), header=header)
    assert not write_backbone(path, make_network().state_dict(), header=header)
    assert read_entry(path, model=Header) == HEADER


def test_another_file_is_replaced_only_when_told(file: Path) -> None:
    before = file.read_bytes()
    state = {**make_network().state_dict(), "0.bias": torch.ones(4)}
    with pytest.raises(BadInput, match="exists and is something else; choose another --out, or --force"):
        write_backbone(file, state, header=HEADER)
    with pytest.raises(BadInput, match="exists and is something else"):
        write_backbone(file, make_network().state_dict(), header=Header(widths=(1,)))
    assert file.read_bytes() == before
    assert write_backbone(file, state, header=HEADER, replace=True)
    assert torch.equal(load_file(file)["0.bias"], torch.ones(4))
    with pytest.raises(BadInput, match="exists"):
        write_backbone(file.parent, state, header=HEADER, replace=True)
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def entry(tmp_path: Path, text: str | None) -> Path:
    path = tmp_path / "entry.safetensors"
    path.write_bytes(save({"w": torch.ones(2)}, {"framework": "pt"} if text is None else {ENTRY: text}))
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("[1]", "format None; this version reads format 1"),
        ("{}", "format None"),
        ('{"format": 2}', "format 2; this version reads format 1"),
        ('{"format": "1"}', "format '1'"),
        ('{"format": 1, "format": 1}', "twice"),
        ('{"format": 1, "widths": [NaN]}', "NaN"),
        (
            '{"format": 1, "architecture": "cnn"}',
            "another benchmark's backbone .*: its network is a 'cnn', not a 'mlp'",
        ),
        ('{"format": 1, "architecture": ["mlp"]}', "another benchmark's"),
        ('{"format": 1}', "metadata's widths is wrong: Field required"),
        ('{"format": 1, "widths": [1, "2"]}', r"metadata's widths\.1 is wrong"),
        ('{"format": 1, "widths": [1], "more": 1}', "metadata's more is wrong"),
    ],
)
def test_a_wrong_entry_is_told_in_one_line_with_the_file(tmp_path: Path, text: str, message: str) -> None:
    path = entry(tmp_path, text)
    with pytest.raises(BadInput, match=message) as told:
        read_entry(path, model=Header)
    assert str(path) in str(told.value)
    assert "\n" not in str(told.value)


def test_an_entry_may_leave_the_network_unsaid(tmp_path: Path) -> None:
    assert read_entry(entry(tmp_path, '{"format": 1, "widths": [1]}'), model=Header) == Header(widths=(1,))
    assert read_entry(entry(tmp_path, '{"format": 1}'), model=Plain) == Plain()


def test_a_file_of_others_has_no_entry(tmp_path: Path) -> None:
    assert read_entry(entry(tmp_path, None), model=Header) is None
    save_file({"w": torch.ones(2)}, tmp_path / "plain.safetensors")
    assert read_entry(tmp_path / "plain.safetensors", model=Header) is None


def spoilt(file: Path, data: bytes) -> Path:
    path = file.with_name("spoilt.safetensors")
    path.write_bytes(data)
    return path


def test_damaged_safetensors_are_told_by_both_readers(file: Path) -> None:
    whole = file.read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + length])
    header["0.bias"]["data_offsets"] = [0, 1 << 40]
    beyond = json.dumps(header).encode()
    for data in (
        whole[:-1],
        whole[: length // 2],
        struct.pack("<Q", 1 << 60) + whole[8:],
        struct.pack("<Q", len(beyond)) + beyond + whole[8 + length :],
    ):
        path = spoilt(file, data)
        for read in (load_weights, lambda path: read_entry(path, model=Header)):
            with pytest.raises(BadInput, match=r"spoilt\.safetensors is a damaged safetensors file"):
                read(path)


@pytest.mark.parametrize("data", [b"", b"{", b"12345678", b"PK\x03\x04      {"])
def test_what_is_no_safetensors_is_known_by_its_beginning(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x").write_bytes(data)
    assert not is_safetensors(tmp_path / "x")


def test_a_pickled_module_is_told_by_its_marks(tmp_path: Path) -> None:
    torch.save({"net": make_network()}, tmp_path / "m.pth")
    marks = ((b"no such words", "nothing"), (b"BatchNorm2d", "the network of somebody"))
    with pytest.raises(BadInput, match=r"m\.pth is the network of somebody, pickled as a whole module"):
        load_weights(tmp_path / "m.pth", known=marks)
    with pytest.raises(BadInput, match=r"m\.pth holds objects of torch\.nn"):
        load_weights(tmp_path / "m.pth")


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ({}, "it holds a dict without tensors"),
        ({"state_dict": {}}, "without tensors"),
        ({"state_dict": {"w": torch.ones(9), "epoch": 3}}, "entry 'epoch' is no plain tensor"),
        ({1: torch.ones(2)}, "entry '1' is no plain tensor"),
        (torch.ones(3), "it holds a Tensor$"),
        (None, "it holds a NoneType$"),
        ({"w": torch.zeros(1).expand(1 << 40)}, "claims 1099511627776 weights, more than its"),
    ],
    ids=str,
)
def test_what_holds_no_state_dict_is_told(tmp_path: Path, saved: object, message: str) -> None:
    path = tmp_path / "w.pth"
    torch.save(saved, path)
    with pytest.raises(BadInput, match=message):
        find_state(load_weights(path), path=path)


def test_a_sparse_tensor_is_no_weight(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(bytes(100))
    with pytest.raises(BadInput, match="entry 'w' is no plain tensor"):
        find_state({"w": torch.ones(2, 2).to_sparse()}, path=tmp_path / "w")


def test_numbers_beside_the_weights_are_finite_numbers() -> None:
    saved = {
        "epoch": 3,
        "top1": torch.tensor(0.5),
        "loss": float("nan"),
        "best": True,
        "name": "x",
        "all": torch.ones(2),
    }
    assert find_numbers(saved, *saved, "missing") == {"epoch": 3, "top1": 0.5}


def check(change: dict[str, Tensor | None]) -> dict[str, Tensor]:
    state = {key: value for key, value in {**make_network().state_dict(), **change}.items() if value is not None}
    with torch.device("meta"):
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    return check_weights(state, network=network, kind="net", path=Path("net.pth"))


def test_weights_are_float32_in_the_networks_order() -> None:
    state = make_network().state_dict()
    found = check({"0.weight": state["0.weight"].half(), "1.num_batches_tracked": None})
    assert list(found) == list(state)
    assert found["0.weight"].dtype == torch.float32
    assert torch.equal(found["0.weight"], state["0.weight"].half().float())
    assert torch.equal(found["1.num_batches_tracked"], torch.tensor(0))
    assert torch.equal(check({"1.num_batches_tracked": torch.tensor(7)})["1.num_batches_tracked"], torch.tensor(7))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"0.bias": None, "1.bias": None}, r"looks like a net but lacks 0\.bias, 1\.bias$"),
        ({str(n): torch.ones(1) for n in range(5)}, r"has, beside its weights, 0, 1, 2 and 2 more$"),
        ({"0.bias": torch.ones(5)}, r"has a wrong shape: 0\.bias is \(5,\) instead of \(4,\)"),
        ({"0.bias": torch.ones(4, dtype=torch.complex64)}, "complex64"),
        ({"0.bias": torch.full((4,), torch.inf)}, "not finite"),
        ({"0.bias": torch.full((4,), 1e300, dtype=torch.float64)}, "not finite"),
        ({"1.running_var": -torch.ones(4)}, "negative variances"),
    ],
)
def test_weights_that_do_not_fit_are_told(change: dict[str, Tensor | None], message: str) -> None:
    with pytest.raises(BadInput, match=r"^net\.pth.*" + message):
        check(change)
