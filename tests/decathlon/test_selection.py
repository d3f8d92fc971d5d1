"""Learning rates and epochs are chosen on val, and the test part is looked at once, without its labels."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import decathlon.prediction as prediction
import decathlon.training as training
import pytest
import torch
from decathlon.training import train_task
from torch import Tensor

from decathlon.bench import Job, open_bench
from decathlon.challenge.submission import Predictions
from decathlon.release.packed import open_split
from leaderboard.result import read_result
from piggyback.payload import Payload, read_payload
from piggyback.shell.errors import BadInput, Diverged
from piggyback.suite.training.run_folder import RunFolder

Change = Callable[..., Job]
Outcome = Callable[[RunFolder], dict[str, Any]]


def tensors(payload: Payload) -> dict[str, Tensor]:
    masks = {f"{key} of {name}": tensor for name, parts in payload.kept.items() for key, tensor in parts.items()}
    return {**masks, **payload.own, **{f"head.{name}": tensor for name, tensor in payload.head.items()}}


def same(one: Payload, other: Payload) -> bool:
    a, b = tensors(one), tensors(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# -- learning rates -------------------------------------------------------------------------------------


@pytest.fixture
def val(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Lets val have given accuracies, one after the other; Diverged where there is None.  Gives what was measured."""

    def give(*values: float | None) -> list[str]:
        waiting, measured = list(values), list[str]()

        def measure(bench: Any, network: Any, split: Any) -> float:
            measured.append(split.split)
            value = waiting.pop(0)
            if value is None:
                raise Diverged("logits are not finite")
            return value

        monkeypatch.setattr(training, "measure", measure)
        return measured

    return give


@pytest.mark.parametrize(
    ("accuracies", "used"),
    [((0.25, 0.5, 0.25), 1e-3), ((0.5, 0.5, 0.25), 1e-3), ((0.5, 0.5, 0.5), 1e-4), ((None, 0.0, None), 1e-3)],
    ids=["best", "tie", "all equal", "diverged"],
)
def test_the_best_rate_on_val_is_used_and_ties_go_to_the_lower(
    job: Job, change: Change, val: Callable[..., list[str]], accuracies: tuple[float | None, ...], used: float
) -> None:
    measured = val(*accuracies)
    folder = train_task(change(job, lr_grid=(3e-3, 1e-3, 1e-4), trial_share=0.5))
    assert measured == ["val"] * 3
    expected = [
        {"lr": rate, "steps": None if accuracy is None else 3, "val_accuracy": accuracy}
        for rate, accuracy in zip((3e-3, 1e-3, 1e-4), accuracies, strict=True)
    ]
    assert json.loads(folder.trials.read_text()) == expected
    recipe = read_result(folder.result).recipe
    assert recipe is not None
    assert (recipe["lr_used"], recipe["lr_trials"]) == (used, expected)
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert lines[0]["lr"] == used


def test_trials_leave_nothing_behind_in_the_final_training(
    job: Job, change: Change, val: Callable[..., list[str]], tmp_path: Path
) -> None:
    val(0.5, 0.75)
    tried = train_task(change(job, lr_grid=(1e-4, 2e-3)))
    plain = train_task(replace(job, out=tmp_path / "plain"))
    assert same(read_payload(tried.payload), read_payload(plain.payload))


def test_when_every_rate_diverges_the_run_fails(job: Job, change: Change, val: Callable[..., list[str]]) -> None:
    val(None, None)
    with pytest.raises(Diverged, match="every learning rate"):
        train_task(change(job, lr_grid=(1e-3, 1e-4)))


def test_a_finished_trial_is_not_done_again(
    job: Job, change: Change, outcome: Outcome, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Gone(BaseException):
        pass

    job = change(job, lr_grid=(1e-3, 2e-3))
    whole = train_task(job)
    tried: list[float] = []
    real = training.try_rate

    def try_rate(work: Any, *, rate: float, number: int) -> Any:
        tried.append(rate)
        if tried == [1e-3, 2e-3]:
            raise Gone
        return real(work, rate=rate, number=number)

    monkeypatch.setattr(training, "try_rate", try_rate)
    again = replace(job, out=tmp_path / "again")
    with pytest.raises(Gone):
        train_task(again)
    folder = train_task(again)
    assert tried == [1e-3, 2e-3, 2e-3]
    assert outcome(folder) == outcome(whole)


@pytest.mark.parametrize("text", ["{}", "[1]", '[{"lr": 1}]', '[{"lr": 9, "steps": 1, "val_accuracy": 0.5}]'])
def test_damaged_trials_are_a_message(job: Job, change: Change, text: str) -> None:
    job = change(job, lr_grid=(1e-3, 2e-3))
    folder = RunFolder(open_bench(job).root)
    folder.root.mkdir(parents=True)
    folder.trials.write_text(text)
    with pytest.raises(BadInput, match=r"trials\.json.*delete it"):
        train_task(job)


# -- what is selected, and on what ----------------------------------------------------------------------


def test_the_best_epoch_on_val_is_kept(job: Job, change: Change, val: Callable[..., list[str]], tmp_path: Path) -> None:
    job = change(job, epochs=3, decay_after=1.0, selected_on="val")
    measured = val(0.25, 0.75, 0.75)
    folder = train_task(job)
    assert measured == ["val"] * 3
    assert read_result(folder.result).selected_on == "val"
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert [line["val_accuracy"] for line in lines] == [0.25, 0.75, 0.75]
    short = train_task(change(job, epochs=2, selected_on="last epoch"))
    assert same(read_payload(folder.payload), read_payload(short.payload))
    assert Predictions.load(folder.predictions).category_ids.tolist() == (
        Predictions.load(short.predictions).category_ids.tolist()
    )
    last = train_task(change(job, selected_on="last epoch"))
    assert not same(read_payload(folder.payload), read_payload(last.payload))


def test_the_test_part_is_looked_at_once_after_all_training(
    job: Job, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    real = training.predict

    def predict(bench: Any, network: Any, split: Any) -> Any:
        seen.append(split.split)
        return real(bench, network, split)

    for module in (training, prediction):  # whose `measure` predicts, too
        monkeypatch.setattr(module, "predict", predict)
    job = change(job, selected_on="val", lr_grid=(1e-3, 2e-3))
    train_task(job, on_step=lambda share: seen.append("step"))
    assert seen == ["val", "val", *["step"] * 3, "val", *["step"] * 3, "val", "test", "val"]
    assert set(open_split(job.data, "svhn", "test").labels.tolist()) == {-1}


def test_labels_of_the_test_part_are_never_opened_by_a_run(job: Job, outcome: Outcome, tmp_path: Path) -> None:
    plain = outcome(train_task(job))
    (job.data / "labels_test").mkdir()
    (job.data / "labels_test" / "svhn_test.json").write_text("no JSON")
    assert outcome(train_task(replace(job, out=tmp_path / "again"))) == plain
