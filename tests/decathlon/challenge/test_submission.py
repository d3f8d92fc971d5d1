"""Predictions as files, completeness, and the submission's bytes."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from decathlon.challenge.submission import Predictions, check_complete, submission_entries, write_submission
from decathlon.tasks import TASKS
from piggyback.shell.errors import BadInput, UnknownName


def some(task: str, ids: list[int] | None = None, categories: list[int] | None = None) -> Predictions:
    base = TASKS[task].number * 10**7
    ids = [3, 1, 2] if ids is None else ids
    categories = [1] * len(ids) if categories is None else categories
    return Predictions(
        task=task,
        image_ids=np.array(ids, dtype=np.int64) + base,
        category_ids=np.array(categories, dtype=np.int64) + base,
    )


def test_predictions_are_read_back(tmp_path: Path) -> None:
    given = some("vgg-flowers", [7, 5], [2, 102])
    given.save(tmp_path / "a.npz")
    given.save(tmp_path / "b.npz")
    read = Predictions.load(tmp_path / "a.npz")
    assert read.task == "vgg-flowers"
    assert read.image_ids.tolist() == [100000007, 100000005]
    assert read.category_ids.tolist() == [100000002, 100000102]
    assert read.image_ids.dtype == np.int64
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_predictions_are_validated() -> None:
    ids = np.array([10000001], dtype=np.int64)
    with pytest.raises(UnknownName, match="aircrafts"):
        Predictions(task="aircrafts", image_ids=ids, category_ids=ids)
    with pytest.raises(BadInput, match="int64"):
        Predictions(task="aircraft", image_ids=ids.astype(np.int32), category_ids=ids)
    with pytest.raises(BadInput, match="int64"):
        Predictions(task="aircraft", image_ids=ids[None], category_ids=ids)
    with pytest.raises(BadInput, match="category_ids has 20000001, which is not an id"):
        Predictions(task="aircraft", image_ids=ids, category_ids=ids + 10**7)
    with pytest.raises(BadInput, match="1 images and 0 categories"):
        Predictions(task="aircraft", image_ids=ids, category_ids=ids[:0])
    with pytest.raises(BadInput, match="image id 10000004 twice"):
        some("aircraft", [4, 3, 4])


def test_damaged_predictions_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    with pytest.raises(BadInput, match="No such file"):
        Predictions.load(path)
    some("dtd").save(path)
    whole = path.read_bytes()
    for keep in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:keep])
        with pytest.raises(BadInput, match="damaged"):
            Predictions.load(path)
    path.write_bytes(whole.replace(np.int64(40000003).tobytes(), np.int64(40000009).tobytes()))
    with pytest.raises(BadInput, match="damaged"):  # the zip's checksum sees a changed id
        Predictions.load(path)
    np.savez(path, task=np.array("dtd"), image_ids=np.array([object()], dtype=object), category_ids=np.zeros(1))
    with pytest.raises(BadInput, match=r"image_ids must be int64 \[n\], not '\|O'"):  # would have to be unpickled
        Predictions.load(path)
    np.savez(path, image_ids=np.zeros(1))
    with pytest.raises(BadInput, match="must be a zip of the arrays task, image_ids, category_ids"):
        Predictions.load(path)
    np.savez(path, task=np.array("dtd"), image_ids=np.zeros(1), category_ids=np.zeros(1))
    with pytest.raises(BadInput, match=r"p\.npz image_ids must be int64 \[n\], not '<f8'"):
        Predictions.load(path)


def test_completeness() -> None:
    everything = {task: some(task) for task in TASKS}
    expected = {task: given.image_ids for task, given in everything.items()}
    assert check_complete(everything, expected) is None
    assert check_complete(everything, expected, partial=True) is None

    without = {task: given for task, given in everything.items() if task not in ("dtd", "svhn")}
    without["gtsrb"] = some("gtsrb", [1, 3])
    missing = "no predictions for dtd; no predictions for svhn; gtsrb lacks 1 of 3 pictures, first 50000002"
    with pytest.raises(BadInput, match=missing):
        check_complete(without, expected)
    assert check_complete(without, expected, partial=True) == f"partial submission: {missing}"

    # a data folder with nine tasks does not make nine tasks complete
    nine = {task: ids for task, ids in expected.items() if task != "dtd"}
    with pytest.raises(BadInput, match="no predictions for dtd"):
        check_complete({task: given for task, given in everything.items() if task != "dtd"}, nine)

    for partial in (True, False):
        with pytest.raises(BadInput, match="gtsrb have 1 unknown image ids, first 50000009"):
            check_complete(everything | {"gtsrb": some("gtsrb", [1, 2, 3, 9])}, expected, partial=partial)
        with pytest.raises(BadInput, match="dtd, but the data has no test part"):
            check_complete(everything, nine, partial=partial)
        with pytest.raises(BadInput, match="for dtd are those for svhn"):
            check_complete(everything | {"dtd": some("svhn")}, expected, partial=partial)


def test_the_submission_is_one_flat_sorted_list_in_a_zip(tmp_path: Path) -> None:
    entries = submission_entries({"vgg-flowers": some("vgg-flowers", [2]), "aircraft": some("aircraft", [3, 1])})
    packed = write_submission(tmp_path / "out" / "mine.json", entries)
    text = (tmp_path / "out" / "mine.json").read_bytes()
    assert text == (
        b'[{"image_id":10000001,"category_id":10000001},{"image_id":10000003,"category_id":10000001},'
        b'{"image_id":100000002,"category_id":100000001}]'
    )
    assert all(type(value) is int for entry in json.loads(text) for value in entry.values())
    assert packed == tmp_path / "out" / "mine.zip"
    with zipfile.ZipFile(packed) as archive:
        assert archive.namelist() == ["results.json"]
        assert archive.read("results.json") == text
        assert archive.infolist()[0].date_time == (1980, 1, 1, 0, 0, 0)
    assert sorted(file.name for file in packed.parent.iterdir()) == ["mine.json", "mine.zip"]
    assert write_submission(tmp_path / "again.json", entries).read_bytes() == packed.read_bytes()


def test_senseless_submissions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no predictions"):
        submission_entries({})
    for out in (tmp_path, tmp_path / "results.zip", tmp_path / "results"):
        with pytest.raises(BadInput, match=r"written to a \.json file"):
            write_submission(out, [])
