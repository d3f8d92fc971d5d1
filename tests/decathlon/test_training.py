"""One run, mostly six steps of masks on svhn: what it leaves, what it refuses, and its verb."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import decathlon.training as training
import numpy as np
import pytest
import torch
from decathlon.training import train_task

from decathlon.bench import Job, open_bench
from decathlon.challenge.submission import Predictions
from decathlon.recipes import Recipe
from decathlon.release.packed import open_split
from decathlon.tasks import TASKS
from leaderboard.result import read_result
from piggyback.payload import read_payload
from piggyback.shell.cli import main
from piggyback.shell.errors import BadInput, UnknownName
from piggyback.suite.training.run_folder import RunFolder

Change = Callable[..., Job]
Outcome = Callable[[RunFolder], dict[str, Any]]
Count = Callable[[Job], tuple[RunFolder, int]]


def arguments(job: Job, *more: str) -> list[str]:
    words = ["--task", job.task, "--method", job.method, "--data", str(job.data), "--backbone", str(job.backbone)]
    recipe = ["--epochs", "2", "--batch-size", "3", "--size", "16", "--lr", "2e-3", "--update", "eager"]
    return ["decathlon", "train", *words, "--out", str(job.out), *recipe, "--precision", "fp32", *more]


# -- a whole run ----------------------------------------------------------------------------------------


def test_a_run_leaves_what_it_says_and_is_done(
    job: Job, capsys: pytest.CaptureFixture[str], count_steps: Count
) -> None:
    folder, steps = count_steps(job)
    assert steps == 6
    assert {path.name for path in folder.root.iterdir() if not path.name.startswith(".")} == {
        *("recipe.json", "status.json", "metrics.jsonl", "payload.safetensors", "predictions.npz", "result.json"),
        "sparsity.json",
    }
    bench = open_bench(job)
    assert folder.root == job.out / "runs" / bench.key.folder_name == bench.root
    assert json.loads(folder.key.read_text()) == json.loads(json.dumps(asdict(bench.key)))
    status = json.loads(folder.status.read_text())
    assert (status["state"], status["progress"], status["pid"]) == ("done", 1.0, os.getpid())
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert [(line["epoch"], line["lr"]) for line in lines] == [(1, 2e-3), (2, pytest.approx(2e-4))]

    result = read_result(folder.result)
    assert (result.task, result.method, result.split, result.seed) == ("svhn", "piggyback", "val", 0)
    assert (result.selected_on, result.trained_on, result.official_data) == ("last epoch", "train", False)
    assert result.recipe is not None
    assert (result.recipe["lr_used"], result.recipe["lr_trials"]) == (2e-3, [])
    assert result.counts is not None
    assert result.counts.n == 4
    assert 0 < result.metrics["zeros"] < 1  # some masks moved, or equal bits elsewhere would say nothing
    assert result.parameter_ratio == pytest.approx(1 + 9 / 32)
    assert result.versions is not None
    assert result.versions["mask update"] == "eager"
    assert result.fingerprints is not None
    assert result.fingerprints.backbone == bench.backbone.sha256
    assert sum(result.bits.values()) == 8 * folder.payload.stat().st_size

    chosen = Predictions.load(folder.predictions)
    assert chosen.image_ids.tolist() == open_split(job.data, "svhn", "test").image_ids.tolist()
    assert read_payload(folder.payload).recipe["lr"] == 2e-3

    times = {path: path.stat().st_mtime_ns for path in folder.root.iterdir()}
    assert count_steps(job) == (folder, 0)
    assert {path: path.stat().st_mtime_ns for path in folder.root.iterdir()} == times
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("piggyback", {}),
        ("piggyback", {"norm": "trained", "head_rule": "sgd", "selected_on": "val"}),
        ("piggyback-ternary", {"trained_on": "train+val"}),
        ("feature", {"normalise": "own-train"}),
        ("finetune", {"weight_decay": 1e-3, "normalise": "official-task"}),
    ],
    ids=["masks", "masks and norm", "ternary", "feature", "finetune"],
)
def test_the_same_recipe_gives_the_same_bits(
    job: Job, change: Change, outcome: Outcome, tmp_path: Path, method: str, fields: dict[str, Any]
) -> None:
    job = replace(change(job, **fields), method=method)
    first = outcome(train_task(job))
    torch.manual_seed(99)
    np.random.seed(99)
    assert outcome(train_task(replace(job, out=tmp_path / "again"))) == first
    other = outcome(train_task(change(replace(job, out=tmp_path / "other"), seed=1)))
    assert other["payload"] != first["payload"]


def test_aircraft_is_seen_whole_and_mirrored_and_svhn_is_not(job: Job) -> None:
    aircraft, svhn = open_bench(replace(job, task="aircraft")), open_bench(job)
    seen = aircraft.augmentation(training=True)
    assert (seen.view, seen.flip, seen.size) == ("whole", True, 16)
    seen = svhn.augmentation(training=True)
    assert (seen.view, seen.flip) == ("crop", False)
    assert not aircraft.augmentation(training=False).flip


def test_flips_can_be_turned_off(job: Job, change: Change) -> None:
    bench = open_bench(replace(change(job, flip=False), task="aircraft"))
    assert not bench.augmentation(training=True).flip


def test_pictures_are_normalised_as_the_recipe_says(job: Job, change: Change) -> None:
    split = open_split(job.data, "svhn", "train")
    pixels = np.concatenate([split.picture(place).reshape(-1, 3) for place in range(len(split))]) / 255
    expected = {
        "backbone": ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3)),
        "official-task": (TASKS["svhn"].mean, TASKS["svhn"].std),
        "own-train": (pixels.mean(0), pixels.std(0)),
    }
    for name, (mean, std) in expected.items():
        bench = open_bench(change(job, normalise=name))
        assert bench.statistics.mean == pytest.approx(tuple(mean))
        assert bench.statistics.std == pytest.approx(tuple(std))
        black = bench.inputs(torch.zeros(1, 3, 2, 2, dtype=torch.uint8))
        assert black[0, :, 0, 0].tolist() == pytest.approx([-m / s for m, s in zip(mean, std, strict=True)], rel=1e-5)


def test_train_and_val_are_both_trained_on(job: Job, change: Change, count_steps: Count) -> None:
    folder, steps = count_steps(change(job, trained_on="train+val"))
    assert steps == 2 * 4  # twelve pictures
    assert read_result(folder.result).trained_on == "train+val"


def test_the_head_starts_alike_for_every_method(job: Job) -> None:
    heads = []
    for method in ("piggyback", "feature", "finetune"):
        state = open_bench(replace(job, method=method)).make_adapter().task("svhn")
        assert state.head is not None
        heads.append(state.head.state_dict()["weight"])
    assert torch.equal(heads[0], heads[1])
    assert torch.equal(heads[0], heads[2])


# -- failures -------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_fails_the_run(
    job: Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(training, "cross_entropy", lambda outputs, targets: outputs.sum() * float("nan"))
    assert main(arguments(job)) == 1
    said = capsys.readouterr()
    assert said.err == ("piggyback: the loss is not finite any more at epoch 1, step 3: lower the learning rate\n")
    (root,) = (job.out / "runs").iterdir()
    folder = RunFolder(root)
    status = json.loads(folder.status.read_text())
    assert (status["state"], "not finite" in status["message"]) == ("failed", True)
    assert not folder.result.exists()
    assert not folder.payload.exists()
    monkeypatch.undo()
    assert main(arguments(job)) == 0  # the same command tries again
    assert folder.result.exists()


def test_a_fault_of_ours_is_told_to_who_watches(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("bug")

    monkeypatch.setattr(training, "finish", broken)
    with pytest.raises(ZeroDivisionError):
        train_task(job)
    status = json.loads(RunFolder(open_bench(job).root).status.read_text())
    assert (status["state"], status["message"]) == ("failed", "bug")


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"task": "svnh"}, "Did you mean 'svhn'"),
        ({"method": "pigyback"}, "Did you mean 'piggyback'"),
        ({"task": "imagenet12"}, "the backbone's own task"),
        ({"task": "dtd"}, "piggyback decathlon prepare .* --tasks dtd"),
        ({"data": Path("nowhere")}, "not packed in nowhere"),
        ({"backbone": Path("nowhere.safetensors")}, r"nowhere\.safetensors"),
        ({"recipe": Recipe(size=80)}, "svhn train has a picture of 72 px, too small for a crop of 80 px"),
    ],
    ids=["task", "method", "own task", "not packed", "no data", "no backbone", "size"],
)
def test_what_is_missing_is_said_before_anything_is_written(job: Job, fields: dict[str, Any], fault: str) -> None:
    with pytest.raises((BadInput, UnknownName), match=fault):
        train_task(replace(job, **fields))
    assert not job.out.exists()


def test_the_folder_of_another_run_is_refused(job: Job) -> None:
    folder = RunFolder(open_bench(job).root)
    folder.root.mkdir(parents=True)
    folder.key.write_text('{"task": "dtd"}')
    with pytest.raises(BadInput, match="another run"):
        train_task(job)


# -- the verb -------------------------------------------------------------------------------------------


def test_the_verb_says_done_twice_and_minds_no_name(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    job = replace(job, out=job.out.parent / "a \"b\" 'c'\n[d] $e [/d]")
    assert main(arguments(job)) == 0
    (root,) = (job.out / "runs").iterdir()
    first = capsys.readouterr().out
    assert f"done: {root}" in first
    assert main(arguments(job)) == 0
    assert capsys.readouterr().out == first
    assert main(arguments(job, "--json")) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["folder"] == str(root)
    assert report["result"]["metrics"]["accuracy"] == read_result(RunFolder(root).result).metrics["accuracy"]


def test_the_verb_stops_at_a_signal_and_goes_on(
    job: Job, outcome: Outcome, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    plain = outcome(train_task(replace(job, out=tmp_path / "plain")))
    batches = training.Bench.batches

    def signalled(*given: Any) -> Iterator[Any]:
        for number, batch in enumerate(batches(*given)):
            if number == 1:
                signal.raise_signal(signal.SIGUSR2)
            yield batch

    monkeypatch.setattr(training.Bench, "batches", signalled)
    assert main(arguments(job)) == 75
    assert "the same command again continues" in capsys.readouterr().err
    monkeypatch.undo()
    assert main(arguments(job)) == 0
    (root,) = (job.out / "runs").iterdir()
    assert outcome(RunFolder(root)) == plain


def test_a_damaged_result_is_a_message(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    folder = train_task(job)
    folder.result.write_text("{}")
    assert main(arguments(job)) == 1
    assert "result.json" in capsys.readouterr().err
