"""One run, mostly six steps of masks on a narrow VGG: bits, breaks, trials, and what it must not look at."""

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import segmentation.bench as bench_module
import segmentation.prediction as prediction
import segmentation.training as training
from leaderboard.result import read_result
from piggyback.cli import main
from piggyback.errors import BadInput, Diverged, Requeue, UnknownName, one_line
from piggyback.files import hold
from piggyback.payload import read_payload
from piggyback.runs import Environment, RunFolder
from segmentation.bench import Job, open_bench
from segmentation.confusion import read_matrix, score
from segmentation.packed import PackedSplit, label_file, open_split
from segmentation.recipes import Recipe
from segmentation.training import train_task

Change = Callable[..., Job]
Outcome = Callable[[RunFolder], dict[str, Any]]
Kill = Callable[[Job, int], None]
METHODS = ("piggyback", "feature", "finetune")
PAIRS = {"batch_size": 2, "accumulate": 2}  # five batches an epoch, so that a step has but one
SUMS = {**PAIRS, "epochs": 1, "loss": "sum", "flip": True, "weight_decay": 1e-3}


def checkpoint_files(folder: RunFolder) -> list[Path]:
    return sorted(folder.checkpoints.rglob("*.pt"))


def count_steps(job: Job) -> tuple[RunFolder, int]:
    shares: list[float] = []
    return train_task(job, on_step=shares.append), len(shares)


def folder_of(job: Job) -> RunFolder:
    return RunFolder(open_bench(job).root)


@pytest.fixture
def arguments(recipe_words: list[str]) -> Callable[..., list[str]]:
    def build(job: Job, *more: str) -> list[str]:
        words = ["--method", job.method, "--data", str(job.data), "--backbone", str(job.backbone)]
        return ["segmentation", "train", *words, "--out", str(job.out), *recipe_words, *more]

    return build


@pytest.fixture
def copied(job: Job, tmp_path: Path) -> Job:
    """The job on a copy of the packed pictures, which may be changed."""
    return replace(job, data=shutil.copytree(job.data, tmp_path / "copied"))


# -- a whole run ----------------------------------------------------------------------------------------


def test_a_run_leaves_what_it_says_and_is_done(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
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


# -- breaks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "fields", "breaks"),
    [
        ("piggyback", {}, 6 + 4),
        ("finetune", {"lr_grid": (1e-3, 2e-3), "held_out": 3, "trained_on": "train+val", **PAIRS}, 2 * 2 + 6 + 4),
    ],
    ids=["plain", "trials and accumulation"],
)
def test_stops_after_every_step_and_picture_change_no_bit(
    job: Job,
    change: Change,
    outcome: Outcome,
    stop_after: Any,
    tmp_path: Path,
    method: str,
    fields: dict[str, Any],
    breaks: int,
) -> None:
    job = change(replace(job, method=method), **fields)
    whole = train_task(job)
    again = replace(job, out=tmp_path / "again")
    folder = RunFolder(again.out / "runs" / whole.root.name)
    found = 0
    while True:
        torch.manual_seed(found)  # where a checkpoint is loaded nothing of what this process did may count
        try:
            pictures = len(list((folder.root / "predictions").rglob("*.png")))
            train_task(again, stop=stop_after(1 + pictures))
        except Requeue:
            found += 1
            status = json.loads(folder.status.read_text())
            assert (status["state"], folder.result.exists()) == ("requeue", False)
            # A stop among the pictures finds the training's last checkpoint, from which nothing is left to train.
            assert checkpoint_files(folder)
            assert found <= breaks
            continue
        break
    assert found == breaks
    assert outcome(folder) == outcome(whole)
    assert not folder.checkpoints.exists()


@pytest.mark.parametrize("steps", [1, 3, 4, 6])
def test_a_killed_training_goes_on_to_the_same_bits(
    job: Job, outcome: Outcome, kill_at: Kill, checkpoint_each_step: None, tmp_path: Path, steps: int
) -> None:
    again = replace(job, out=tmp_path / "again")
    kill_at(again, steps)
    folder = folder_of(again)
    assert json.loads(folder.status.read_text())["state"] == "running"
    assert not folder.result.exists()
    resumed, more = count_steps(again)
    assert more == 6 - (steps - 1)  # the checkpoint of the step itself was not written yet
    assert outcome(resumed) == outcome(train_task(job))


@pytest.mark.parametrize("place", ["before the payload", "before the last picture", "before the result", "after it"])
def test_a_run_killed_after_its_training_goes_on_to_the_same_bits(
    job: Job, outcome: Outcome, killed: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    again = replace(job, out=tmp_path / "again")
    folder = folder_of(again)
    write, predict, ends = training.write_result, prediction.predict_picture, list[str]()

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
            patch.setattr(training.Adapter, "save", end)
        elif place == "before the last picture":
            patch.setattr(prediction, "predict_picture", end_at_the_last)
        else:
            patch.setattr(training, "write_result", end if place == "before the result" else end_after)
        with pytest.raises(killed):
            train_task(again)
    pictures: list[Any] = []
    monkeypatch.setattr(prediction, "predict_picture", lambda *given: (pictures.append(given), predict(*given))[1])
    train_task(again)
    made_again = {"before the payload": 5, "before the last picture": 1}.get(place, 0)
    assert len(pictures) == made_again
    assert outcome(folder) == outcome(train_task(job))
    assert json.loads(folder.status.read_text())["state"] == "done"
    assert not folder.checkpoints.exists()


@pytest.mark.parametrize("damaged", [1, 2], ids=["the newest", "all"])
def test_damaged_checkpoints_cost_time_and_no_bits(
    job: Job,
    outcome: Outcome,
    kill_at: Kill,
    checkpoint_each_step: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damaged: int,
) -> None:
    again = replace(job, out=tmp_path / "again")
    kill_at(again, 5)
    files = checkpoint_files(folder_of(again))
    assert [path.stem for path in files] == ["step-000000003", "step-000000004"]
    for path in files[-damaged:]:
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    resumed, more = count_steps(again)
    assert more == {1: 3, 2: 6}[damaged]
    assert capsys.readouterr().err.count("is damaged") == damaged
    assert outcome(resumed) == outcome(train_task(job))


def test_a_checkpoint_of_another_environment_is_refused_unless_allowed(
    job: Job, stop_after: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Requeue):
        train_task(job, stop=stop_after(2))
    other = Environment(torch_version="9.9", device="abacus, 3 threads", machine="m68k", update="eager")
    monkeypatch.setattr(Environment, "here", lambda device, *, update: other)
    with pytest.raises(BadInput, match=r"is abacus, 3 threads.*--allow-other-environment"):
        train_task(job)
    assert json.loads(folder_of(job).status.read_text())["state"] == "failed"
    assert train_task(replace(job, allow_other_environment=True)).result.exists()


def test_a_second_process_is_kept_out(job: Job) -> None:
    folder = folder_of(job)
    folder.root.mkdir(parents=True)
    with hold(folder.root, work="at work on"), pytest.raises(BadInput, match="another process is at work"):
        train_task(job)
    assert train_task(job).result.exists()


# -- failures -------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_fails_the_run(
    job: Job, arguments: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
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


def test_the_folder_of_another_run_is_refused(job: Job) -> None:
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


# -- learning rates -------------------------------------------------------------------------------------


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[str, tuple[int, ...]]]]:
    """Lets trials have given mean IoUs, one after the other; Diverged where there is None.  Gives what was measured."""

    def give(*values: float | None) -> list[tuple[str, tuple[int, ...]]]:
        waiting, measured = list(values), list[tuple[str, tuple[int, ...]]]()

        def count(bench: Any, network: Any, split: PackedSplit, places: tuple[int, ...]) -> Any:
            measured.append((split.name, places))
            value = waiting.pop(0)
            if value is None:
                raise Diverged("logits are not finite")
            right = round(value * 100)
            matrix = np.zeros((21, 21), dtype=np.int64)
            matrix[0, 0], matrix[0, 255 % 21] = right, 100 - right  # an IoU of `value`, and one of 0
            return matrix

        monkeypatch.setattr(training, "count_places", count)
        return measured

    return give


@pytest.mark.parametrize(
    ("values", "used"),
    [((0.25, 0.5, 0.25), 1e-3), ((0.5, 0.5, 0.25), 1e-3), ((0.5, 0.5, 0.5), 1e-4), ((None, 0.0, None), 1e-3)],
    ids=["best", "tie", "all equal", "diverged"],
)
def test_the_best_rate_on_held_out_pictures_is_used(
    job: Job,
    change: Change,
    given: Any,
    checkpoint_each_step: None,
    values: tuple[float | None, ...],
    used: float,
) -> None:
    measured = given(*values)
    job = change(replace(job, method="feature"), lr_grid=(3e-3, 1e-3, 1e-4), trial_share=0.5, held_out=2)
    bench = open_bench(job)
    steps = bench.epoch_batches(bench.trial_places)
    folder = train_task(job)
    assert measured == [("sbd_train", bench.held_out)] * 3
    expected = [
        {
            "lr": rate,
            "steps": None if value is None else steps,
            "held_out_mean_iou": None if value is None else value / 2,
        }
        for rate, value in zip((3e-3, 1e-3, 1e-4), values, strict=True)
    ]
    assert json.loads(folder.trials.read_text()) == expected
    recipe = read_result(folder.result).recipe
    assert recipe is not None
    assert (recipe["lr_used"], recipe["lr_trials"]) == (used, expected)
    assert json.loads(folder.metrics.read_text().splitlines()[0])["lr"] == 20 * used  # of the new layers
    assert not folder.checkpoints.exists()


def test_trials_leave_nothing_behind_in_the_final_training(
    job: Job, change: Change, given: Any, tmp_path: Path
) -> None:
    given(0.5, 0.75)
    fields = {"held_out": 2, "trained_on": "train+val"}
    tried = read_payload(train_task(change(job, lr_grid=(1e-4, 2e-3), **fields)).payload)
    plain = read_payload(train_task(change(replace(job, out=tmp_path / "plain"), **fields)).payload)
    assert all(torch.equal(tried.head[name], tensor) for name, tensor in plain.head.items())
    for name, parts in plain.kept.items():
        assert all(torch.equal(tried.kept[name][key], tensor) for key, tensor in parts.items())


def test_a_finished_trial_is_not_done_again_and_a_broken_one_goes_on(
    job: Job, change: Change, outcome: Outcome, stop_after: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    job = change(job, lr_grid=(1e-3, 2e-3), held_out=2, trial_share=0.5)
    steps = open_bench(job).epoch_batches(open_bench(job).trial_places)
    whole = train_task(job)
    again = replace(job, out=tmp_path / "again")
    with pytest.raises(Requeue):
        train_task(again, stop=stop_after(steps + 2))
    folder = folder_of(again)
    assert [trial["lr"] for trial in json.loads(folder.trials.read_text())] == [1e-3]
    assert {path.parent.name for path in checkpoint_files(folder)} == {"trial-2"}
    seen: list[int] = []
    batches = training.Bench.batches

    def note(bench: Any, places: Any, epoch: int, start: int) -> Any:
        for batch in batches(bench, places, epoch, start):
            seen.append(len(places))
            yield batch

    monkeypatch.setattr(training.Bench, "batches", note)
    train_task(again)
    assert seen.count(6) == steps - 2 + 6  # the rest of the second trial, then the final training
    assert outcome(folder) == outcome(whole)


@pytest.mark.parametrize("text", ["{}", "[1]", '[{"lr": 1}]', '[{"lr": 9, "steps": 1, "held_out_mean_iou": 0.5}]'])
def test_damaged_trials_are_a_message(job: Job, change: Change, text: str) -> None:
    job = change(job, lr_grid=(1e-3, 2e-3), held_out=2)
    folder = folder_of(job)
    folder.root.mkdir(parents=True)
    folder.trials.write_text(text)
    with pytest.raises(BadInput, match=r"trials\.json.*delete it"):
        train_task(job)


# -- what it looks at -----------------------------------------------------------------------------------


def test_the_held_out_pictures_are_the_same_for_every_seed_and_order(
    job: Job, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    def held_out(bench: Any) -> set[str]:
        assert set(bench.held_out) | set(bench.trial_places) == set(range(8))
        assert not set(bench.held_out) & set(bench.trial_places)
        return {bench.train.ids[place] for place in bench.held_out}

    first = open_bench(change(job, held_out=3))
    assert len(held_out(first)) == 3
    assert first.held_out != (0, 1, 2)
    assert held_out(open_bench(change(job, held_out=3, seed=7))) == held_out(first)
    assert held_out(open_bench(replace(change(job, held_out=3), method="feature"))) == held_out(first)
    turned = replace(first, train=replace(first.train, ids=first.train.ids[::-1]))
    assert held_out(turned) == held_out(first)
    assert held_out(open_bench(change(job, held_out=2))) < held_out(first)


@pytest.mark.parametrize("trained_on", ["train", "train+val"])
def test_held_out_pictures_are_not_trained_on_in_trials(
    job: Job, change: Change, monkeypatch: pytest.MonkeyPatch, trained_on: str
) -> None:
    """Every label map that is read, in order, with the stage it was read in."""
    stages, read = ["trial"], list[tuple[str, str, int]]()
    label_map, count, predict = PackedSplit.label_map, training.count_places, training.predict_split

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
    monkeypatch.setattr(training, "count_places", in_stage("choice", "trial", count))
    monkeypatch.setattr(training, "predict_split", in_stage("result", "over", predict))
    monkeypatch.setattr(training, "write_sheets", in_stage("sheet", "over", training.write_sheets))
    monkeypatch.setattr(training, "train_final", in_stage("final", "trained", training.train_final))
    job = change(job, held_out=3, lr_grid=(1e-3, 2e-3), trial_share=1.0, trained_on=trained_on)
    bench = open_bench(job)
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


def test_label_maps_to_evaluate_on_are_not_read_before_the_result(
    copied: Job, change: Change, outcome: Outcome, tmp_path: Path
) -> None:
    job = change(copied, held_out=2, lr_grid=(1e-3, 2e-3))
    whole = train_task(replace(job, out=tmp_path / "whole"))
    labels = label_file(copied.data / "seg11valid")
    good = labels.read_bytes()
    labels.write_bytes(b"\x77" * len(good))  # of no class: whoever counts with them fails
    with pytest.raises(BadInput, match=r"seg11valid, \S+: the truth has the label 119"):
        train_task(job)
    folder = folder_of(job)
    assert folder.trials.read_bytes() == RunFolder(whole.root).trials.read_bytes()
    assert folder.payload.read_bytes() == whole.payload.read_bytes()
    labels.write_bytes(good)
    train_task(job)
    assert outcome(folder) == outcome(whole)


def test_a_network_that_learned_nothing_finite_is_a_message(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    save = training.Adapter.save

    def break_and_save(adapter: Any, *given: Any, **more: Any) -> None:
        save(adapter, *given, **more)
        with torch.no_grad():
            adapter.network.head.score.bias.fill_(float("inf"))

    monkeypatch.setattr(training.Adapter, "save", break_and_save)
    with pytest.raises(Diverged, match="logits are not finite"):
        train_task(replace(job, method="feature"))


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
    assert [path.stem for path in checkpoint_files(folder_of(job))] == ["step-000000003"]
    assert main(arguments(job)) == 0
    assert outcome(folder_of(job)) == plain


def test_a_damaged_result_is_a_message(job: Job, arguments: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder = train_task(replace(job, method="feature"))
    folder.result.write_text("{}")
    assert main(arguments(replace(job, method="feature"))) == 1
    assert "result.json" in capsys.readouterr().err
