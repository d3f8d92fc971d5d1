import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from piggyback.adapter import attach
from piggyback.methods.binary import Binary
from piggyback.methods.contract import Method
from piggyback.methods.registry import METHODS
from piggyback.shell.errors import BadPayload
from piggyback.suite.verbs.core_options import ShowOptions
from piggyback.suite.verbs.payload_show import run_show


def save(path: Path, method: Method) -> dict[str, float]:
    """Write a payload of a small network, masks drawn at random; returns the share of zeros in each mask."""
    torch.manual_seed(0)
    flatten = nn.Sequential(nn.BatchNorm2d(8), nn.Flatten()) if method.adapts == "norm" else nn.Flatten()
    network = nn.Sequential(nn.Conv2d(3, 8, 3), flatten, nn.Linear(32, 40), nn.Linear(40, 2))
    if method.stands_on == "pruned":
        network[2].weight.data[::2] = 0.0
    adapter = attach(network, method=method, head="3")
    begin = {"begin": adapter.base_state_dict()} if method.adapts == "anew" else {}
    adapter.add_task("animals", head=nn.Linear(40, 5), **begin)
    for share, trained in zip((0.5, 0.25), adapter.task("animals").trained.values(), strict=False):
        if "mask_real" in trained:
            trained["mask_real"].copy_((torch.rand_like(trained["mask_real"]) > share) * 0.01)
    adapter.save(path, task="animals", recipe={"epochs": 3})
    kept = {name: adapter.task("animals").kept_of(name) for name in adapter.anatomy.weights}
    return {name: 1 - float(parts["mask"].float().mean()) for name, parts in kept.items() if "mask" in parts}


def report(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert run_show(ShowOptions(file=path, json=True)) == 0
    (found,) = json.loads(capsys.readouterr().out)["payloads"]
    assert isinstance(found, dict)
    return found


def test_masks_are_described_layer_by_layer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "animals.safetensors"
    zeros = save(path, Binary(threshold=2e-3))
    found = report(path, capsys)
    assert found["task"] == "animals"
    assert found["method"] == "piggyback"
    assert found["settings"] == {"threshold": 2e-3, "init": 1e-2}
    assert found["recipe"] == {"epochs": 3}
    assert found["layers"] == {
        "0.weight": {"shape": [8, 3, 3, 3], "weights": 216, "zeros": pytest.approx(zeros["0.weight"]), "bytes": 27},
        "2.weight": {"shape": [40, 32], "weights": 1280, "zeros": pytest.approx(zeros["2.weight"]), "bytes": 160},
    }
    assert 0.2 < zeros["2.weight"] < 0.3  # the two layers differ, so neither stands for the other
    assert found["zeros"] == pytest.approx((216 * zeros["0.weight"] + 1280 * zeros["2.weight"]) / 1496)
    size = found["bytes"]
    assert isinstance(size, dict)
    assert size["mask"] == 187
    assert size["head"] == 4 * (40 * 5 + 5)
    assert size["file"] == path.stat().st_size == sum(size[kind] for kind in size if kind != "file")
    assert found["bits_per_weight"] == 8 * 187 / 1496


@pytest.mark.parametrize(
    ("name", "ratio"),
    [
        ("piggyback", 1.28125),
        (
            "piggyback-ternary",
            (32 * 1496 + 9 * (math.ceil(216 * math.log2(3)) + math.ceil(1280 * math.log2(3)))) / 47872,
        ),
        ("affine", 1 + 9 * (1496 + 2 * 128) / 47872),
        ("packnet", 1.125),
        ("dan", 1 + 9 * (8 * 8 + 40 * 40) / 1496),
        ("parallel", 1 + 9 * 8 * 3 / 1496),
        ("series", 1 + 9 * 8 * 8 / 1496),
        ("norm", 1.0),
        ("feature", 1.0),
        ("finetune", 10.0),
        ("scratch", 10.0),
    ],
)
def test_the_ratio_of_nine_such_tasks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, ratio: float
) -> None:
    zeros = save(tmp_path / "animals.safetensors", METHODS[name])
    found = report(tmp_path / "animals.safetensors", capsys)
    assert found["parameter_ratio"] == pytest.approx(ratio, rel=1e-12)
    assert found["layers"].keys() == zeros.keys()
    if name in ("feature", "finetune", "scratch", "norm"):
        assert (found["weights"], found["zeros"], found["bits_per_weight"]) == (0, None, None)
    else:
        assert found["weights"] == 216 + 1280


def test_soft_values_count_where_masks_are_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "animals.safetensors"
    zeros = save(path, METHODS["ksm"])
    off = {"0.weight": round(24 * zeros["0.weight"]), "2.weight": round(1280 * zeros["2.weight"])}
    found = report(path, capsys)
    first = {"shape": [8, 3, 1, 1], "weights": 24, "zeros": off["0.weight"] / 24, "bytes": 3}
    assert found["layers"]["0.weight"] == first
    assert found["layers"]["2.weight"]["zeros"] == off["2.weight"] / 1280
    assert found["zeros"] == sum(off.values()) / (24 + 1280)
    assert found["bytes"]["value"] == 4 * sum(off.values())
    assert found["bits_per_weight"] == 8 * (found["bytes"]["mask"] + found["bytes"]["value"]) / 1496
    bits = 24 + 1280 + 32 * sum(off.values())
    assert found["parameter_ratio"] == pytest.approx(1 + 9 * bits / 47872, rel=1e-12)
    assert run_show(ShowOptions(file=path)) == 0
    text = capsys.readouterr().out
    assert f"{found['bits_per_weight']:.3f} bits per weight as coded, {bits / 1496:.3f} counted" in text


def test_coverage_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "animals.safetensors"
    save(path, Binary())
    weights, biases = 216 + 1280, 8 + 40
    assert report(path, capsys)["coverage"] == {
        "masked_share": weights / (weights + biases),
        "left_out_share": biases / (weights + biases),
        "trunk": weights + biases,
        "masked": weights,
        "norm": 0,
        "left_out": {"bias": biases},
    }
    assert run_show(ShowOptions(file=path)) == 0
    assert "coverage    96.89% of the trunk masked, 0.00% in norm layers, 3.11% left out (bias 48)" in (
        capsys.readouterr().out
    )


def test_a_person_sees_every_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    save(one, Binary())
    save(two, METHODS["feature"])
    assert run_show(ShowOptions(file=one, more=(two,))) == 0
    text = capsys.readouterr().out
    assert "piggyback, threshold 0.005, init 0.01\n" in text
    assert "parameter ratio 1.28125" in text
    assert "parameter ratio 1.00000" in text
    assert text.count("bytes by kind") == 2


def test_a_damaged_file_among_good_ones_prints_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good.safetensors", tmp_path / "bad.safetensors"
    save(good, Binary())
    data = bytearray(good.read_bytes())
    data[-1] ^= 1
    bad.write_bytes(data)
    with pytest.raises(BadPayload, match=r"bad\.safetensors"):
        run_show(ShowOptions(file=good, more=(bad,)))
    assert capsys.readouterr().out == ""
