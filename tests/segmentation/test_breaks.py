"""A run that is stopped, killed or damaged goes on to the same bits."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import segmentation.training as training
import torch
from segmentation.training import train_task

import segmentation.prediction as prediction
from piggyback.shell.errors import BadInput, Requeue
from piggyback.shell.lock import hold
from piggyback.suite.training.run_folder import Environment, RunFolder
from segmentation.bench import Job

Change = Callable[..., Job]
Outcome = Callable[[RunFolder], dict[str, Any]]
Kill = Callable[[Job, int], None]
Count = Callable[[Job], tuple[RunFolder, int]]
Folder = Callable[[Job], RunFolder]
PAIRS = {"batch_size": 2, "accumulate": 2}  # five batches an epoch, so that a step has but one


def checkpoint_files(folder: RunFolder) -> list[Path]:
    return sorted(folder.checkpoints.rglob("*.pt"))


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
    job: Job,
    outcome: Outcome,
    kill_at: Kill,
    checkpoint_each_step: None,
    tmp_path: Path,
    steps: int,
    count_steps: Count,
    folder_of: Folder,
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
    job: Job,
    outcome: Outcome,
    killed: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    place: str,
    folder_of: Folder,
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
    count_steps: Count,
    folder_of: Folder,
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
    job: Job, stop_after: Any, monkeypatch: pytest.MonkeyPatch, folder_of: Folder
) -> None:
    with pytest.raises(Requeue):
        train_task(job, stop=stop_after(2))
    other = Environment(torch_version="9.9", device="abacus, 3 threads", machine="m68k", update="eager")
    monkeypatch.setattr(Environment, "here", lambda device, *, update: other)
    with pytest.raises(BadInput, match=r"is abacus, 3 threads.*--allow-other-environment"):
        train_task(job)
    assert json.loads(folder_of(job).status.read_text())["state"] == "failed"
    assert train_task(replace(job, allow_other_environment=True)).result.exists()


def test_a_second_process_is_kept_out(job: Job, folder_of: Folder) -> None:
    folder = folder_of(job)
    folder.root.mkdir(parents=True)
    with hold(folder.root, work="at work on"), pytest.raises(BadInput, match="another process is at work"):
        train_task(job)
    assert train_task(job).result.exists()
