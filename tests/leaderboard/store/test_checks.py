"""A store with planted faults: each is named by `check`, by kind and place, and none is shown."""

import json
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from healthy_store import CATEGORIES, LABELS, TEST, decathlon, healthy, put, seal, segmentation
from planted_faults import PLANTED, Planted

from decathlon.board import BOARD
from leaderboard.store.confusion import score_confusion
from leaderboard.store.reading import read_store
from leaderboard.store.truth import read_labels
from leaderboard.verbs.options import CheckOptions
from leaderboard.verbs.storing import run_check
from piggyback.shell.errors import ResultError
from segmentation.metric.miou import score


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.name)
def test_a_planted_fault_is_named_and_not_shown(planted: Planted, tmp_path: Path) -> None:
    store = tmp_path / "store"
    good = healthy(store)
    place = planted.plant(store)
    results, findings = read_store(store)
    assert {one.place for one in results} == good
    assert " ".join(sorted({one.kind for one in findings})) == planted.kinds
    where = {one.place for one in findings}
    assert all(one.startswith(place) for one in where)
    if planted.at != "*":
        assert where == {f"{place}/{planted.at}" if planted.at else place}
    for one in findings:
        assert one.message.isprintable()
        assert one.place.isprintable()


def test_all_faults_in_one_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "store"
    good = healthy(store)
    planted: dict[str, str] = {}
    for number, fault in enumerate(PLANTED):
        record, files = fault.kind()
        made = (record | {"parameter_ratio": 1 + number / 1024}, files)  # each lies in a place of its own
        planted[replace(fault, kind=lambda made=made: made).plant(store)] = fault.kinds
    results, findings = read_store(store)
    assert {one.place for one in results} == good
    assert len(planted) == len(PLANTED) >= 90
    assert findings == sorted(findings, key=lambda one: (one.place, one.kind, one.message))
    for place, kinds in planted.items():
        assert " ".join(sorted({one.kind for one in findings if one.place.startswith(place)})) == kinds
    assert run_check(CheckOptions(store=store)) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"{store}: 2 results without a finding, {len(findings)} findings"
    assert lines[:-1] == [f"{one.place}: {one.kind}: {one.message}" for one in findings]
    assert run_check(CheckOptions(store=store, json=True)) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["results"], len(told["findings"])) == (2, len(findings))
    assert set(told["findings"][0]) == {"place", "kind", "message"}


def test_what_is_no_result_is_found_on_every_level(tmp_path: Path) -> None:
    store, elsewhere = tmp_path / "store", tmp_path / "elsewhere"
    good = healthy(store)
    elsewhere.mkdir()
    (store / "README.md").write_text("")
    (store / "=cmd()").mkdir()
    (store / "decathlon" / "x\x1b[2J").mkdir()
    (store / "decathlon" / "dtd" / "..x").mkdir()
    (store / "decathlon" / "dtd" / "notes").write_text("")
    (store / "decathlon" / "svhn").symlink_to(elsewhere)
    (store / "decathlon" / "dtd" / "piggyback" / "seed9-x").mkdir()
    (store / "truth" / "decathlon-svhn-val.json").write_text('{"ids": [1], "labels": [1]}')
    (store / "truth" / "segmentation-pascal-voc-val.json").write_text("{}")
    old = store / ".staged" / "killed"
    old.mkdir(parents=True)
    (store / ".staged" / "under-way").mkdir()
    os.utime(old, (0, 0))
    results, findings = read_store(store)
    assert {one.place for one in results} == good
    assert [(one.place, one.kind) for one in findings] == [
        (".staged/killed", "left-over"),
        ("=cmd()", "bad-name"),
        ("README.md", "unknown-file"),
        ("decathlon/dtd/..x", "bad-name"),
        ("decathlon/dtd/notes", "unknown-file"),
        ("decathlon/dtd/piggyback/seed9-x", "no-result"),
        ("decathlon/svhn", "link"),
        (r"decathlon/x\x1b[2J", "bad-name"),
        ("truth/decathlon-svhn-val.json", "bad-truth"),
        ("truth/segmentation-pascal-voc-val.json", "unknown-file"),
    ]


def test_of_two_that_claim_one_run_neither_is_shown(tmp_path: Path) -> None:
    store = tmp_path / "store"
    good = healthy(store)
    record, files = segmentation()
    seal(record, files)
    first = put(store, record, files)
    again = put(store, record | {"wall_s": 99.5, "device": "another"}, files)  # an attempt with the same numbers
    results, findings = read_store(store)
    assert findings == []
    claimed = min(first, again).relative_to(store).as_posix()
    assert {one.place for one in results} == good | {claimed}
    metrics = record["metrics"] | {"train_loss": 1.25}
    put(store, record | {"metrics": metrics}, files)
    results, findings = read_store(store)
    assert {one.place for one in results} == good
    assert [one.kind for one in findings] == ["duplicate-run"] * 3
    assert len({one.place for one in findings}) == 3


def test_labels_count_test_parts_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, labels = tmp_path / "store", tmp_path / "labels"
    healthy(store)
    (store / "truth" / "decathlon-dtd-test.json").unlink()
    record, files = decathlon()
    record |= {"counts": {"n": 10, "correct": 9}, "metrics": {"accuracy": 0.9, "train_loss": 1.5}}
    seal(record, files)
    place = put(store, record, files).relative_to(store).as_posix()
    document = {
        "images": [{"id": image} for image in TEST],
        "annotations": [{"image_id": image, "category_id": LABELS[image]} for image in TEST],
        "categories": [{"id": category, "name": "x"} for category in CATEGORIES],
    }
    labels.mkdir()
    (labels / "dtd_test.json").write_text(json.dumps(document))
    with zipfile.ZipFile(tmp_path / "labels.zip", "w") as archive:
        archive.write(labels / "dtd_test.json", "labels_test/dtd_test.json")
    assert run_check(CheckOptions(store=store)) == 0
    for source in (labels, tmp_path / "labels.zip"):
        assert run_check(CheckOptions(store=store, labels=source)) == 1
        lines = capsys.readouterr().out.splitlines()
        assert f"{place}/predictions.npz: rescored: has 8 of 10 right when counted again" in lines[-2]
    document["categories"] = document["categories"][:-1]
    (labels / "dtd_test.json").write_text(json.dumps(document))
    with pytest.raises(ResultError, match=r"dtd_test\.json has a label that is not among its categories"):
        read_labels(labels, boards=[BOARD])


def test_predictions_beside_a_record_of_val_are_of_the_test_part(tmp_path: Path) -> None:
    good, (record, files) = healthy(tmp_path / "store"), decathlon()
    record |= {"split": "val", "counts": {"n": 4, "correct": 3}, "metrics": {"accuracy": 0.75, "train_loss": 1.5}}
    seal(record, files)
    place = put(tmp_path / "store", record, files).relative_to(tmp_path / "store").as_posix()
    results, findings = read_store(tmp_path / "store")
    assert findings == []
    assert {one.place for one in results} == good | {place}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", b"{}", "holds no labels"),
        ("mnist_test.json", b"{}", "named after no task"),
        ("dtd_test.json", b"{}", "has no annotations"),
        ("dtd_test.json", b"[", "is not JSON"),
        (
            "dtd_test.json",
            b'{"annotations": [{"image_id": true}], "images": [{"id": 1}]}',
            "a whole number as image_id",
        ),
        ("dtd_test.json", b'{"annotations": [], "images": [], "categories": []}', "at least one picture"),
    ],
)
def test_labels_that_are_none(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ResultError, match=message):
        read_labels(tmp_path, boards=[BOARD])
    with pytest.raises(ResultError, match="is damaged or not a zip of labels"):
        read_labels(tmp_path / name, boards=[BOARD])


def test_the_official_labels_are_known_as_such(shared_data: Path) -> None:
    labels = read_labels(next(shared_data.rglob("labels_test.zip")), boards=[BOARD])
    assert len(labels) == 10
    assert all(truth.official for truth in labels.values())


def test_pixels_are_scored_as_segmentation_does() -> None:
    draw = np.random.default_rng(0)
    for present in (1, 3, 21):
        counts = np.zeros((21, 21), dtype=np.int64)
        counts[:present, :present] = draw.integers(0, 1 << 40, (present, present))
        found, expected = score_confusion(counts.tolist()), score(counts, pictures=1)
        names = ("mean_iou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou")
        for name in names:
            assert found.metrics[name] == pytest.approx(getattr(expected, name), abs=1e-14)
        assert found.metrics["classes"] == present
        assert (found.n, found.correct) == (counts.sum(), np.trace(counts))
