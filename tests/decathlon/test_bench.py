"""What is the Decathlon's own in a run: what it leaves, how pictures are seen, what is looked at, what is missing."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from decathlon.bench import Bench
from decathlon.challenge.submission import Predictions
from decathlon.recipes import Recipe
from decathlon.release.packed import PackedSplit, open_split
from decathlon.tasks import TASKS
from leaderboard.result import read_result
from piggyback.shell.errors import BadInput, UnknownName
from piggyback.suite.bench import Job, open_bench
from piggyback.suite.train import train_task
from piggyback.suite.training.run_folder import RunFolder

Change = Callable[..., Job]
Count = Callable[[Job], tuple[RunFolder, int]]
Outcome = Callable[[RunFolder], dict[str, Any]]


def opened(job: Job) -> Bench:
    """The job's bench."""
    bench = open_bench(job)
    assert isinstance(bench, Bench)
    return bench


# -- what a run leaves ----------------------------------------------------------------------------------


def test_a_run_leaves_predictions_of_the_test_part_and_is_measured_on_val(job: Job) -> None:
    folder = train_task(job)
    assert {path.name for path in folder.root.iterdir() if not path.name.startswith(".")} == {
        *("recipe.json", "status.json", "metrics.jsonl", "payload.safetensors", "predictions.npz", "result.json"),
        "sparsity.json",
    }
    chosen = Predictions.load(folder.predictions)
    test = open_split(job.data, "svhn", "test")
    assert chosen.image_ids.tolist() == test.image_ids.tolist()
    assert set(chosen.category_ids.tolist()) <= set(test.category_ids.tolist())
    result = read_result(folder.result)
    assert (result.split, result.official_data) == ("val", False)
    assert result.counts is not None
    assert result.counts.n == 4
    assert result.metrics["accuracy"] == result.counts.correct / 4 == 1 - result.metrics["error"]
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert [line["lr"] for line in lines] == [2e-3, pytest.approx(2e-4)]  # falls after three quarters of the steps


def test_train_and_val_are_both_trained_on(job: Job, change: Change, count_steps: Count) -> None:
    folder, steps = count_steps(change(job, trained_on="train+val"))
    assert steps == 2 * 4  # twelve pictures
    assert read_result(folder.result).trained_on == "train+val"


# -- how pictures are seen ------------------------------------------------------------------------------


def test_aircraft_is_seen_whole_and_mirrored_and_svhn_is_not(job: Job) -> None:
    aircraft, svhn = opened(replace(job, task="aircraft")), opened(job)
    seen = aircraft.augmentation(training=True)
    assert (seen.view, seen.flip, seen.size) == ("whole", True, 16)
    seen = svhn.augmentation(training=True)
    assert (seen.view, seen.flip) == ("crop", False)
    assert not aircraft.augmentation(training=False).flip


def test_flips_can_be_turned_off(job: Job, change: Change) -> None:
    assert not opened(replace(change(job, flip=False), task="aircraft")).augmentation(training=True).flip


def test_pictures_are_normalised_as_the_recipe_says(job: Job, change: Change) -> None:
    split = open_split(job.data, "svhn", "train")
    pixels = np.concatenate([split.picture(place).reshape(-1, 3) for place in range(len(split))]) / 255
    expected = {
        "backbone": ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3)),
        "official-task": (TASKS["svhn"].mean, TASKS["svhn"].std),
        "own-train": (pixels.mean(0), pixels.std(0)),
    }
    for name, (mean, std) in expected.items():
        bench = opened(change(job, normalise=name))
        assert bench.statistics.mean == pytest.approx(tuple(mean))
        assert bench.statistics.std == pytest.approx(tuple(std))
        black = bench.inputs(torch.zeros(1, 3, 2, 2, dtype=torch.uint8))
        assert black[0, :, 0, 0].tolist() == pytest.approx([-m / s for m, s in zip(mean, std, strict=True)], rel=1e-5)


@pytest.mark.parametrize("fields", [{"normalise": "own-train"}, {"normalise": "official-task"}, {"whole": ("svhn",)}])
def test_however_pictures_are_seen_the_same_recipe_gives_the_same_bits(
    job: Job, change: Change, outcome: Outcome, tmp_path: Path, fields: dict[str, Any]
) -> None:
    job = replace(change(job, **fields), method="feature")
    first, other = outcome(train_task(job)), outcome(train_task(replace(job, out=tmp_path / "other")))
    assert first == other
    plain = train_task(replace(job, recipe=replace(job.recipe, **{name: getattr(Recipe(), name) for name in fields})))
    assert plain.payload.read_bytes() != first["payload.safetensors"]


# -- what is looked at ----------------------------------------------------------------------------------


def test_the_test_part_is_looked_at_once_after_all_training(
    job: Job, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    real = Bench.predict

    def predict(bench: Bench, network: Any, split: PackedSplit) -> Any:
        seen.append(split.split)
        return real(bench, network, split)

    monkeypatch.setattr(Bench, "predict", predict)
    job = change(job, selected_on="val", lr_grid=(1e-3, 2e-3))
    train_task(job, on_step=lambda share: seen.append("step"))
    assert seen == ["val", "val", *["step"] * 3, "val", *["step"] * 3, "val", "test", "val"]
    assert set(open_split(job.data, "svhn", "test").labels.tolist()) == {-1}


def test_labels_of_the_test_part_are_never_opened_by_a_run(job: Job, outcome: Outcome, tmp_path: Path) -> None:
    plain = outcome(train_task(job))
    (job.data / "labels_test").mkdir()
    (job.data / "labels_test" / "svhn_test.json").write_text("no JSON")
    assert outcome(train_task(replace(job, out=tmp_path / "again"))) == plain


# -- what is missing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"task": "svnh"}, "Did you mean 'svhn'"),
        ({"task": "imagenet12"}, "the backbone's own task"),
        ({"task": "dtd"}, "piggyback decathlon prepare .* --tasks dtd"),
        ({"recipe": Recipe(size=80)}, "svhn train has a picture of 72 px, too small for a crop of 80 px"),
    ],
    ids=["task", "own task", "not packed", "size"],
)
def test_what_is_missing_is_said_before_anything_is_written(job: Job, fields: dict[str, Any], fault: str) -> None:
    with pytest.raises((BadInput, UnknownName), match=fault):
        train_task(replace(job, **fields))
    assert not job.out.exists()
