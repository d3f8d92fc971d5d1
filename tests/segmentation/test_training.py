"""One run, mostly six steps of masks on a narrow VGG: what it leaves, its loss, what it refuses, and its verb."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import segmentation.training as training
import torch
from segmentation.training import train_task
from torch import Tensor
from torch.nn.functional import cross_entropy

import segmentation.bench as bench_module
from leaderboard.result import read_result
from piggyback.payload import read_payload
from piggyback.shell.cli import main
from piggyback.shell.errors import BadInput, UnknownName, one_line
from piggyback.suite.training.run_folder import RunFolder
from segmentation.bench import Job, open_bench
from segmentation.metric.confusion import read_matrix
from segmentation.metric.miou import score
from segmentation.recipes import Recipe
from segmentation.release.packed import label_file, open_split

Change = Callable[..., Job]
Outcome = Callable[[RunFolder], dict[str, Any]]
Count = Callable[[Job], tuple[RunFolder, int]]
Folder = Callable[[Job], RunFolder]
METHODS = ("piggyback", "feature", "finetune")
PAIRS = {"batch_size": 2, "accumulate": 2}  # five batches an epoch, so that a step has but one
SUMS = {**PAIRS, "epochs": 1, "loss": "sum", "flip": True, "weight_decay": 1e-3}


@pytest.fixture
def arguments(recipe_words: list[str]) -> Callable[..., list[str]]:
    def build(job: Job, *more: str) -> list[str]:
        words = ["--method", job.method, "--data", str(job.data), "--backbone", str(job.backbone)]
        return ["segmentation", "train", *words, "--out", str(job.out), *recipe_words, *more]

    return build


# -- a whole run ----------------------------------------------------------------------------------------


def test_a_run_leaves_what_it_says_and_is_done(
    job: Job, capsys: pytest.CaptureFixture[str], count_steps: Count
) -> None:
    folder, steps = count_steps(job)
    assert steps == 6
    assert {path.name for path in folder.root.iterdir() if not path.name.startswith(".")} == {
        *("recipe.json", "status.json", "metrics.jsonl", "payload.safetensors", "predictions"),
        *("sparsity.json", "sheet.png"),
        *("confusion.json", "scores.csv", "result.json"),
    }
    bench = open_bench(job)
    assert folder.root == job.out / "runs" / bench.key.folder_name
    assert json.loads(folder.key.read_text()) == json.loads(json.dumps(asdict(bench.key)))
    status = json.loads(folder.status.read_text())
    assert (status["state"], status["progress"], status["pid"]) == ("done", 1.0, os.getpid())
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert [(line["epoch"], line["lr"]) for line in lines] == [(1, 2e-3), (2, 2e-3)]
    pngs = sorted(path.stem for path in (folder.root / "predictions" / "seg11valid").glob("*.png"))
    assert pngs == sorted(bench.evaluation.ids)

    result = read_result(folder.result)  # by the schema
    scores = score(read_matrix(folder.root / "confusion.json"), pictures=5)
    for name in ("mean_iou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou"):
        assert result.metrics[name] == getattr(scores, name)
    assert len(np.unique(read_matrix(folder.root / "confusion.json").nonzero()[1])) > 1  # not all of one class
    assert (result.benchmark, result.task, result.split) == ("segmentation", "pascal-voc", "seg11valid")
    assert (result.method, result.seed) == ("piggyback", 0)
    assert (result.selected_on, result.trained_on, result.official_data) == ("last epoch", "train", False)
    assert result.recipe is not None
    assert (result.recipe["lr_used"], result.recipe["lr_trials"], result.recipe["pictures_in_both"]) == (2e-3, [], 0)
    assert result.recipe["pictures_trained_on"] == "8; sbd_train has 8 of 8498"
    assert result.recipe["pictures_evaluated"] == "5 of 736"
    assert result.counts is not None
    assert result.counts.n == int((bench.evaluation.labels != 255).sum())  # type: ignore[union-attr]
    assert 0.02 < result.metrics["zeros"] < 0.98  # some masks moved, or equal bits elsewhere would say nothing
    assert result.parameter_ratio == pytest.approx(1 + 1 / 32)
    assert result.versions is not None
    assert result.versions["mask update"] == "eager"
    assert result.fingerprints is not None
    assert result.fingerprints.backbone == bench.backbone.sha256
    assert sum(result.bits.values()) == 8 * folder.payload.stat().st_size
    assert read_payload(folder.payload).recipe["lr"] == 2e-3

    times = {path: path.stat().st_mtime_ns for path in folder.root.rglob("*")}
    assert count_steps(job) == (folder, 0)
    assert {path: path.stat().st_mtime_ns for path in folder.root.rglob("*")} == times
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("method", "fields", "hidden"),
    [
        *((method, {}, False) for method in METHODS),
        *((method, SUMS, True) for method in METHODS),
        ("piggyback", {"epochs": 1, "deconvolution": "learned", "dropout": 0.5, "head_rule": "sgd"}, True),
        ("finetune", {"epochs": 1, "margin": "fcn", "size": 0}, True),
    ],
)
def test_the_same_recipe_gives_the_same_bits(
    job: Job,
    change: Change,
    outcome: Outcome,
    make_backbone: Callable[..., Path],
    tmp_path: Path,
    method: str,
    fields: dict[str, Any],
    hidden: bool,
) -> None:
    job = replace(change(job, **fields), method=method, backbone=make_backbone("one", hidden=hidden))
    first = outcome(train_task(job))
    torch.manual_seed(99)
    np.random.seed(99)
    assert outcome(train_task(replace(job, out=tmp_path / "again"))) == first


def test_another_seed_gives_other_bits(job: Job, change: Change, outcome: Outcome) -> None:
    first, other = (outcome(train_task(change(job, seed=seed, epochs=1)))["payload"] for seed in (0, 1))
    assert first != other


def test_what_each_method_trains(job: Job) -> None:
    before = {name: tensor.clone() for name, tensor in open_bench(job).backbone.weights.items()}
    kinds = {}
    for method in METHODS:
        payload = read_payload(train_task(replace(job, method=method)).payload)
        kinds[method] = (bool(payload.masks), bool(payload.own))
        assert set(payload.head) >= {"score.weight", "hidden.fc6.weight"}
        assert payload.head["score.weight"].abs().max() > 0
    assert kinds == {"piggyback": (True, False), "feature": (False, False), "finetune": (False, True)}
    assert all(torch.equal(before[name], tensor) for name, tensor in open_bench(job).backbone.weights.items())


def test_new_layers_start_alike_for_every_method(job: Job, change: Change) -> None:
    def start(method: str, seed: int = 0) -> Tensor:
        state = open_bench(replace(change(job, seed=seed), method=method)).make_adapter().task("pascal-voc")
        assert state.head is not None
        return state.head.state_dict()["hidden.fc6.weight"]

    torch.manual_seed(5)
    assert torch.equal(start("piggyback"), start("feature"))
    assert torch.equal(start("piggyback"), start("finetune"))
    assert not torch.equal(start("feature"), start("feature", seed=1))


# -- the loss -------------------------------------------------------------------------------------------


@pytest.fixture
def drawn() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 21, (3, 9, 7), generator=generator, dtype=torch.uint8)
    labels[0, :4], labels[2] = 255, 255
    return torch.randn(3, 21, 9, 7, generator=generator), labels


def test_the_loss_is_torchs_cross_entropy_of_maps(job: Job, change: Change, drawn: tuple[Tensor, Tensor]) -> None:
    logits, labels = drawn
    mean = open_bench(job).loss(logits, labels)
    assert mean.item() == pytest.approx(cross_entropy(logits, labels.long(), ignore_index=255).item(), rel=1e-6)
    bench = open_bench(change(job, loss="sum"))
    total = cross_entropy(logits, labels.long(), ignore_index=255, reduction="sum").item()
    pixels = float(np.mean([height * width for height, width in [(48, 34), (34, 48), (48, 48)]]))
    assert bench.average_pixels == pytest.approx(pixels, rel=0.2)
    assert bench.loss(logits, labels).item() == pytest.approx(total / (3 * bench.average_pixels), rel=1e-6)


def test_pixels_of_an_average_training_picture_are_those_the_network_sees(job: Job, change: Change) -> None:
    split = open_split(job.data, "sbd_train")
    whole = [float(height * width) for height, width in zip(split.heights, split.widths, strict=True)]
    assert open_bench(change(job, size=0)).average_pixels == np.mean(whole)
    seen = [round(48 * height / max(height, width)) * round(48 * width / max(height, width))
            for height, width in zip(split.heights.tolist(), split.widths.tolist(), strict=True)]  # fmt: skip
    assert open_bench(job).average_pixels == np.mean(seen)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_nothing_but_void_is_no_loss_and_no_nan(job: Job, change: Change, reduction: str) -> None:
    bench = open_bench(change(job, loss=reduction))
    logits = torch.randn(2, 21, 5, 6, requires_grad=True)
    loss = bench.loss(logits, torch.full((2, 5, 6), 255, dtype=torch.uint8))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_a_training_picture_of_nothing_but_void_does_no_harm(copied: Job) -> None:
    split = open_split(copied.data, "sbd_train")
    offset, height, width = split.index[2].tolist()
    with label_file(copied.data / "sbd_train").open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * (height * width))
    result = read_result(train_task(copied).result)
    assert 0 < result.metrics["train_loss"] < 10


# -- failures -------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_fails_the_run(
    job: Job, arguments: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder_of: Folder
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(bench_module, "cross_entropy", lambda logits, *_, **__: logits.sum() * float("nan"))
        assert main(arguments(job)) == 1
    said = capsys.readouterr()
    assert said.err == "piggyback: the loss is not finite any more at epoch 1, step 3: lower the learning rate\n"
    folder = folder_of(job)
    status = json.loads(folder.status.read_text())
    assert (status["state"], "not finite" in status["message"]) == ("failed", True)
    assert not folder.result.exists()
    assert not folder.payload.exists()
    assert main(arguments(job)) == 0  # the same command tries again
    assert folder.result.exists()


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"method": "pigyback"}, "Did you mean 'piggyback'"),
        ({"data": Path("nowhere")}, r"sbd_train is not packed in nowhere.*Run `piggyback segmentation prepare"),
        ({"backbone": Path("nowhere.safetensors")}, r"nowhere\.safetensors"),
        ({"recipe": Recipe(evaluate="voc2012_val_minus_sbd")}, "voc2012_val_minus_sbd is not packed"),
        ({"recipe": Recipe(held_out=8)}, "sbd_train has 8 pictures: 8 held out leave none to train on"),
        ({"recipe": Recipe(evaluate="voc2012_val")}, r"1 of the 3 pictures of voc2012_val are in sbd_train \(2\d+_"),
    ],
    ids=["method", "no data", "no backbone", "not packed", "held out", "overlap"],
)
def test_what_is_wrong_is_said_before_anything_is_written(job: Job, fields: dict[str, Any], fault: str) -> None:
    with pytest.raises((BadInput, UnknownName), match=fault):
        train_task(replace(job, **fields))
    assert not job.out.exists()


def test_the_folder_of_another_run_is_refused(job: Job, folder_of: Folder) -> None:
    folder = folder_of(job)
    folder.root.mkdir(parents=True)
    folder.key.write_text('{"task": "dtd"}')
    with pytest.raises(BadInput, match="another run"):
        train_task(job)


def test_an_overlap_that_is_allowed_stands_in_the_result(
    job: Job, change: Change, capsys: pytest.CaptureFixture[str]
) -> None:
    job = replace(change(job, evaluate="voc2012_val"), allow_overlap=True, method="feature")
    recipe = read_result(train_task(job).result).recipe
    assert recipe is not None
    assert recipe["pictures_in_both"] == 1
    assert "allowed, but these scores compare with no others" in capsys.readouterr().err


# -- the verb -------------------------------------------------------------------------------------------


def test_the_verb_says_done_twice_and_minds_no_name(
    job: Job, arguments: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    job = replace(job, out=job.out.parent / "a \"b\" 'c'\n[d] $e [/d]")
    assert main(arguments(job)) == 0
    (root,) = (job.out / "runs").iterdir()
    assert root == open_bench(job).root  # the words of the command line are the job's recipe
    first = capsys.readouterr().out
    assert f"done: {one_line(root)}" in first
    assert "piggyback seed 0, seg11valid, 5 of 736 pictures" in first
    assert main(arguments(job)) == 0
    assert capsys.readouterr().out == first
    assert main(arguments(job, "--json")) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["folder"] == str(root)
    assert report["result"]["metrics"]["mean_iou"] == report["mean_iou"]
    assert (len(report["iou"]), report["pictures"]) == (21, 5)


def test_the_verb_stops_at_a_signal_and_goes_on(
    job: Job,
    arguments: Any,
    outcome: Outcome,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    folder_of: Folder,
) -> None:
    plain = outcome(train_task(replace(job, out=tmp_path / "plain")))
    batches = training.Bench.batches

    def signalled(*given: Any) -> Iterator[Any]:
        for number, batch in enumerate(batches(*given)):
            if number == 2:
                signal.raise_signal(signal.SIGUSR2)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(training.Bench, "batches", signalled)
        assert main(arguments(job)) == 75
    assert "the same command again continues" in capsys.readouterr().err
    assert [path.stem for path in folder_of(job).checkpoints.rglob("*.pt")] == ["step-000000003"]
    assert main(arguments(job)) == 0
    assert outcome(folder_of(job)) == plain


def test_a_damaged_result_is_a_message(job: Job, arguments: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder = train_task(replace(job, method="feature"))
    folder.result.write_text("{}")
    assert main(arguments(replace(job, method="feature"))) == 1
    assert "result.json" in capsys.readouterr().err
