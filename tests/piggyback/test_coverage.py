"""What of a network is masked, what is left out and why, and who is told."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import piggyback
from piggyback.coverage import Coverage, Part
from piggyback.payload import BLANK, KEY, check, seal
from piggyback.shell.errors import BadInput, BadPayload
from piggyback.suite.verbs.payload_show import describe

MASKING = ("piggyback", "piggyback-ternary", "affine", "ksm", "dan", "packnet")


class Attending(nn.Module):
    """Attention with equal sizes, then one whose keys and values have other sizes, a bare parameter and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(1, 5, 8))
        self.one = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.two = nn.MultiheadAttention(8, 2, kdim=6, vdim=4, batch_first=True, add_bias_kv=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.one(*[x + self.place] * 3, need_weights=False)[0])
        return self.head(self.two(y, y[..., :6], y[..., :4], need_weights=False)[0].mean(1))


PROJECTIONS = {
    *("one.in_proj_weight", "one.out_proj.weight", "two.out_proj.weight"),
    *("two.q_proj_weight", "two.k_proj_weight", "two.v_proj_weight"),
}


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval()


def train(network: nn.Module, optimizer: torch.optim.Optimizer, shape: tuple[int, ...], *, steps: int = 8) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        inputs = torch.randn(16, *shape, generator=generator)
        F.cross_entropy(network(inputs), torch.randint(0, 4, (16,), generator=generator)).backward()
        optimizer.step()


def kinds(coverage: Coverage) -> dict[str, tuple[str, str]]:
    return {part.name: (part.kind, part.reason) for part in coverage.parts}


# -- attention ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MASKING)
def test_all_projections_of_attention_are_adapted(name: str, tmp_path: Path) -> None:
    method = piggyback.METHODS[name]
    network = seeded(Attending)
    if name == "packnet":
        with torch.no_grad():
            for key, tensor in network.named_parameters():
                if key in PROJECTIONS:
                    tensor[tensor.abs() < tensor.abs().median()] = 0.0
    original = copy.deepcopy(network)
    adapter = piggyback.attach(network, method=method, head="head")
    assert set(adapter.anatomy.weights) == PROJECTIONS
    adapter.add_task("task", head=nn.Linear(8, 4))
    train(network, adapter.optimizer(mask_lr=5e-3, update="eager"), (5, 8))
    frozen = dict(original.named_parameters())
    for key, tensor in network.named_parameters():
        if key in PROJECTIONS:
            moved = (tensor != frozen[key]).double().mean()
            assert 0.05 < moved, key
            if name == "piggyback":
                assert moved < 0.95, key
                assert set(tensor[tensor != frozen[key]].tolist()) == {0.0}
        elif not key.startswith("head."):
            assert torch.equal(tensor, frozen[key]), key
    adapter.save(tmp_path / "task", task="task")
    network.eval()
    inputs = torch.randn(2, 5, 8)
    expected = network(inputs)
    assert torch.equal(adapter.merged("task")(inputs), expected)
    other = piggyback.attach(original, method=method, head="head")
    other.load(tmp_path / "task")
    assert torch.equal(original(inputs), expected)


@pytest.mark.parametrize("name", ["series", "parallel"])
def test_methods_that_find_no_convolution_beside_attention_say_so(name: str) -> None:
    with pytest.raises(BadInput, match=rf"method '{name}' finds no .* the network has .*Linear"):
        piggyback.attach(seeded(Attending), method=piggyback.METHODS[name], head="head")


def test_modules_go_behind_layers_and_not_behind_attention() -> None:
    network = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.MultiheadAttention(4, 2), nn.Linear(4, 4)))
    adapter = piggyback.attach(network, method=piggyback.METHODS["series"], head="2")
    adapter.add_task("task", head=nn.Linear(4, 3))
    assert list(adapter.task("task").modules) == ["0"]
    found = kinds(adapter.coverage())
    assert found["0.weight"] == ("module", "")
    assert found["1.in_proj_weight"] == ("frozen", "not reached by series")


def test_a_file_from_before_attention_was_masked_is_read(tmp_path: Path) -> None:
    """Such a file has no mask on the projections, and no coverage."""
    network = seeded(Attending)
    plain = copy.deepcopy(network)
    outside = [name for name in PROJECTIONS if name.endswith("proj_weight")]
    adapter = piggyback.attach(network, method=piggyback.Binary(), head="head", exclude=outside)
    adapter.add_task("old", head=nn.Linear(8, 4))
    train(network, adapter.optimizer(mask_lr=5e-3, update="eager"), (5, 8), steps=3)
    adapter.save(tmp_path / "new", task="old")
    data = (tmp_path / "new").read_bytes()
    header = check(data) | {"sha256": BLANK}
    for entry in (None, {}, 3, {"left_out": {}, "trunk": 3, "masked": 2, "norm": 0}):
        text = json.dumps(header | {"coverage": entry}, sort_keys=True)
        (tmp_path / "wrong").write_bytes(seal(save(load(data), metadata={KEY: text})))
        with pytest.raises(BadPayload, match="'coverage'"):
            piggyback.read_payload(tmp_path / "wrong")
    del header["coverage"]
    (tmp_path / "old").write_bytes(seal(save(load(data), metadata={KEY: json.dumps(header, sort_keys=True)})))
    other = piggyback.attach(plain, method=piggyback.Binary(), head="head")
    inputs = torch.randn(2, 5, 8)
    for file in ("old", "new"):
        other.load(tmp_path / file, task=file)
        assert torch.equal(plain(inputs), network.eval()(inputs))
        other.save(tmp_path / "again", task=file)  # and goes on
        assert piggyback.read_payload(tmp_path / "again").kept.keys() == PROJECTIONS - set(outside)
    assert dict(other.coverage("old").left_out)["not reached by piggyback"] > 300
