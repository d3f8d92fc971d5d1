"""What `segmentation run` and `segmentation report` say of finished runs, and the overlay sheets that they draw."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import segmentation.prediction as prediction
from piggyback.shell.cli import main
from piggyback.shell.errors import one_line
from piggyback.suite.bench import Job
from piggyback.suite.results import find_runs
from segmentation.benchmark import BENCHMARK
from segmentation.metric.confusion import count_pairs
from segmentation.metric.miou import score
from segmentation.metric.sheets import write_sheets
from segmentation.release.label_files import write_label_map
from segmentation.release.packed import open_split
from segmentation.report import score_background

Words = Callable[..., list[str]]


@pytest.fixture
def words(job: Job, recipe_words: list[str]) -> Words:
    """The command that runs new layers alone for one epoch; more words change it."""

    def build(*more: str) -> list[str]:
        places = ["--data", str(job.data), "--backbone", str(job.backbone), "--out", str(job.out), "--device", "cpu"]
        return ["segmentation", "run", *places, *recipe_words, "--epochs", "1", "--methods", "feature", *more]

    return build


def test_tables_stand_beside_the_score_of_an_empty_answer(
    job: Job, words: Words, capsys: pytest.CaptureFixture[str]
) -> None:
    command = words("--methods", "piggyback,feature", "--sheets", "1")
    assert main(command) == 0
    said = capsys.readouterr().out
    for text in ("FCN-32s on seg11valid, 5 of 736 pictures", "background everywhere: ", "no benchmark result"):
        assert text in said
    assert f"overlay sheets: {one_line(job.out / 'sheets')}" in said
    assert {path.name for path in (job.out / "sheets").iterdir()} == {"piggyback.png", "feature.png"}
    assert main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    split = open_split(job.data, "seg11valid")
    truth = np.concatenate([split.label_map(place).ravel() for place in range(5)])
    scored = truth[truth != 255]
    assert report["all_background_mean_iou"] == pytest.approx((scored == 0).mean() / len(np.unique(scored)))


def test_without_sheets_none_is_drawn(job: Job, words: Words, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words("--sheets", "0")) == 0
    assert not (job.out / "sheets").exists()
    assert "overlay sheets" not in capsys.readouterr().out


def test_background_everywhere_is_the_number_to_be_above(job: Job) -> None:
    split = open_split(job.data, "seg11valid")
    maps = [split.label_map(place) for place in range(5)]
    matrix = sum(count_pairs(one, np.zeros_like(one)) for one in maps)
    assert matrix[:, 1:].sum() == 0
    found = score_background(split)
    assert found == score(np.asarray(matrix), pictures=5).mean_iou
    assert 0 < found < 0.5


def test_runs_that_predict_nothing_but_background_are_remarked_on(
    words: Words, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prediction, "predict_picture", lambda *given: np.zeros(given[2].shape[:2], dtype=np.uint8))
    assert main(words("--sheets", "0", "--json")) == 0
    said = capsys.readouterr()
    assert said.err.count("every predicted pixel is background") == 1
    report = json.loads(said.out)
    assert report["methods"]["feature"]["mean_iou"]["mean"] == report["all_background_mean_iou"]


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


def test_a_finished_run_that_lacks_a_label_map_is_told_of_with_what_to_do(
    job: Job, words: Words, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words("--sheets", "1")) == 0
    (found,) = find_runs(job.out, benchmark=BENCHMARK, method="feature").values()
    one = open_split(job.data, "seg11valid").ids[0]
    (found.folder.root / "predictions" / "seg11valid" / f"{one}.png").unlink()
    capsys.readouterr()
    assert main(words("--sheets", "1")) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert f"{one}.png" in said
    assert "result.json and the same run makes both again" in said


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        (("--evaluate", "voc2012_val"), "1 of the 3 pictures of voc2012_val are in sbd_train"),
        (("--held-out", "9"), "8 pictures: 9 held out"),
    ],
)
def test_what_would_fail_is_said_before_anything_is_trained(
    job: Job, words: Words, more: tuple[str, ...], fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(*more)) == 1
    assert fault in capsys.readouterr().err
    assert not (job.out / "runs").exists()


def test_a_report_is_of_one_split(job: Job, words: Words, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words("--sheets", "0")) == 0
    capsys.readouterr()
    report = ["segmentation", "report", "--runs", str(job.out), "--data", str(job.data), "--methods", "feature"]
    assert main([*report, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["missing"] == []
    assert main([*report, "--split", "voc2012_val", "--json"]) == 1  # the run says nothing about that one
    found = json.loads(capsys.readouterr().out)
    assert (found["methods"], found["missing"]) == ({}, ["feature seed 0"])
