"""A store with planted faults: each is named by `check`, by kind and place, and none is shown."""

import hashlib
import io
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decathlon.tasks import SPLITS, TASKS
from leaderboard.candidates import find_place
from leaderboard.options import CheckOptions
from leaderboard.rescoring import score_confusion
from leaderboard.result import ResultError, parse_result
from leaderboard.store import read_store
from leaderboard.store_verbs import run_check
from leaderboard.tasks import DECATHLON, VOC_CLASSES
from leaderboard.truth import read_labels
from segmentation.confusion import score
from segmentation.voc import CLASSES

VAL, TEST = range(40100001, 40100011), range(40200001, 40200011)
CATEGORIES = range(40000001, 40000006)
LABELS = {image: CATEGORIES[image % 5] for image in TEST}
WRONG = (40200003, 40200007)  # pictures that the network gets wrong
SPARE = np.array([CATEGORIES[(image + (image in WRONG)) % 5] for image in TEST] + [CATEGORIES[0]])
RATE = 1e-4
ALERT = "'><plaintext>"

Document = dict[str, Any]
Files = dict[str, bytes]


def npz(**changes: Any) -> bytes:
    chosen = [CATEGORIES[(image + (image in WRONG)) % 5] for image in LABELS]
    arrays = {"task": np.array("dtd"), "image_ids": np.array(list(LABELS)), "category_ids": np.array(chosen)}
    buffer = io.BytesIO()
    np.savez(buffer, **(arrays | changes))
    return buffer.getvalue()


def png(width: int = 40, height: int = 30, kind: int = 2) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def matrix() -> list[list[int]]:
    rows = [[0] * 21 for _ in range(21)]
    rows[0][0], rows[0][3], rows[3][3], rows[3][0], rows[5][0] = 900, 30, 50, 15, 5
    return rows


def confusion(rows: object) -> bytes:
    document = {"classes": list(CLASSES), "rows": "truth", "columns": "prediction", "matrix": rows}
    return json.dumps(document).encode()


def both() -> Document:
    return {
        "schema_version": 2,
        "task_version": 1,
        "method": "piggyback",
        "recipe": {"lr": RATE, "seed": 0, "whole": ["gtsrb"], "lr_used": RATE},
        "seed": 0,
        "bits": {"mask": 800, "norm": 0, "weight": 0, "head": 640, "header": 640},
        "parameter_ratio": 1.28125,
        "selected_on": "last epoch",
        "trained_on": "train",
        "origin": "measured",
        "official_data": False,
        "code": {"commit": "a" * 40, "dirty": False},
        "versions": {"torch": "2.15.0", "mask update": "compiled"},
        "device": "Intel Xeon 2.80GHz, 2 threads",
        "wall_s": 12.5,
        "fingerprints": {"data": "d" * 64, "backbone": "b" * 64, "predictions": "0" * 64},
    }


def decathlon() -> tuple[Document, Files]:
    record = both() | {"benchmark": "decathlon", "task": "dtd", "split": "test"}
    record |= {"metrics": {"accuracy": 0.8, "error": 0.2, "train_loss": 1.5, "zeros": 0.25}}
    record |= {"counts": {"n": 10, "correct": 8}}
    layers = [{"name": "conv1", "zeros": 0.5, "weights": 400}, {"name": "conv2", "zeros": 0.0, "weights": 400}]
    lines = ({"epoch": 1, "loss": 2.0, "lr": RATE}, {"epoch": 2, "loss": 1.5, "lr": RATE, "val_accuracy": 0.8})
    return record, {
        "predictions.npz": npz(),
        "metrics.jsonl": "".join(json.dumps(line) + "\n" for line in lines).encode(),
        "sparsity.json": json.dumps({"layers": layers}).encode(),
        "log.txt": "epoch 1\nepoch 2 ✓\n".encode(),
        "recipe.json": json.dumps({"task": "dtd", "method": "piggyback", "recipe": {"lr": RATE, "seed": 0}}).encode(),
    }


def segmentation() -> tuple[Document, Files]:
    found = score(np.array(matrix()), pictures=1)
    names = ("mean_iou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou")
    metrics = {name: getattr(found, name) for name in names} | {"classes": 3.0, "train_loss": 1.5}
    record = both() | {"benchmark": "segmentation", "task": "pascal-voc", "split": "seg11valid", "metrics": metrics}
    record |= {"counts": {"n": 1000, "correct": 950}}
    return record, {"confusion.json": confusion(matrix()), "sheet.png": png()}


def put(store: Path, record: Document | bytes, files: Files) -> Path:
    """A result where it belongs; a record that is none lies where one of dtd might."""
    data = record if isinstance(record, bytes) else json.dumps(record, indent=1).encode()
    try:
        place = find_place(parse_result(data, name="planted"), data)
    except ValueError:
        place = f"decathlon/dtd/piggyback/seed0-{'0' * 12}-{hashlib.sha256(data).hexdigest()[:8]}"
    folder = store / place
    folder.mkdir(parents=True)
    (folder / "result.json").write_bytes(data)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def healthy(store: Path) -> set[str]:
    """A store of two results with all their evidence, and the labels of the test part; gives their places."""
    (store / "truth").mkdir(parents=True)
    truth = {"ids": list(TEST), "labels": [LABELS[image] for image in TEST]}
    (store / "truth" / "decathlon-dtd-test.json").write_text(json.dumps(truth))
    places = set()
    for kind in (decathlon, segmentation):
        record, files = kind()
        record["seed"] = record["recipe"]["seed"] = 7
        files.pop("recipe.json", None)
        seal(record, files)
        places.add(put(store, record, files).relative_to(store).as_posix())
    return places


def seal(record: Document, files: Files) -> None:
    """Name the digest of what was counted."""
    for name in ("predictions.npz", "confusion.json"):
        if name in files:
            record["fingerprints"]["predictions"] = hashlib.sha256(files[name]).hexdigest()


@dataclass(frozen=True)
class Planted:
    """A fault: what is done to a healthy result, and what `check` must say.

    Attributes:
        name: of the test.
        kinds: all that is found, sorted and joined by spaces.
        at: file that the findings are of; empty for the folder.
        record, files: change the record's values, or the evidence's bytes, before the result is put in its place.
        text: is replaced in the record's text.
        after: changes the folder when it is in its place.
        kind: which healthy result.
        sealed: whether the record gets the digest of changed evidence.
    """

    name: str
    kinds: str
    at: str = ""
    record: Callable[[Document], object] = lambda record: None
    files: Callable[[Files], object] = lambda files: None
    text: tuple[str, str] = ("", "")
    after: Callable[[Path], object] = lambda folder: None
    kind: Callable[[], tuple[Document, Files]] = decathlon
    sealed: bool = True

    def plant(self, store: Path) -> str:
        """The place of the result."""
        record, files = self.kind()
        self.files(files)
        if self.sealed:
            seal(record, files)
        self.record(record)
        text = json.dumps(record, indent=1)
        assert self.text[0] in text
        data = text.replace(*self.text, 1).encode("utf-8", "surrogateescape") if self.text[0] else record
        folder = put(store, data, files)
        self.after(folder)
        return folder.relative_to(store).as_posix()


def replaced(name: str, content: bytes) -> Callable[[Files], object]:
    return lambda files: files.update({name: content})


def edited(name: str, old: bytes, new: bytes) -> Callable[[Files], object]:
    def change(files: Files) -> None:
        assert old in files[name]
        files[name] = files[name].replace(old, new, 1)

    return change


def linked(name: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        (folder / name).rename(folder.parents[4] / name)
        (folder / name).symlink_to(folder.parents[4] / name)

    return change


def swapped() -> bytes:
    """Predictions in which two right pictures of val have changed their categories."""
    with np.load(io.BytesIO(npz())) as found:
        chosen = found["category_ids"].copy()
    chosen[[0, 1]] = chosen[[1, 0]]
    return npz(category_ids=chosen)


def bomb() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("task.npy", "image_ids.npy", "category_ids.npy"):
            archive.writestr(name, bytes(3 << 20))
    assert len(buffer.getvalue()) < 20_000
    return buffer.getvalue()


def lying_bomb() -> bytes:
    """The same, and the zip says that its members are small."""
    size = struct.pack("<I", 3 << 20)
    return bomb().replace(size, struct.pack("<I", 100))


def ids(*changes: tuple[int, int]) -> bytes:
    found = np.array(list(LABELS))
    for place, value in changes:
        found[place] = value
    return npz(image_ids=found)


def rows(place: tuple[int, int], value: object) -> bytes:
    found: list[list[Any]] = matrix()
    found[place[0]][place[1]] = value
    return confusion(found)


def sparsity(**changes: object) -> Callable[[Files], object]:
    layer = {"name": "conv1", "zeros": 0.25, "weights": 800} | changes
    return replaced("sparsity.json", json.dumps({"layers": [layer]}).encode())


PUBLISHED = {"origin": "published", "citation": "Rosenfeld & Tsotsos 2018", "table": "8", "seed": None, "recipe": None}
NONE = dict.fromkeys(("counts", "selected_on", "trained_on", "code", "versions", "device", "wall_s", "fingerprints"))

PLANTED = [
    # texts that others would run
    Planted("markup as method", "bad-name unsafe-text", record=lambda r: r.update(method=ALERT), files=dict.clear),
    Planted("formula as method", "bad-name unsafe-text", record=lambda r: r.update(method="=cmd()"), files=dict.clear),
    Planted("path as task", "bad-name unknown-task", record=lambda r: r.update(task="../x"), files=dict.clear),
    Planted("absolute path as method", "bad-name", record=lambda r: r.update(method="/etc/x"), files=dict.clear),
    Planted("two dots as split", "bad-name unknown-split", record=lambda r: r.update(split=".."), files=dict.clear),
    Planted("script end as device", "unsafe-text", record=lambda r: r.update(device="</script><script>x()")),
    Planted("formula as commit", "unsafe-text", record=lambda r: r["code"].update(commit="=cmd()")),
    Planted("formula in a list", "unsafe-text", record=lambda r: r["recipe"].update(whole=["@SUM(A1)"])),
    Planted("markup as a key", "unsafe-text", record=lambda r: r["recipe"].update({"<b>": 1})),
    Planted("escape sequence", "unsafe-text", record=lambda r: r.update(device="\x1b[2Jgone")),
    Planted("text turned round", "unsafe-text", record=lambda r: r.update(note="abc\u202e")),
    Planted("text without end", "unsafe-text", record=lambda r: r.update(note="a" * 5000)),
    Planted("markup as metric", "bad-name", record=lambda r: r["metrics"].update({"x y": 1.0})),
    # JSON that is none, or has two meanings
    Planted("no JSON", "not-json", "result.json", text=("{", "(")),
    Planted("empty", "not-json", "result.json", after=lambda f: (f / "result.json").write_bytes(b"")),
    Planted("NaN", "not-finite", "result.json", text=('"train_loss": 1.5', '"train_loss": NaN')),
    Planted("1e999", "not-finite", "result.json", text=('"wall_s": 12.5', '"wall_s": 1e999')),
    Planted("duplicate key", "duplicate-key", "result.json", text=('"seed": 0', '"seed": 0, "seed": 0')),
    Planted("true as a number", "schema", "result.json", record=lambda r: r.update(wall_s=True)),
    Planted("true as a version", "schema-version", "result.json", record=lambda r: r.update(schema_version=True)),
    Planted("huge number", "huge-number", "result.json", text=('"mask": 800', '"mask": 9007199254740993')),
    Planted("thousands of digits", "huge-number", "result.json", text=('"mask": 800', '"mask": ' + "9" * 5000)),
    Planted("too deep", "too-deep", "result.json", text=('"whole": [', '"whole": ' + "[" * 100_000)),
    Planted("half a character", "schema", "result.json", text=("Intel", "\\ud800")),
    Planted("not UTF-8", "not-text", "result.json", text=("Intel", "\udcff")),
    Planted("version of tomorrow", "schema-version", "result.json", record=lambda r: r.update(schema_version=9)),
    Planted("unknown field", "schema", "result.json", record=lambda r: r.update(rank=1)),
    Planted("too large", "too-large", "result.json", record=lambda r: r.update(recipe={"a": "b" * (2 << 20)})),
    # places and files
    Planted("edited in place", "wrong-place", after=lambda f: (f / "result.json").write_bytes(
        (f / "result.json").read_bytes().replace(b"12.5", b"12.6"))),
    Planted("unknown file", "unknown-file", "index.html", files=replaced("index.html", b"<script>")),
    Planted("hidden file", "unknown-file", ".hidden", files=replaced(".hidden", b"")),
    Planted("linked evidence", "link", "log.txt", after=linked("log.txt")),
    Planted("linked record", "link no-result", "*", after=linked("result.json")),
    Planted("pipe", "not-a-file", "log.txt", after=lambda f: ((f / "log.txt").unlink(), os.mkfifo(f / "log.txt"))),
    Planted("folder as file", "not-a-file", "sheet.png", after=lambda f: (f / "sheet.png").mkdir()),
    Planted("no record", "no-result", after=lambda f: (f / "result.json").unlink()),
    # what the record says
    Planted("unknown benchmark", "unknown-benchmark", record=lambda r: r.update(benchmark="glue"), files=dict.clear),
    Planted("unknown task", "unknown-task", record=lambda r: r.update(task="mnist"), files=dict.clear),
    Planted("unknown split", "unknown-split", record=lambda r: r.update(split="train"), files=dict.clear),
    Planted("foreign metric", "foreign-metric", record=lambda r: r["metrics"].update(mean_iou=0.5)),
    Planted("no accuracy", "missing-metric", record=lambda r: r.update(metrics={"train_loss": 1.5})),
    Planted("wrong sums", "schema", "result.json", record=lambda r: r["metrics"].update(accuracy=0.9)),
    Planted("percent", "schema", "result.json", record=lambda r: r["metrics"].update(accuracy=80.0)),
    Planted("two seeds", "recipe-differs sums", "*", record=lambda r: r["recipe"].update(seed=5)),
    Planted("not official", "foreign-id missing-id not-official", "*", record=lambda r: r.update(official_data=True)),
    Planted("no digest", "bad-fingerprint", record=lambda r: r["fingerprints"].update(data="../x")),
    Planted("link that runs", "schema", "result.json", record=lambda r: r.update(link="javascript:alert(1)")),
    Planted(
        "published without a source",
        "schema",
        "result.json",
        record=lambda r: r.update(PUBLISHED | NONE | {"citation": None}),
        files=dict.clear,
    ),
    Planted(
        "published with markup",
        "unsafe-text",
        record=lambda r: r.update(PUBLISHED | NONE | {"citation": "<img src=x>"}),
        files=dict.clear,
    ),
    # predictions
    Planted("swapped category", "rescored", "predictions.npz", files=replaced("predictions.npz", swapped())),
    Planted("swapped, not sealed", "fingerprint rescored", "predictions.npz",
            files=replaced("predictions.npz", swapped()), sealed=False),
    Planted("counts by hand", "rescored", "predictions.npz",
            record=lambda r: r.update(counts={"n": 10, "correct": 9}, metrics={"accuracy": 0.9, "train_loss": 1.5})),
    Planted("picture twice", "duplicate-id missing-id", "predictions.npz",
            files=replaced("predictions.npz", ids((0, TEST[1])))),
    Planted("picture missing", "foreign-id missing-id", "predictions.npz",
            files=replaced("predictions.npz", ids((0, 40200099)))),
    Planted("picture too much", "foreign-id", "predictions.npz",
            files=replaced("predictions.npz", npz(image_ids=np.array([*TEST, VAL[0]]), category_ids=SPARE))),
    Planted("foreign category", "foreign-category", "predictions.npz",
            files=replaced("predictions.npz", npz(category_ids=np.array([50000001] * 10)))),
    Planted("other task's", "foreign-predictions", "predictions.npz",
            files=replaced("predictions.npz", npz(task=np.array("svhn")))),
    Planted("pickled", "bad-predictions", "predictions.npz",
            files=replaced("predictions.npz", npz(task=np.array([{}], dtype=object)))),
    Planted("float ids", "bad-predictions", "predictions.npz",
            files=replaced("predictions.npz", npz(image_ids=np.array([1.0] * 10)))),
    Planted("unequal lengths", "bad-predictions", "predictions.npz",
            files=replaced("predictions.npz", npz(category_ids=np.array([40000001])))),
    Planted("zip bomb", "zip-bomb", "predictions.npz", files=replaced("predictions.npz", bomb())),
    Planted("zip bomb that lies", "bad-predictions", "predictions.npz",
            files=replaced("predictions.npz", lying_bomb())),
    Planted("no zip", "bad-predictions", "predictions.npz", files=replaced("predictions.npz", b"PK\5\6" + bytes(18))),
    Planted("predictions of pixels", "foreign-file", "predictions.npz", kind=segmentation, sealed=False,
            record=lambda r: r["fingerprints"].update(predictions=hashlib.sha256(confusion(matrix())).hexdigest()),
            files=replaced("predictions.npz", npz())),
    # confusion matrices
    Planted("pixels moved", "rescored", "confusion.json", kind=segmentation,
            files=replaced("confusion.json", rows((5, 0), 6))),
    Planted("mean by hand", "rescored", "confusion.json", kind=segmentation,
            record=lambda r: r["metrics"].update(mean_iou=0.75)),
    Planted("pixel accuracy by hand", "rescored sums", "*", kind=segmentation,
            record=lambda r: r["metrics"].update(pixel_accuracy=0.99)),
    Planted("no mean", "missing-metric", kind=segmentation, record=lambda r: r["metrics"].pop("mean_iou")),
    Planted("accuracy of pixels", "foreign-metric", kind=segmentation,
            record=lambda r: r["metrics"].update(accuracy=0.95)),
    Planted("true as a count", "bad-confusion", "confusion.json", kind=segmentation,
            files=replaced("confusion.json", rows((1, 1), True))),
    Planted("null as a count", "bad-confusion", "confusion.json", kind=segmentation,
            files=replaced("confusion.json", rows((1, 1), None))),
    Planted("negative count", "bad-confusion", "confusion.json", kind=segmentation,
            files=replaced("confusion.json", rows((1, 1), -1))),
    Planted("twenty classes", "bad-confusion", "confusion.json", kind=segmentation,
            files=replaced("confusion.json", confusion(matrix()[:20]))),
    Planted("matrix turned", "bad-confusion", "confusion.json", kind=segmentation,
            files=edited("confusion.json", b'"rows": "truth"', b'"rows": "prediction"')),
    Planted("no pixels", "bad-confusion", "confusion.json", kind=segmentation,
            files=replaced("confusion.json", confusion([[0] * 21] * 21))),
    # the other evidence
    Planted("text in a curve", "bad-metrics", "metrics.jsonl", files=edited("metrics.jsonl", b"2.0", b'"</script>"')),
    Planted("true in a curve", "bad-metrics", "metrics.jsonl", files=edited("metrics.jsonl", b"2.0", b"true")),
    Planted("NaN in a curve", "not-finite", "metrics.jsonl", files=edited("metrics.jsonl", b"2.0", b"NaN")),
    Planted("epoch twice", "bad-metrics", "metrics.jsonl", files=edited("metrics.jsonl", b'"epoch": 2', b'"epoch": 1')),
    Planted("two on a line", "bad-metrics", "metrics.jsonl", files=edited("metrics.jsonl", b"}\n{", b"},{")),
    Planted("lines that fit together", "bad-metrics", "metrics.jsonl",
            files=replaced("metrics.jsonl", b'{"epoch":1},{"epoch":2\n"loss":1.5}\n')),
    Planted("other loss", "sums", "metrics.jsonl", files=edited("metrics.jsonl", b"1.5", b"1.25")),
    Planted("zeros beyond one", "bad-sparsity", "sparsity.json", files=sparsity(zeros=1.5)),
    Planted("layer with markup", "bad-sparsity", "sparsity.json", files=sparsity(name=ALERT)),
    Planted("no weights", "bad-sparsity", "sparsity.json", files=sparsity(weights=0)),
    Planted("other zeros", "sums", "sparsity.json", files=sparsity(zeros=0.5)),
    Planted("masks too large", "sums", "sparsity.json", record=lambda r: r["bits"].update(mask=808)),
    Planted("log that clears", "bad-log", "log.txt", files=replaced("log.txt", b"\x1b[2J")),
    Planted("log in bytes", "bad-log", "log.txt", files=replaced("log.txt", b"\xff")),
    Planted("log too large", "too-large", "log.txt", files=replaced("log.txt", b"x" * (64 << 10) + b"\n")),
    Planted("page as picture", "bad-png", "sheet.png", kind=segmentation,
            files=replaced("sheet.png", b"<svg onload='alert(1)'/>" * 9)),
    Planted("picture without end", "bad-png", "sheet.png", kind=segmentation,
            files=replaced("sheet.png", png(width=1 << 30))),
    Planted("picture of no kind", "bad-png", "sheet.png", kind=segmentation, files=replaced("sheet.png", png(kind=5))),
    Planted("other recipe", "recipe-differs", "recipe.json", files=edited("recipe.json", b"0.0001", b"0.1")),
    Planted("no recipe", "bad-recipe", "recipe.json", files=replaced("recipe.json", b"[]")),
]  # fmt: skip


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
        read_labels(labels)


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
        read_labels(tmp_path)
    with pytest.raises(ResultError, match="is no zip of labels"):
        read_labels(tmp_path / name)


def test_the_official_labels_are_known_as_such(shared_data: Path) -> None:
    labels = read_labels(next(shared_data.rglob("labels_test.zip")))
    assert len(labels) == 10
    assert all(truth.official for truth in labels.values())


def test_the_tables_are_the_benchmarks() -> None:
    assert VOC_CLASSES == CLASSES
    assert list(DECATHLON) == list(TASKS)
    for name, task in TASKS.items():
        ours = DECATHLON[name]
        assert (ours.number, ours.classes, ours.pictures) == (task.number, task.classes, task.pictures)
        assert ours.ids == task.category_ids
        assert [ours.official_ids(split)[0] for split in SPLITS] == [task.first_image_id(split) for split in SPLITS]


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
