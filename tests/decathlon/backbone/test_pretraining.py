import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import decathlon.backbone.pretraining as pretraining
from decathlon.backbone.backbone_file import load_backbone
from decathlon.backbone.options import TrainOptions
from decathlon.backbone.pretraining import Pretrained, pretrain
from decathlon.backbone.pretraining_recipe import PretrainRecipe, find_preset, preset_named_in
from decathlon.backbone.verbs import run_train
from decathlon.backbone.wrn import WideResNet, wide_resnet
from decathlon.release.packed import Manifest, open_split, write_manifest
from piggyback.data.labelled import INDEX, PackedSplit
from piggyback.shell.errors import BadInput, Diverged, Requeue, UnknownName

ROOT = Path(__file__).resolve().parents[3]
CLASSES = 3
RECIPE = PretrainRecipe(depth=10, widen=1, epochs=3, batch_size=16, decay_epochs=(2,), size=16, lr=0.2)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Pictures this small are not worth several threads, which wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A pack of imagenet12 whose classes are colours: 72 pictures to learn from, 30 to measure on."""
    root = tmp_path / "data"
    counts = {"train": 72, "val": 30, "test": 6}
    (root / "imagenet12").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        index = np.zeros(count, INDEX)
        index["image_id"] = np.arange(count) + 60000001
        index["label"] = -1 if split == "test" else np.arange(count) % CLASSES
        index["offset"] = np.arange(count) * 18 * 20 * 3
        index["height"], index["width"] = 18, 20
        np.save(root / "imagenet12" / f"{split}.index.npy", index)
        pixels = rng.integers(0, 128, (count, 18, 20, 3))
        pixels[np.arange(count), :, :, np.arange(count) % CLASSES] += 100
        pixels.astype(np.uint8).tofile(root / "imagenet12" / f"{split}.u8")
    manifest = Manifest(
        task="imagenet12",
        category_ids=tuple(range(60000001, 60000001 + CLASSES)),
        category_names=("red", "green", "blue"),
        counts=counts,
        official=False,
        folder_mismatches=0,
        fingerprint="f" * 64,
        annotations=dict.fromkeys(counts, "a"),
        source="made",
    )
    write_manifest(root, manifest)
    return root


def splits(data: Path) -> tuple[PackedSplit, PackedSplit]:
    return open_split(data, "imagenet12", "train"), open_split(data, "imagenet12", "val")


def train(data: Path, folder: Path, *, recipe: PretrainRecipe = RECIPE) -> Pretrained:
    result = pretrain(*splits(data), recipe=recipe, folder=folder, device="cpu")
    assert result is not None
    return result


def test_it_learns_and_ends_in_a_backbone(data: Path, tmp_path: Path) -> None:
    result = train(data, tmp_path / "run")
    assert [row["epoch"] for row in result.history] == [1, 2, 3]
    assert [row["lr"] for row in result.history] == pytest.approx([0.025, 0.025, 0.0025])
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    assert result.history[-1]["val_top1"] > 0.6
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["val_top1"] for line in lines] == [row["val_top1"] for row in result.history]
    backbone = load_backbone(result.path)
    assert (backbone.network.depth, backbone.network.widen, backbone.classes) == (10, 1, CLASSES)
    assert backbone.source["selected"] == "last epoch"
    other = train(data, tmp_path / "other", recipe=replace(RECIPE, seed=1))
    assert other.path.read_bytes() != result.path.read_bytes()  # so equal bytes elsewhere say something
    again = train(data, tmp_path / "run")
    assert (again.trained, again.history) == (False, result.history)
    with pytest.raises(BadInput, match="another recipe"):
        train(data, tmp_path / "run", recipe=replace(RECIPE, seed=1))


class Killed(BaseException):
    """As the scheduler's signal: nothing in the code catches it."""


@pytest.mark.parametrize("damage", [False, True], ids=["whole", "newest damaged"])
def test_a_killed_run_continues_to_the_same_bits(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bool
) -> None:
    whole = train(data, tmp_path / "whole")
    measure, calls = pretraining.measure, []

    def die_in_third_epoch(*arguments: Any, **keywords: Any) -> float:
        calls.append(1)
        if len(calls) == 3:
            raise Killed
        return measure(*arguments, **keywords)

    monkeypatch.setattr(pretraining, "measure", die_in_third_epoch)
    with pytest.raises(Killed):
        train(data, tmp_path / "killed")
    monkeypatch.setattr(pretraining, "measure", measure)
    kept = sorted((tmp_path / "killed" / "checkpoints").iterdir())
    assert [path.name for path in kept] == ["step-000000001.pt", "step-000000002.pt"]
    if damage:
        content = bytearray(kept[-1].read_bytes())
        content[len(content) // 2] ^= 1
        kept[-1].write_bytes(content)
    with pytest.raises(BadInput, match="another recipe"):
        train(data, tmp_path / "killed", recipe=replace(RECIPE, seed=1))
    epochs: list[int] = []
    train_epoch = pretraining.train_epoch
    monkeypatch.setattr(
        pretraining,
        "train_epoch",
        lambda *arguments, epoch, **rest: epochs.append(epoch) or train_epoch(*arguments, epoch=epoch, **rest),
    )
    resumed = train(data, tmp_path / "killed")
    assert epochs == ([1, 2] if damage else [2])
    assert resumed.path.read_bytes() == whole.path.read_bytes()


def test_another_number_of_threads_is_told_and_can_be_allowed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(data, tmp_path / "run")
    (tmp_path / "run" / "backbone.safetensors").unlink()
    monkeypatch.setattr(pretraining, "describe_device", lambda device: "another machine")
    with pytest.raises(BadInput, match="is another machine"):
        train(data, tmp_path / "run")
    result = pretrain(*splits(data), recipe=RECIPE, folder=tmp_path / "run", device="cpu", allow_other_environment=True)
    assert result is not None
    assert len(result.history) == 3


def test_a_loss_that_is_not_finite_stops_the_run(data: Path, tmp_path: Path) -> None:
    with pytest.raises(Diverged, match="try a lower lr than 1e\\+30"):
        train(data, tmp_path / "run", recipe=replace(RECIPE, lr=1e30))
    assert not list((tmp_path / "run").rglob("*.pt"))
    assert not (tmp_path / "run" / "backbone.safetensors").exists()


def test_sizes_that_do_not_fit_are_told(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="72 pictures, less than one batch of 100"):
        train(data, tmp_path / "run", recipe=replace(RECIPE, batch_size=100))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_PORT", raising=False)
    with pytest.raises(BadInput, match=r"MASTER_PORT is not set; start through torchrun"):
        train(data, tmp_path / "run")
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(BadInput, match="WORLD_SIZE is 'two'"):
        train(data, tmp_path / "run")


WORKER = """
import os, sys
from pathlib import Path
tests, root, out, *ports = sys.argv[1:]
import torch
torch.set_num_threads(1)
import importlib.util
found = importlib.util.spec_from_file_location("the_tests", tests)
the_tests = importlib.util.module_from_spec(found)
found.loader.exec_module(the_tests)
for port, norm in zip(ports, ("trained", "fixed"), strict=True):
    os.environ["MASTER_PORT"] = port
    network, result = the_tests.train_watched(Path(root), Path(out) / norm, norm=norm)
    assert (result is None) == (os.environ["RANK"] != "0")
    torch.save(network.state_dict(), Path(out) / (norm + os.environ["RANK"] + ".pt"))
"""
SHORT = replace(RECIPE, epochs=2, decay_epochs=(1,), size=8)


def train_watched(data: Path, folder: Path, *, norm: str) -> tuple[WideResNet, Pretrained | None]:
    """Train this process's share; returns its network too.

    Where norm layers are "fixed", which sums over pictures alone, the network is in float64 as well, so that
    any real difference stands out from rounding.
    """
    made: list[WideResNet] = []

    def make(*arguments: int, **keywords: int) -> WideResNet:
        network = wide_resnet(*arguments, **keywords)
        if norm == "fixed":
            for part in network.modules():
                if isinstance(part, torch.nn.BatchNorm2d):
                    part.eval()
                    part.train = lambda mode=True: None  # type: ignore[method-assign,assign,misc]
            network.double().register_forward_pre_hook(lambda module, inputs: (inputs[0].double(),))
        made.append(network)
        return network

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretraining, "wide_resnet", make)
        result = pretrain(*splits(data), recipe=SHORT, folder=folder, device="cpu")
    return made[0], result


def free_ports(count: int) -> list[str]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [str(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def test_two_processes_agree_with_each_other_and_with_one(data: Path, tmp_path: Path) -> None:
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WORKER, __file__, str(data), str(tmp_path), *free_ports(2)]
    processes = [
        subprocess.Popen(command, env={**os.environ, **shared, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    faults = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], faults
    assert "Warning" not in "".join(faults)
    for norm in ("trained", "fixed"):
        first, second = (torch.load(tmp_path / f"{norm}{rank}.pt", weights_only=True) for rank in range(2))
        written = load_backbone(tmp_path / norm / "backbone.safetensors").network.state_dict()
        assert all(torch.equal(first[key], second[key]) for key in first)
        assert all(torch.equal(first[key].to(written[key].dtype), written[key]) for key in first)
        assert len((tmp_path / norm / "metrics.jsonl").read_text().splitlines()) == 2
    one, result = train_watched(data, tmp_path / "one", norm="fixed")
    assert result is not None
    start = wide_resnet(10, 1, classes=CLASSES, seed=RECIPE.seed)
    assert (one.conv1.weight - start.conv1.weight).abs().max() > 1e-3
    for key, value in one.state_dict().items():
        torch.testing.assert_close(first[key], value, rtol=1e-9, atol=1e-11)
    header = load_backbone(tmp_path / "fixed" / "backbone.safetensors").source
    rows = header["history"]
    assert isinstance(rows, list)
    assert [row["val_top1"] for row in rows] == [row["val_top1"] for row in result.history]
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in result.history])


def test_the_paper_preset_has_the_stated_schedule() -> None:
    paper = find_preset("paper")
    assert (paper.depth, paper.widen, paper.epochs, paper.batch_size) == (28, 4, 50, 64)
    assert [paper.rate(epoch) for epoch in (0, 24, 25, 49)] == pytest.approx([0.05, 0.05, 0.005, 0.005])
    assert preset_named_in(["--data", "d", "--recipe", "smoke"]) == preset_named_in(["--recipe=smoke"]) != paper
    with pytest.raises(UnknownName, match="Did you mean 'paper'"):
        find_preset("papers")


def test_a_signal_stops_the_run_and_the_same_command_continues(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = TrainOptions(data=data, out=tmp_path / "run", settings=RECIPE, device="cpu", json=True)
    measure = pretraining.measure

    def ask_to_stop(*arguments: Any, **keywords: Any) -> float:
        os.kill(os.getpid(), signal.SIGTERM)
        return measure(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(pretraining, "measure", ask_to_stop)
        with pytest.raises(Requeue):
            run_train(options)
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["state"], status["epoch"], status["epochs"]) == ("requeue", 1, 3)
    assert status["progress"] == pytest.approx(1 / 3)
    assert run_train(options) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["epochs"] == 3
    assert report["sha256"] == load_backbone(tmp_path / "run" / "backbone.safetensors").sha256
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "done"


@pytest.mark.parametrize(("field", "value"), [("depth", 27), ("epochs", 0), ("lr", float("nan")), ("size", 4)])
def test_recipes_that_cannot_be_are_refused(field: str, value: float) -> None:
    with pytest.raises(BadInput, match=f"{field} is"):
        PretrainRecipe(**{field: value})  # type: ignore[arg-type]
