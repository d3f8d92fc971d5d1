import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import backbone_processes
import numpy as np
import pytest
import torch
from backbone_processes import splits, train_short, train_watched
from breaks import Killed, StopAfter

from decathlon.backbone import pretraining
from decathlon.backbone.backbone_file import load_backbone
from decathlon.backbone.options import TrainOptions, train_defaults
from decathlon.backbone.pretraining import BackboneLearner, Falls, Pretrained, pretrain
from decathlon.backbone.pretraining_recipe import PRESETS, PretrainRecipe
from decathlon.backbone.verbs import run_train
from decathlon.backbone.wrn import wide_resnet
from decathlon.release.packed import Manifest, write_manifest
from piggyback.data.labelled import INDEX
from piggyback.shell.errors import BadInput, Diverged, Requeue, UnknownName

ROOT = Path(__file__).resolve().parents[3]
CLASSES = 3
RECIPE = PretrainRecipe(depth=10, widen=1, epochs=3, batch_size=16, decay_epochs=(2,), size=16, lr=0.2)


pytestmark = pytest.mark.usefixtures("one_thread")


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


def stop_after_each_step(data: Path, folder: Path, *, recipe: PretrainRecipe = RECIPE) -> list[str]:
    """Train, one step in each process; gives the names of the newest checkpoints on the way."""
    kept = []
    while True:
        torch.manual_seed(len(kept))  # where a checkpoint is loaded nothing of what this process did may count
        try:
            pretrain(*splits(data), recipe=recipe, folder=folder, device="cpu", stop=StopAfter(1))
        except Requeue:
            assert not (folder / "backbone.safetensors").exists()
            kept.append(max((folder / "checkpoints").glob("step-*.pt")).stem)
            continue
        return kept


def test_stops_at_every_step_change_no_bit(data: Path, tmp_path: Path) -> None:
    whole = train(data, tmp_path / "whole")
    kept = stop_after_each_step(data, tmp_path / "stopped")
    assert kept == [f"step-{step:09d}" for step in range(1, 13)]  # four of each epoch
    assert (tmp_path / "stopped" / "backbone.safetensors").read_bytes() == whole.path.read_bytes()
    assert not (tmp_path / "stopped" / "checkpoints").exists()
    first, other = (
        [{**json.loads(line), "seconds": 0} for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole", "stopped")
    )
    assert first == other


@pytest.mark.parametrize("damaged", [0, 1, 2], ids=["none", "the newest", "all"])
def test_a_killed_run_continues_from_the_newest_whole_checkpoint(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: int
) -> None:
    monkeypatch.setattr(pretraining, "Falls", partial(Falls, checkpoint_s=-1.0))
    whole = train(data, tmp_path / "whole")
    folder, measure = tmp_path / "killed", pretraining.measure

    def die_in_second_epoch(*arguments: Any, **keywords: Any) -> float:
        if (folder / "metrics.jsonl").exists():
            raise Killed
        return measure(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(pretraining, "measure", die_in_second_epoch)
        with pytest.raises(Killed):
            train(data, folder)
    kept = sorted((folder / "checkpoints").iterdir())
    assert [path.name for path in kept] == ["step-000000007.pt", "step-000000008.pt"]
    for path in kept[len(kept) - damaged :]:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    with pytest.raises(BadInput, match="another recipe"):
        train(data, folder, recipe=replace(RECIPE, seed=1))
    seen: list[int] = []
    loss = BackboneLearner.loss
    monkeypatch.setattr(BackboneLearner, "loss", lambda learner, batch: (seen.append(1), loss(learner, batch))[1])
    assert train(data, folder).path.read_bytes() == whole.path.read_bytes()
    assert len(seen) == 12 - (8, 7, 0)[damaged]


def test_another_environment_is_told_and_can_be_allowed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Requeue):
        pretrain(*splits(data), recipe=RECIPE, folder=tmp_path / "run", device="cpu", stop=StopAfter(5))
    monkeypatch.setattr("piggyback.suite.training.checkpoints.describe_device", lambda device: "another machine")
    with pytest.raises(BadInput, match=r"is another machine.*--allow-other-environment"):
        train(data, tmp_path / "run")
    result = pretrain(*splits(data), recipe=RECIPE, folder=tmp_path / "run", device="cpu", allow_other_environment=True)
    assert result is not None
    assert len(result.history) == 3


def test_a_loss_that_is_not_finite_stops_the_run(data: Path, tmp_path: Path) -> None:
    with pytest.raises(Diverged, match="is not finite any more at epoch 1, step 4: lower the learning rate"):
        train(data, tmp_path / "run", recipe=replace(RECIPE, lr=1e30))
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "failed"
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


def free_ports(count: int) -> list[str]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [str(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def test_two_processes_agree_with_each_other_and_with_one(data: Path, tmp_path: Path) -> None:
    with pytest.raises(Requeue):
        train_short(data, tmp_path / "more", stop=StopAfter(3))
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    command = [sys.executable, backbone_processes.__file__, str(data), str(tmp_path), *free_ports(10)]
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

    stopped, whole = (tmp_path / name / "backbone.safetensors" for name in ("stopped", "trained"))
    assert stopped.read_bytes() == whole.read_bytes()
    with pytest.raises(BadInput, match=r"device was .*, 2 processes, is "):
        train_short(data, tmp_path / "fewer")
    together = json.loads((tmp_path / "trained" / "metrics.jsonl").read_text().splitlines()[0])
    for name in ("fewer", "more"):  # not the same bits, but three steps of four are
        found = train_short(data, tmp_path / name, allow_other_environment=True)
        assert found is not None
        assert found.trained == (name == "fewer")
        assert found.history[0]["loss"] == pytest.approx(together["loss"], rel=0.1)


def test_the_paper_preset_has_the_stated_schedule() -> None:
    paper = PRESETS["paper"]
    assert (paper.depth, paper.widen, paper.epochs, paper.batch_size) == (28, 4, 50, 64)
    rates = [paper.full_rate * paper.decay_in(epoch) for epoch in (0, 24, 25, 49)]
    assert rates == pytest.approx([0.05, 0.05, 0.005, 0.005])


def test_the_named_preset_gives_the_defaults() -> None:
    assert train_defaults([]).settings == PRESETS["paper"]
    for words in (["--data", "d", "--recipe", "smoke"], ["--recipe=smoke"]):
        assert train_defaults(words).settings == PRESETS["smoke"] != PRESETS["paper"]
    with pytest.raises(UnknownName, match="Did you mean 'paper'"):
        train_defaults(["--recipe", "papers"])


def test_a_signal_stops_the_run_and_the_same_command_continues(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = TrainOptions(data=data, out=tmp_path / "run", settings=RECIPE, device="cpu", json=True)
    loss, seen = BackboneLearner.loss, list[int]()

    def ask_to_stop(learner: BackboneLearner, batch: Any) -> Any:
        seen.append(1)
        if len(seen) == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(learner, batch)

    with monkeypatch.context() as patch:
        patch.setattr(BackboneLearner, "loss", ask_to_stop)
        with pytest.raises(Requeue):
            run_train(options)
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["state"], status["progress"]) == ("requeue", pytest.approx(6 / 12))
    assert run_train(options) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["epochs"] == 3
    assert report["sha256"] == load_backbone(tmp_path / "run" / "backbone.safetensors").sha256
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "done"


@pytest.mark.parametrize(("field", "value"), [("depth", 27), ("epochs", 0), ("lr", float("nan")), ("size", 4)])
def test_recipes_that_cannot_be_are_refused(field: str, value: float) -> None:
    with pytest.raises(BadInput, match=f"{field} is"):
        PretrainRecipe(**{field: value})  # type: ignore[arg-type]
