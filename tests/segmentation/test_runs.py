"""Runs of segmentation from training to tables: predictions that survive breaks, sheets, background, damaged runs."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import segmentation.prediction as prediction
from leaderboard.result import read_result
from piggyback.adapter import Adapter
from piggyback.shell.cli import main
from piggyback.shell.errors import BadInput, Diverged, Requeue
from piggyback.suite import train
from piggyback.suite.bench import Job
from piggyback.suite.results import find_runs
from piggyback.suite.train import train_task
from piggyback.suite.training.run_folder import RunFolder
from segmentation.benchmark import BENCHMARK, TASK
from segmentation.metric.confusion import count_pairs
from segmentation.metric.miou import score
from segmentation.metric.sheets import write_sheets
from segmentation.release.label_files import write_label_map
from segmentation.release.packed import label_file, open_split
from segmentation.report import score_background

Change = Callable[..., Job]
Outcome = Callable[[RunFolder], dict[str, Any]]
Folder = Callable[[Job], RunFolder]


@pytest.fixture
def words(job: Job, recipe_words: list[str]) -> Callable[..., list[str]]:
    """The console command that runs the job's recipe, with more words behind it."""

    def build(*more: str) -> list[str]:
        places = ["--data", str(job.data), "--backbone", str(job.backbone), "--out", str(job.out)]
        return ["segmentation", "run", *places, *recipe_words, "--device", "cpu", *more]

    return build


# -- predictions ----------------------------------------------------------------------------------------


def test_stops_among_the_pictures_change_no_bit(
    job: Job, outcome: Outcome, stop_after: Any, folder_of: Folder, tmp_path: Path
) -> None:
    whole = train_task(job)
    again = replace(job, out=tmp_path / "again")
    folder, stops = folder_of(again), 0
    while not folder.result.exists():
        pictures = len(list((folder.root / "predictions").rglob("*.png")))
        try:
            train_task(again, stop=stop_after(1 + pictures if stops >= 6 else 1))
        except Requeue:
            stops += 1
            assert stops <= 6 + 4
    assert stops == 6 + 4  # after each step, and after each picture but the last
    assert outcome(folder) == outcome(whole)


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
            patch.setattr(Adapter, "save", end)
        elif place == "before the last picture":
            patch.setattr(prediction, "predict_picture", end_at_the_last)
        else:
            patch.setattr(train, "write_result", end if place == "before the result" else end_after)
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


def test_label_maps_to_evaluate_on_are_not_read_before_the_result(
    copied: Job, change: Change, outcome: Outcome, tmp_path: Path, folder_of: Folder
) -> None:
    job = change(copied, held_out=2, lr_grid=(1e-3, 2e-3))
    whole = train_task(replace(job, out=tmp_path / "whole"))
    labels = label_file(copied.data / "seg11valid")
    good = labels.read_bytes()
    labels.write_bytes(b"\x77" * len(good))  # of no class: whoever counts with them fails
    with pytest.raises(BadInput, match=r"seg11valid, \S+: .*119"):
        train_task(job)
    folder = folder_of(job)
    assert folder.trials.read_bytes() == whole.trials.read_bytes()
    assert folder.payload.read_bytes() == whole.payload.read_bytes()
    labels.write_bytes(good)
    train_task(job)
    assert outcome(folder) == outcome(whole)


def test_a_network_that_learned_nothing_finite_is_a_message(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    save = Adapter.save

    def break_and_save(adapter: Any, *given: Any, **more: Any) -> None:
        save(adapter, *given, **more)
        with torch.no_grad():
            adapter.network.head.score.bias.fill_(float("inf"))

    monkeypatch.setattr(Adapter, "save", break_and_save)
    with pytest.raises(Diverged, match="logits are not finite"):
        train_task(replace(job, method="feature"))


# -- tables and sheets ----------------------------------------------------------------------------------


def test_tables_sheets_and_the_score_of_background(
    job: Job, words: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--methods", "piggyback,feature", "--seeds", "0,1", "--lr-grid", "1e-3", "2e-3", "--held-out", "2"]
    more += ["--epochs", "1", "--trained-on", "train+val", "--sheets", "1"]
    assert main(words(*more)) == 0
    said = capsys.readouterr()
    for text in ("FCN-32s on seg11valid, 5 of 736 pictures", "learning rates tried", "no benchmark result", "±"):
        assert text in said.out
    assert {path.name for path in (job.out / "sheets").iterdir()} == {"piggyback.png", "feature.png"}

    assert main(words(*more, "--json")) == 0  # all done: trains nothing, says the same
    report = json.loads(capsys.readouterr().out)
    for method, found in report["methods"].items():
        results = [read_result(path) for path in sorted((job.out / "runs").glob(f"*-{method}-seed*/result.json"))]
        values = [result.metrics["mean_iou"] for result in results]
        assert found["seeds"] == [0, 1]
        assert found["mean_iou"] == pytest.approx(
            {"mean": np.mean(values), "deviation": np.std(values, ddof=1), "n": 2}
        )
    split = open_split(job.data, "seg11valid")
    truth = np.concatenate([split.label_map(place).ravel() for place in range(5)])
    scored = truth[truth != 255]
    assert report["all_background_mean_iou"] == pytest.approx((scored == 0).mean() / len(np.unique(scored)))


def test_the_sheet_shows_pictures_spread_over_the_split(
    job: Job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    split = open_split(job.data, "seg11valid")
    for one in split.ids:
        write_label_map(tmp_path / f"{one}.png", np.ones((3, 3), dtype=np.uint8))
    shown: list[list[str]] = []
    monkeypatch.setattr(
        "segmentation.metric.sheets.write_sheet", lambda path, rows: shown.append([row.title for row in rows])
    )
    for pictures in (1, 2, 3, 9):
        write_sheets(tmp_path / "sheet.png", split, predictions=tmp_path, pictures=pictures)
    places = [[split.ids.index(one) for one in row] for row in shown]
    assert places == [[0], [0, 4], [0, 2, 4], [0, 1, 2, 3, 4]]


def test_background_everywhere_is_the_number_to_be_above(job: Job) -> None:
    split = open_split(job.data, "seg11valid")
    maps = [split.label_map(place) for place in range(5)]
    matrix = sum(count_pairs(one, np.zeros_like(one)) for one in maps)
    assert matrix[:, 1:].sum() == 0
    found = score_background(split)
    assert found == score(np.asarray(matrix), pictures=5).mean_iou
    assert 0 < found < 0.5


def test_runs_that_predict_nothing_but_background_are_remarked_on(
    words: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prediction, "predict_picture", lambda *given: np.zeros(given[2].shape[:2], dtype=np.uint8))
    assert main(words("--methods", "feature", "--json", "--sheets", "0")) == 0
    said = capsys.readouterr()
    assert said.err.count("every predicted pixel is background") == 1
    report = json.loads(said.out)
    assert report["methods"]["feature"]["mean_iou"]["mean"] == report["all_background_mean_iou"]


def test_a_damaged_finished_run_is_told_of_with_what_to_do(
    job: Job, words: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    command = words("--methods", "feature", "--sheets", "1")
    assert main(command) == 0
    folder = find_runs(job.out, benchmark=BENCHMARK, method="feature")[TASK, 0].folder
    one = open_split(job.data, "seg11valid").ids[0]
    (folder.root / "predictions" / "seg11valid" / f"{one}.png").unlink()
    capsys.readouterr()
    assert main(command) == 1
    said = capsys.readouterr().err
    assert f"{one}.png" in said
    assert "delete" in said
    assert "result.json and the same run makes both again" in said


def test_a_report_is_of_one_split(
    job: Job, words: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words("--methods", "feature", "--sheets", "0")) == 0
    capsys.readouterr()
    report = [
        "segmentation",
        "report",
        "--runs",
        str(job.out),
        "--data",
        str(job.data),
        "--methods",
        "feature",
        "--json",
    ]
    assert main(report) == 0
    assert json.loads(capsys.readouterr().out)["missing"] == []
    assert main([*report, "--split", "voc2012_val"]) == 1  # the run says nothing about that one
    assert json.loads(capsys.readouterr().out)["methods"] == {}
