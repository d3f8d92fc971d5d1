"""Faults to plant into a result or its files, each with the kind and the place that `check` must name."""

import hashlib
import io
import json
import os
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from healthy_store import (
    ALERT,
    LABELS,
    SPARE,
    TEST,
    VAL,
    Document,
    Files,
    confusion,
    decathlon,
    matrix,
    npz,
    png,
    put,
    seal,
    segmentation,
)


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
