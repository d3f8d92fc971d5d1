"""What is segmentation's own in a run: its loss, what it leaves, which pictures it looks at, what is missing."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import segmentation.bench as bench_module
import segmentation.prediction as prediction
from leaderboard.result import read_result
from piggyback.payload import read_payload
from piggyback.shell.cli import main
from piggyback.shell.errors import BadInput, Diverged
from piggyback.suite import train
from piggyback.suite.bench import Job, open_bench
from piggyback.suite.train import train_task
from piggyback.suite.training.run_folder import RunFolder
from segmentation.bench import Bench
from segmentation.metric.confusion import read_matrix
from segmentation.metric.miou import score
from segmentation.options import Overlap
from segmentation.recipes import FCNRecipe
from segmentation.release.packed import PackedSplit, label_file, open_split

Change = Callable[..., Job]
Outcome = Callable[[RunFolder], dict[str, Any]]
Folder = Callable[[Job], RunFolder]
PAIRS = {"batch_size": 2, "accumulate": 2}  # five batches an epoch, so that a step has but one
SUMS = {**PAIRS, "epochs": 1, "loss": "sum", "flip": True, "weight_decay": 1e-3}


def opened(job: Job) -> Bench:
    """The job's bench."""
    bench = open_bench(job)
    assert isinstance(bench, Bench)
    return bench


# -- what a run leaves ----------------------------------------------------------------------------------


def test_a_run_leaves_label_maps_their_confusion_and_a_sheet(job: Job) -> None:
    folder, bench = train_task(job), opened(job)
    assert {path.name for path in folder.root.iterdir() if not path.name.startswith(".")} == {
        *("recipe.json", "status.json", "metrics.jsonl", "payload.safetensors", "predictions"),
        *("sparsity.json", "sheet.png", "confusion.json", "scores.csv", "result.json"),
    }
    pngs = sorted(path.stem for path in (folder.root / "predictions" / "seg11valid").glob("*.png"))
    assert pngs == sorted(bench.evaluation.ids)
    matrix = read_matrix(folder.root / "confusion.json")
    assert len(np.unique(matrix.nonzero()[1])) > 1  # not all of one class
    result, scores = read_result(folder.result), score(matrix, pictures=5)
    for name in ("mean_iou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou"):
        assert result.metrics[name] == getattr(scores, name)
    assert (result.task, result.split, result.official_data) == ("pascal-voc", "seg11valid", False)
    assert result.counts is not None
    assert result.counts.n == int((bench.evaluation.labels != 255).sum())  # type: ignore[union-attr]
    assert result.recipe is not None
    assert result.recipe["pictures_in_both"] == 0
    assert result.recipe["pictures_trained_on"] == "8; sbd_train has 8 of 8498"
    assert result.recipe["pictures_evaluated"] == "5 of 736"
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert [line["lr"] for line in lines] == [2e-3, 2e-3]  # as in FCN's solver


@pytest.mark.parametrize(
    ("method", "fields", "hidden"),
    [
        ("piggyback", SUMS, True),
        ("piggyback", {"epochs": 1, "deconvolution": "learned", "dropout": 0.5, "head_rule": "sgd"}, True),
        ("finetune", {"epochs": 1, "margin": "fcn", "size": 0}, True),
        ("feature", {**SUMS, "loss": "mean"}, False),
    ],
    ids=["sums", "learned deconvolution", "FCN's margin", "pairs"],
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


def test_the_heads_new_layers_are_trained_whatever_the_method(job: Job) -> None:
    before = {name: tensor.clone() for name, tensor in opened(job).opened.weights.items()}
    kinds = {}
    for method in ("piggyback", "feature", "finetune"):
        payload = read_payload(train_task(replace(job, method=method)).payload)
        kinds[method] = (bool(payload.masks), bool(payload.own))
        assert set(payload.head) >= {"score.weight", "hidden.fc6.weight"}
        assert payload.head["score.weight"].abs().max() > 0
    assert kinds == {"piggyback": (True, False), "feature": (False, False), "finetune": (False, True)}
    assert all(torch.equal(before[name], tensor) for name, tensor in opened(job).opened.weights.items())


@pytest.mark.parametrize(
    ("place", "again"),
    [("before the payload", 5), ("before the last picture", 1), ("before the result", 0), ("after it", 0)],
)
def test_what_was_predicted_before_a_kill_is_not_predicted_again(
    job: Job, killed: Any, monkeypatch: pytest.MonkeyPatch, folder_of: Folder, place: str, again: int
) -> None:
    write, predict, ends = train.write_result, prediction.predict_picture, list[str]()

    def end(*_: Any, **__: Any) -> Any:
        raise killed

    def end_at_the_last(*given: Any) -> Any:
        if len(ends) == 4:
            raise killed
        ends.append("")
        return predict(*given)

    def end_after(*given: Any) -> None:
        write(*given)
        raise killed

    with monkeypatch.context() as patch:
        if place == "before the payload":
            patch.setattr(train.Adapter, "save", end)
        elif place == "before the last picture":
            patch.setattr(prediction, "predict_picture", end_at_the_last)
        else:
            patch.setattr(train, "write_result", end if place == "before the result" else end_after)
        with pytest.raises(killed):
            train_task(job)
    pictures: list[Any] = []
    monkeypatch.setattr(prediction, "predict_picture", lambda *given: (pictures.append(given), predict(*given))[1])
    assert train_task(job).result.exists()
    assert len(pictures) == again


# -- the loss -------------------------------------------------------------------------------------------


@pytest.fixture
def drawn() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 21, (3, 9, 7), generator=generator, dtype=torch.uint8)
    labels[0, :4], labels[2] = 255, 255
    return torch.randn(3, 21, 9, 7, generator=generator), labels


def test_the_loss_is_torchs_cross_entropy_of_maps(job: Job, change: Change, drawn: tuple[Tensor, Tensor]) -> None:
    logits, labels = drawn
    mean = opened(job).loss(logits, labels)
    assert mean.item() == pytest.approx(cross_entropy(logits, labels.long(), ignore_index=255).item(), rel=1e-6)
    bench = opened(change(job, loss="sum"))
    total = cross_entropy(logits, labels.long(), ignore_index=255, reduction="sum").item()
    pixels = float(np.mean([height * width for height, width in [(48, 34), (34, 48), (48, 48)]]))
    assert bench.average_pixels == pytest.approx(pixels, rel=0.2)
    assert bench.loss(logits, labels).item() == pytest.approx(total / (3 * bench.average_pixels), rel=1e-6)


def test_pixels_of_an_average_training_picture_are_those_the_network_sees(job: Job, change: Change) -> None:
    split = open_split(job.data, "sbd_train")
    whole = [float(height * width) for height, width in zip(split.heights, split.widths, strict=True)]
    assert opened(change(job, size=0)).average_pixels == np.mean(whole)
    seen = [round(48 * height / max(height, width)) * round(48 * width / max(height, width))
            for height, width in zip(split.heights.tolist(), split.widths.tolist(), strict=True)]  # fmt: skip
    assert opened(job).average_pixels == np.mean(seen)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_nothing_but_void_is_no_loss_and_no_nan(job: Job, change: Change, reduction: str) -> None:
    bench = opened(change(job, loss=reduction))
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
    assert 0 < read_result(train_task(copied).result).metrics["train_loss"] < 10


def test_a_network_that_learned_nothing_finite_is_a_message(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    save = train.Adapter.save

    def break_and_save(adapter: Any, *given: Any, **more: Any) -> None:
        save(adapter, *given, **more)
        with torch.no_grad():
            adapter.network.head.score.bias.fill_(float("inf"))

    monkeypatch.setattr(train.Adapter, "save", break_and_save)
    with pytest.raises(Diverged, match="logits are not finite"):
        train_task(replace(job, method="feature"))


# -- which pictures it looks at -------------------------------------------------------------------------


def test_the_held_out_pictures_are_the_same_for_every_seed_and_order(job: Job, change: Change) -> None:
    def held_out(bench: Bench) -> set[str]:
        assert set(bench.held_out) | set(bench.trial_places) == set(range(8))
        assert not set(bench.held_out) & set(bench.trial_places)
        return {bench.train.ids[place] for place in bench.held_out}

    first = opened(change(job, held_out=3))
    assert len(held_out(first)) == 3
    assert first.held_out != (0, 1, 2)
    assert held_out(opened(change(job, held_out=3, seed=7))) == held_out(first)
    assert held_out(opened(replace(change(job, held_out=3), method="feature"))) == held_out(first)
    turned = replace(first, train=replace(first.train, ids=first.train.ids[::-1]))
    assert held_out(turned) == held_out(first)
    assert held_out(opened(change(job, held_out=2))) < held_out(first)


@pytest.mark.parametrize("trained_on", ["train", "train+val"])
def test_every_label_map_is_read_in_its_stage_alone(
    job: Job, change: Change, monkeypatch: pytest.MonkeyPatch, trained_on: str
) -> None:
    """Held-out pictures are not trained on in trials, and those to evaluate on are not read before the result."""
    stages, read = ["trial"], list[tuple[str, str, int]]()
    label_map = PackedSplit.label_map

    def note(split: PackedSplit, place: int) -> Any:
        read.append((stages[-1], split.name, place))
        return label_map(split, place)

    def in_stage(name: str, then: str, function: Any) -> Any:
        def call(*given: Any, **more: Any) -> Any:
            stages.append(name)
            try:
                return function(*given, **more)
            finally:
                stages.append(then)

        return call

    monkeypatch.setattr(PackedSplit, "label_map", note)
    monkeypatch.setattr(Bench, "measure", in_stage("choice", "trial", Bench.measure))
    monkeypatch.setattr(bench_module, "predict_split", in_stage("result", "over", bench_module.predict_split))
    monkeypatch.setattr(bench_module, "write_sheets", in_stage("sheet", "over", bench_module.write_sheets))
    monkeypatch.setattr(train, "train_final", in_stage("final", "trained", train.train_final))
    job = change(job, held_out=3, lr_grid=(1e-3, 2e-3), trial_share=1.0, trained_on=trained_on)
    bench = opened(job)
    result = read_result(train_task(job).result)
    seen = {stage: {(name, place) for which, name, place in read if which == stage} for stage, _, _ in read}
    held_out = {("sbd_train", place) for place in bench.held_out}
    others = {("sbd_train", place) for place in bench.trial_places}
    assert seen == {
        "trial": others,
        "choice": held_out,
        "final": others | held_out if trained_on == "train+val" else others,
        "result": {("seg11valid", place) for place in range(5)},
        "sheet": {("seg11valid", place) for place in (0, 1, 3, 4)},  # four of them, to be looked at
    }
    assert result.trained_on == trained_on
    assert result.recipe is not None
    assert str(result.recipe["pictures_trained_on"]).startswith("8;" if trained_on == "train+val" else "5;")


def test_label_maps_to_evaluate_on_can_change_nothing_but_the_result(
    copied: Job, change: Change, outcome: Outcome, tmp_path: Path, folder_of: Folder
) -> None:
    job = change(copied, held_out=2, lr_grid=(1e-3, 2e-3))
    whole = train_task(replace(job, out=tmp_path / "whole"))
    labels = label_file(copied.data / "seg11valid")
    good = labels.read_bytes()
    labels.write_bytes(b"\x77" * len(good))  # of no class: whoever counts with them fails
    with pytest.raises(BadInput, match=r"seg11valid, \S+: the truth has the label 119"):
        train_task(job)
    folder = folder_of(job)
    assert folder.trials.read_bytes() == whole.trials.read_bytes()
    assert folder.payload.read_bytes() == whole.payload.read_bytes()
    labels.write_bytes(good)
    train_task(job)
    assert outcome(folder) == outcome(whole)


# -- what is missing, and what is allowed ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"data": Path("nowhere")}, r"sbd_train is not packed in nowhere.*[Rr]un `piggyback segmentation prepare"),
        ({"recipe": FCNRecipe(evaluate="voc2012_val_minus_sbd")}, "voc2012_val_minus_sbd is not packed"),
        ({"recipe": FCNRecipe(held_out=8)}, "sbd_train has 8 pictures: 8 held out leave none to train on"),
        ({"recipe": FCNRecipe(evaluate="voc2012_val")}, r"1 of the 3 pictures of voc2012_val are in sbd_train \(2\d+_"),
    ],
    ids=["no data", "not packed", "held out", "overlap"],
)
def test_what_is_wrong_is_said_before_anything_is_written(job: Job, fields: dict[str, Any], fault: str) -> None:
    with pytest.raises(BadInput, match=fault):
        train_task(replace(job, **fields))
    assert not job.out.exists()


def test_an_overlap_that_is_allowed_stands_in_the_result(
    job: Job, change: Change, capsys: pytest.CaptureFixture[str]
) -> None:
    job = replace(change(job, evaluate="voc2012_val"), own=Overlap(allow_overlap=True), method="feature")
    recipe = read_result(train_task(job).result).recipe
    assert recipe is not None
    assert recipe["pictures_in_both"] == 1
    assert "allowed, but these scores compare with no others" in capsys.readouterr().err


def test_the_verb_shows_scores_by_class(job: Job, recipe_words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    places = ["--data", str(job.data), "--backbone", str(job.backbone), "--out", str(job.out)]
    command = ["segmentation", "train", *places, *recipe_words]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "piggyback seed 0, seg11valid, 5 of 736 pictures" in said
    assert "aeroplane" in said
    assert main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["result"]["metrics"]["mean_iou"] == report["mean_iou"]
    assert (len(report["iou"]), report["pictures"]) == (21, 5)
