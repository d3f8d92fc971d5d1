"""Two results that a store shows, with all their evidence, made by hand; faults are planted in them."""

import hashlib
import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from leaderboard.result import parse_result
from leaderboard.store.candidates import find_place
from piggyback.shell.errors import BadInput
from segmentation.metric.miou import score
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
    except BadInput:
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
