"""Folders of palette PNGs against each other, through the verb."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from piggyback.shell.errors import BadInput
from segmentation.metric.confusion import count_pairs
from segmentation.metric.miou import score
from segmentation.metric.png_folders import run
from segmentation.options import MiouOptions
from segmentation.release.label_files import encode_label_map, read_label_file, write_label_map


@pytest.fixture
def folders(tmp_path: Path) -> MiouOptions:
    """Five pictures of different sizes, in folders with a space and a newline in their names."""
    options = MiouOptions(truth=tmp_path / "the truth", predictions=tmp_path / "pre\ndictions", json=True)
    random = np.random.default_rng(0)
    for number in range(5):
        shape = (4 + number, 9 - number)
        write_label_map(
            options.truth / f"2008_00000{number}.png", random.choice([0, 1, 5, 255], shape).astype(np.uint8)
        )
        write_label_map(
            options.predictions / f"2008_00000{number}.png", random.choice([0, 1, 7], shape).astype(np.uint8)
        )
    return options


def scored(options: MiouOptions, capsys: pytest.CaptureFixture[str]) -> Any:
    assert run(options) == 0
    return json.loads(capsys.readouterr().out)


def changed(options: MiouOptions, **change: Any) -> MiouOptions:
    return MiouOptions(**{**vars(options), **change})


def fails(options: MiouOptions, match: str) -> str:
    with pytest.raises(BadInput, match=match) as caught:
        run(options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_one_matrix_over_all(folders: MiouOptions, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    names = sorted(path.name for path in folders.truth.iterdir())
    pairs = [(read_label_file(folders.truth / n), read_label_file(folders.predictions / n)) for n in names]
    whole = [np.concatenate([pair[side].ravel() for pair in pairs])[None] for side in (0, 1)]
    expected = score(count_pairs(*whole), pictures=5).as_json()
    assert scored(changed(folders, csv=tmp_path / "a.csv"), capsys) == expected
    with (tmp_path / "a.csv").open(newline="") as file:
        assert float(list(csv.DictReader(file))[1]["iou"]) == expected["iou"][1]  # type: ignore[index]


def test_a_list_of_ids(folders: MiouOptions, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("2008_000003\n\n 2008_000001 \r\n")
    assert scored(changed(folders, ids=ids), capsys)["pictures"] == 2
    ids.write_text("2008_000003\n2008_000001\n2008_000003\n")
    assert "2008_000003" in fails(changed(folders, ids=ids), "twice")
    ids.write_text("../2008_000003\n")
    fails(changed(folders, ids=ids), "not an id")
    ids.write_text("\n")
    fails(changed(folders, ids=ids), "has no id")
    fails(changed(folders, ids=tmp_path / "none.txt"), "cannot read")


def test_truth_without_prediction_is_told(folders: MiouOptions, capsys: pytest.CaptureFixture[str]) -> None:
    (folders.predictions / "2008_000002.png").unlink()
    (folders.predictions / "._2008_000000.png").write_bytes(b"what macOS leaves in archives")
    assert run(folders) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["pictures"] == 4
    assert "4 of 5 label maps" in told.err
    assert "2008_000002" in told.err


def test_missing_files_are_one_message(folders: MiouOptions, tmp_path: Path) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("".join(f"2008_00000{number}\n" for number in range(9)))
    (folders.truth / "2008_000000.png").unlink()
    text = fails(changed(folders, ids=ids), "5 of 9 files are not in")
    assert "2008_000000.png, 2008_000005.png, 2008_000006.png, ..." in text
    assert "4 of 9 files are not in" in text
    assert "1 of 5 files" in fails(folders, "give --ids")
    fails(changed(folders, predictions=tmp_path / "none"), "is not there")
    fails(changed(folders, predictions=ids), "is a file")
    (tmp_path / "empty").mkdir()
    fails(changed(folders, predictions=tmp_path / "empty"), "has no PNG")


def test_pairs_that_do_not_fit(folders: MiouOptions) -> None:
    path = folders.predictions / "2008_000003.png"
    kept = path.read_bytes()
    write_label_map(path, np.zeros((6, 7), dtype=np.uint8))
    text = fails(folders, "truth is 6 x 7, the prediction 7 x 6")
    assert text.count("2008_000003.png") == 2
    path.write_bytes(kept[:-30])
    assert "2008_000003.png" in fails(folders, "ends early")
    path.write_bytes(encode_label_map(np.full((7, 6), 255, dtype=np.uint8)))
    assert "2008_000003.png" in fails(folders, r"255 \(void\)")


def test_shown_to_a_person(folders: MiouOptions, capsys: pytest.CaptureFixture[str]) -> None:
    for path in folders.predictions.iterdir():
        write_label_map(path, read_label_file(path) * np.uint8(0))
    assert run(changed(folders, json=False)) == 0
    told = capsys.readouterr()
    assert "every predicted pixel is background" in told.err
    assert "mean IoU" in told.out
    assert "5 pictures" in told.out
    assert r"pre\ndictions" in told.out


def test_real_label_maps(shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    devkit = shared_data / "segmentation" / "VOCdevkit" / "VOC2012"
    truth, ids = devkit / "SegmentationClass", devkit / "ImageSets" / "Segmentation" / "seg11valid.txt"
    perfect = scored(MiouOptions(truth=truth, predictions=truth, ids=ids, json=True), capsys)
    assert (perfect["mean_iou"], perfect["pixel_accuracy"], perfect["pictures"]) == (1.0, 1.0, 100)
    assert [label for label, iou in enumerate(perfect["iou"]) if iou is None] == [1, 3, 4, 6]  # as its README says
    for path in truth.glob("*.png"):
        write_label_map(tmp_path / path.name, np.zeros_like(read_label_file(path)))
    empty = scored(MiouOptions(truth=truth, predictions=tmp_path, json=True), capsys)
    assert empty["iou"][0] == empty["pixel_accuracy"]
    assert empty["mean_iou"] == pytest.approx(empty["pixel_accuracy"] / 17)
    assert empty["mean_accuracy"] == pytest.approx(1 / 17)
