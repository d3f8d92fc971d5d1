"""Learning rates are chosen on held-out pictures, and nothing looks at what it must not."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import segmentation.training as training
import torch
from segmentation.training import train_task

from leaderboard.result import read_result
from piggyback.payload import read_payload
from piggyback.shell.errors import BadInput, Diverged, Requeue
from piggyback.suite.training.run_folder import RunFolder
from segmentation.bench import Job, open_bench
from segmentation.release.packed import PackedSplit, label_file

Change = Callable[..., Job]
Outcome = Callable[[RunFolder], dict[str, Any]]
Folder = Callable[[Job], RunFolder]


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
    job: Job,
    change: Change,
    outcome: Outcome,
    stop_after: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    folder_of: Folder,
) -> None:
    job = change(job, lr_grid=(1e-3, 2e-3), held_out=2, trial_share=0.5)
    steps = open_bench(job).epoch_batches(open_bench(job).trial_places)
    whole = train_task(job)
    again = replace(job, out=tmp_path / "again")
    with pytest.raises(Requeue):
        train_task(again, stop=stop_after(steps + 2))
    folder = folder_of(again)
    assert [trial["lr"] for trial in json.loads(folder.trials.read_text())] == [1e-3]
    assert {path.parent.name for path in folder.checkpoints.rglob("*.pt")} == {"trial-2"}
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
def test_damaged_trials_are_a_message(job: Job, change: Change, text: str, folder_of: Folder) -> None:
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
