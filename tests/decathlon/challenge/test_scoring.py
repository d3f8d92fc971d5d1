"""Scoring against known answers, and against files made to break it."""

import io
import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from decathlon.challenge.points import BASELINE_ERRORS
from decathlon.challenge.scoring import NOT_OFFICIAL, run, score_file
from decathlon.challenge.submission import write_submission
from decathlon.release import labels as labels_module
from decathlon.release.labels import Labels, parse_labels, read_labels
from decathlon.tasks import TASKS
from piggyback.shell.errors import BadInput, PiggybackError, UnknownName

PICTURES = 8
CLASSES = 3


def label_document(task: str) -> dict[str, Any]:
    """A task of eight pictures and three classes; no picture shows the third."""
    base = TASKS[task].number * 10**7
    ids = [base + 200_100 + number for number in range(PICTURES)]
    return {
        "images": [{"id": image, "width": 72, "height": 72, "file_name": f"{image}.jpg"} for image in ids],
        "annotations": [
            {"id": image, "image_id": image, "category_id": base + 1 + number % 2} for number, image in enumerate(ids)
        ],
        "categories": [{"id": base + 1 + c, "name": f"c{c}", "supercategory": task} for c in range(CLASSES)],
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("labels")
    for task in TASKS:
        (path / f"{task}_test.json").write_text(json.dumps(label_document(task)))
    (path / "README.txt").write_text("passed over")
    return path


@pytest.fixture(scope="module")
def labels(folder: Path) -> Labels:
    return read_labels(folder)


Entries = list[dict[str, Any]]


def perfect(labels: Labels, *tasks: str) -> Entries:
    return [
        {"image_id": image, "category_id": category}
        for task in tasks or labels.tasks
        for image, category in labels.tasks[task].labels.items()
    ]


def written(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value))
    return path


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_points_come_from_counts(tmp_path: Path, labels: Labels) -> None:
    entries = perfect(labels)
    wrong = {"dtd": 3, "omniglot": 1}  # the third class is in no label, so it is wrong everywhere, and allowed
    for task, number in wrong.items():
        for image in list(labels.tasks[task].labels)[:number]:
            entry = next(entry for entry in entries if entry["image_id"] == image)
            entry["category_id"] = TASKS[task].number * 10**7 + 3
    random.Random(0).shuffle(entries)
    report = score_file(written(tmp_path / "r.json", entries), labels=labels)
    for task, found in report.tasks.items():
        error = wrong.get(task, 0) / PICTURES
        assert (found.n, found.correct, found.error) == (PICTURES, PICTURES - wrong.get(task, 0), error)
        assert found.points == pytest.approx(1000 * max(0, 1 - error / (2 * BASELINE_ERRORS[task])) ** 2)
    assert report.tasks["omniglot"].points == pytest.approx(242.342, abs=1e-3)  # by hand: (1 - 0.125 / 0.2462)^2
    assert report.score == pytest.approx(sum(task.points for task in report.tasks.values()))
    assert report.mean_accuracy == pytest.approx(1 - 4 / 80)
    assert report.complete
    assert not report.official


def test_report_keys_and_missing_tasks(
    tmp_path: Path, folder: Path, labels: Labels, capsys: pytest.CaptureFixture[str]
) -> None:
    some = written(tmp_path / "[red].json", perfect(labels, "svhn", "dtd"))
    options: Any = SimpleNamespace(file=some, labels=folder, json=True)
    assert run(options) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report) == {"score", "mean_accuracy", "tasks", "complete", "official", "note"}
    assert (report["score"], report["mean_accuracy"]) == (None, None)
    assert (report["complete"], report["official"]) == (False, False)
    assert list(report["tasks"]) == ["dtd", "svhn"]
    assert report["tasks"]["dtd"] == {"n": 8, "correct": 8, "accuracy": 1.0, "error": 0.0, "points": 1000.0}
    assert NOT_OFFICIAL in report["note"]

    options = SimpleNamespace(file=some, labels=folder, json=False)
    assert run(options) == 0
    shown = capsys.readouterr().out
    assert NOT_OFFICIAL in shown
    assert "no score: there are no entries for aircraft, cifar100" in shown
    options = SimpleNamespace(file=written(tmp_path / "all.json", perfect(labels)), labels=folder, json=False)
    assert run(options) == 0
    assert "sum of points 10000.0 of 10000, mean accuracy 100.00 %" in capsys.readouterr().out


def test_fewer_labels_than_entries(tmp_path: Path, folder: Path, labels: Labels) -> None:
    two = {f"labels_test/{task}_test.json": (folder / f"{task}_test.json").read_bytes() for task in ("dtd", "svhn")}
    two["__MACOSX/._dtd_test.json"] = b"\0"
    few = read_labels(zipped(tmp_path / "few.zip", two))
    assert list(few.tasks) == ["dtd", "svhn"]
    report = score_file(written(tmp_path / "r.json", perfect(labels, "dtd", "svhn")), labels=few)
    assert not report.complete
    assert report.score is None
    with pytest.raises(BadInput, match=r"has entries for gtsrb, vgg-flowers, but .*few\.zip holds no labels"):
        score_file(written(tmp_path / "r.json", perfect(labels, "dtd", "vgg-flowers", "gtsrb")), labels=few)


DTD, SVHN = 40200100, 80200100  # first picture of each
Change = Callable[[Entries], object]


def set_first(key: str, value: object) -> Change:
    return lambda entries: [{**entries[0], key: value}, *entries[1:]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entries: [*entries, entries[0]], rf"entry 17 has image id {DTD}, which an earlier entry has too"),
        (lambda entries: entries[:-2], r"lacks 2 of the 8 pictures of svhn, first 80200106"),
        (
            set_first("image_id", 40000001),
            "entry 1 has the unknown image id 40000001; no picture of the test part of dtd",
        ),
        (set_first("image_id", -1), "unknown image id -1; no picture of any task"),
        (set_first("image_id", 10**4000), r"has the number 10+\.\.\., beyond"),
        (set_first("category_id", 80000001), f"image {DTD} is of dtd, but category 80000001 is one of svhn"),
        (set_first("category_id", 40000004), "category 40000004 is one that is not in the labels"),
        (set_first("category_id", 0), "category 0 is one that is not in the labels"),
        (set_first("category_id", True), "category_id must be a whole number, not the boolean True"),
        (set_first("category_id", 40000001.0), r"not the fraction 40000001\.0"),
        (set_first("category_id", "40000001"), "not the string '40000001'"),
        (set_first("category_id", None), "not the null None"),
        (set_first("image_id", [DTD]), rf"not the list \[{DTD}\]"),
        (set_first("score", 1), "entry 1 must be an object with exactly image_id and category_id"),
        (lambda entries: [{"image_id": DTD}, *entries], r"not one with the keys \['image_id'\]"),
        (lambda entries: [[DTD, 1], *entries], "not a JSON list"),
        (lambda _: [], "an empty list"),
        (lambda entries: {"results": entries}, "it is a JSON object"),
        (lambda _: None, "it is a JSON null"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path: Path, labels: Labels, change: Change, message: str) -> None:
    entries = perfect(labels, "dtd", "svhn")
    with pytest.raises(BadInput, match=message) as caught:
        score_file(written(tmp_path / "r.json", change(entries)), labels=labels)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'[{"image_id": 40200100, "category_id": 1e999}]', "has the number 1e999"),
        (b'[{"image_id": 40200100, "category_id": NaN}]', "has the number NaN"),
        (
            b'[{"image_id": 40200100, "category_id": ' + b"1" * 5000 + b"}]",
            r"has the number 1+\.\.\., beyond",
        ),
        (b'[{"image_id": 1, "image_id": 2, "category_id": 3}]', "the key 'image_id' twice"),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b'[{"image_id": ' + b"[" * 900 + b"]" * 900 + b', "category_id": 3}]', "not the list"),
        (b"[" + b"0," * 4_000_000 + b"0]", "more than 4,000,000 values"),
        (b'[{"image_id": 40200100,', "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        (b"", "is not JSON"),
        (b" " * ((64 << 20) + 1), "at most 67,108,864 are read"),
    ],
)
def test_adversarial_text(tmp_path: Path, labels: Labels, text: bytes, message: str) -> None:
    (tmp_path / "r.json").write_bytes(text)
    with pytest.raises(BadInput, match=message):
        score_file(tmp_path / "r.json", labels=labels)


def test_adversarial_zips(tmp_path: Path, labels: Labels, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.zip"
    good = json.dumps(perfect(labels)).encode()

    def refused(message: str) -> None:
        with pytest.raises(BadInput, match=message):
            score_file(path, labels=labels)

    whole = zipped(path, {"results.json": good}).read_bytes()
    assert score_file(path, labels=labels).score == 10000.0
    for keep in (4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:keep])
        refused("is not a zip, or is truncated or damaged")
    for members in ({"result.json": good}, {"a/results.json": good}, {"results.json": good, "b.txt": b""}, {}):
        zipped(path, members)
        refused("must hold exactly one file, results.json, in no folder; it holds")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("results.json", good)
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("results.json", good)
    refused("must hold exactly one file")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo("\0"), good)  # read back as an empty name, on which ZipInfo.is_dir fails
    refused("it holds ''")
    encrypted = bytearray(whole)
    encrypted[6] |= 1
    encrypted[whole.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(encrypted)
    refused("is encrypted")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("results.json", good)
    refused("packed by method 14")

    monkeypatch.setattr(labels_module, "MAX_BYTES", 1 << 20)
    bomb = zipped(path, {"results.json": b" " * (2 << 20)}).read_bytes()
    assert len(bomb) < 1 << 12
    refused("unpacks to more than 1 MiB")
    # the same bomb with a lie about its size in the directory
    place = bomb.rindex(b"PK\x01\x02") + 24
    path.write_bytes(bomb[:place] + (100).to_bytes(4, "little") + bomb[place + 4 :])
    refused("is damaged")


def test_flipped_bytes_never_escape(tmp_path: Path, labels: Labels) -> None:
    # Every fault must come out as our error; a flip in a name or date may as well be harmless.
    whole = zipped(tmp_path / "r.zip", {"results.json": json.dumps(perfect(labels)).encode()}).read_bytes()
    chance = random.Random(0)
    refused = 0
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            edge = chance.random() < 0.5  # the directory is where zipfile believes most
            place = chance.randrange(len(whole) - 90, len(whole)) if edge else chance.randrange(len(whole))
            damaged[place] = chance.randrange(256)
        (tmp_path / "r.zip").write_bytes(damaged)
        try:
            assert score_file(tmp_path / "r.zip", labels=labels).score == 10000.0
        except PiggybackError:
            refused += 1
    assert refused > 200


def test_no_file(tmp_path: Path, labels: Labels) -> None:
    with pytest.raises(BadInput, match="No such file"):
        score_file(tmp_path / "missing.json", labels=labels)
    with pytest.raises(BadInput, match="is a folder, where a file must be"):
        score_file(tmp_path, labels=labels)
    with pytest.raises(BadInput, match="is a pipe or a device"):
        score_file(Path("/dev/zero"), labels=labels)


def change_first(key: str, **values: object) -> Callable[[dict[str, Any]], object]:
    return lambda document: document[key][0].update(values)


def move_first(document: dict[str, Any]) -> None:
    """Let the first picture have an id of another task, everywhere."""
    document["images"][0]["id"] = document["annotations"][0]["image_id"] = 80200100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda document: document.pop("annotations"), "it is a stripped file"),
        (lambda document: document.pop("images"), "not an annotation file"),
        (lambda document: document.pop("categories"), "categories must be a list"),
        (lambda document: document["annotations"].pop(), "one annotation for each of its 8 images; it has 7"),
        (lambda document: document["images"].append(document["images"][0]), "one annotation for each"),
        (lambda document: document["annotations"].append(document["annotations"][0]), "two annotations of picture"),
        (lambda document: document.update(images=[], annotations=[]), "has no pictures"),
        (change_first("annotations", category_id=40000009), "which it does not define"),
        (change_first("annotations", category_id=True), "category_id must be a positive whole number"),
        (lambda document: document["images"][0].update(id=80200100), "one annotation for each"),
        (move_first, "has picture 80200100, which is not an id of dtd"),
        (change_first("categories", id=80000001), "has category 80000001, which is not an id of dtd"),
        (change_first("categories", id=40000002), "category 40000002 twice"),
        (change_first("categories", name=7), "without a name"),
        (lambda document: document["images"].__setitem__(0, 3), "images must be a list of objects"),
    ],
)
def test_wrong_labels_are_refused(change: Callable[[dict[str, Any]], object], message: str) -> None:
    document = label_document("dtd")
    change(document)
    with pytest.raises(BadInput, match=message):
        parse_labels(json.dumps(document).encode(), task=TASKS["dtd"], name="dtd_test.json")


def test_wrong_sources_of_labels(tmp_path: Path, folder: Path) -> None:
    dtd = (folder / "dtd_test.json").read_bytes()
    with pytest.raises(BadInput, match="holds no labels: no file there is called <task>_test"):
        read_labels(tmp_path)
    with pytest.raises(UnknownName, match=r"no task is called 'flowers'.*'vgg-flowers'"):
        read_labels(zipped(tmp_path / "x.zip", {"flowers_test.json": dtd}))
    with pytest.raises(BadInput, match=r"dtd_test\.json twice"):
        read_labels(zipped(tmp_path / "x.zip", {"dtd_test.json": dtd, "a/dtd_test.json": dtd}))
    with pytest.raises(BadInput, match="is not a zip, or is truncated"):
        read_labels(folder / "dtd_test.json")
    with pytest.raises(BadInput, match="has category 40000001, which is not an id of svhn"):
        read_labels(zipped(tmp_path / "x.zip", {"svhn_test.json": dtd}))


def test_the_official_labels(tmp_path: Path, shared_data: Path) -> None:
    official = read_labels(shared_data / "official" / "labels_test.zip")
    assert official.official
    assert {task: len(found.labels) for task, found in official.tasks.items()} == {
        task.name: task.pictures[2] for task in TASKS.values()
    }
    packed = write_submission(tmp_path / "results.json", perfect(official))
    for file in (packed, tmp_path / "results.json"):
        report = score_file(file, labels=official)
        assert (report.score, report.mean_accuracy, report.complete, report.official) == (10000.0, 1.0, True, True)
        assert set(report.as_json()) == {"score", "mean_accuracy", "tasks", "complete", "official"}

    # Everything about the set is right but one label: it is not the official one any more.
    with zipfile.ZipFile(shared_data / "official" / "labels_test.zip") as archive:
        document = json.load(io.BytesIO(archive.read("dtd_test.json")))
    assert parse_labels(json.dumps(document).encode(), task=TASKS["dtd"], name="dtd").official
    document["annotations"][5]["category_id"] = 40000047
    assert not parse_labels(json.dumps(document).encode(), task=TASKS["dtd"], name="dtd").official


def test_mini_labels_are_not_official(tmp_path: Path, shared_data: Path) -> None:
    mini = read_labels(shared_data / "mini-decathlon" / "labels_test")
    assert not any(task.official for task in mini.tasks.values())
    report = score_file(write_submission(tmp_path / "results.json", perfect(mini)), labels=mini)
    assert (report.score, report.complete, report.official) == (10000.0, True, False)
    assert report.as_json()["note"] == NOT_OFFICIAL
