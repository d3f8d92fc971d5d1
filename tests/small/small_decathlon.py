"""A decathlon of a few drawn pictures, in the layouts of the official release; loads no torch."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from decathlon.release.annotations import annotation_file
from decathlon.tasks import SPLITS, find_task

PICTURES = (8, 4, 5)
CLASSES = 4
SIDES = ((72, 72), (90, 72), (72, 144))


def draw_picture(task: str, number: int) -> np.ndarray:
    """Its own pixels for every picture, wide, square and tall in turn."""
    width, height = SIDES[number % len(SIDES)]
    generator = np.random.default_rng([find_task(task).number, number])
    small = Image.fromarray(generator.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BILINEAR))


def encode(pixels: np.ndarray, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return buffer.getvalue()


def build_task(task: str) -> tuple[dict[str, Any], dict[str, bytes], dict[str, Any]]:
    """Annotation documents by file name, pictures by ``<task>/...`` name, and the document with the test labels.

    The class folder of category c (from 1) is CLASSES + 1 - c: taking folders for labels is wrong throughout.
    """
    number, running = find_task(task).number * 10**7, 0
    categories = [{"id": number + c, "name": f"{task} {c}", "supercategory": task} for c in range(1, CLASSES + 1)]
    documents: dict[str, Any] = {}
    pictures: dict[str, bytes] = {}
    for place, split in enumerate(SPLITS):
        images, annotations = [], []
        for _ in range(PICTURES[place]):
            running += 1
            category = (running * 7) % CLASSES + 1
            folder = "" if split == "test" else f"{CLASSES + 1 - category:04}/"
            name = f"{task}/{split}/{folder}{running:06}.jpg"
            pixels = draw_picture(task, running)
            image_id = number + place * 10**5 + running
            sides = {"width": pixels.shape[1], "height": pixels.shape[0]}
            images.append({"id": image_id, **sides, "file_name": f"data/{name}"})
            annotations.append({"id": image_id, "image_id": image_id, "category_id": number + category})
            pictures[name] = encode(pixels)
        document = {"info": {}, "images": images, "categories": categories[::-1], "licenses": []}
        labelled = document | {"annotations": annotations[::-1]}  # pictures and annotations need not be in one order
        documents[annotation_file(task, split)] = document if split == "test" else labelled
    return documents, pictures, labelled


def write_tar(path: Path, files: dict[str, bytes], *, mode: str = "w") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


class Tiny:
    """Writes tasks below `folder`, in the layout asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, *tasks: str, layout: str = "tar", edit: Callable[[dict[str, Any]], None] | None = None) -> Path:
        """Layouts: tar (data/<task>.tar), tree (data/<task>/...), loose (decathlon-1.0-data/<task>/...)."""
        for task in tasks:
            documents, pictures, _ = build_task(task)
            if edit is not None:
                edit(documents)
            for name, document in documents.items():
                path = self.folder / "annotations" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(document))
            if layout == "tar":
                write_tar(self.folder / "data" / f"{task}.tar", pictures)
                continue
            base = self.folder / {"tree": "data", "loose": "decathlon-1.0-data"}[layout]
            for name, data in pictures.items():
                (base / name).parent.mkdir(parents=True, exist_ok=True)
                (base / name).write_bytes(data)
        return self.folder

    def write_official(self, *tasks: str) -> Path:
        """The devkit, the archive with an inner tar per task, and imagenet12's of its own."""
        annotations: dict[str, bytes] = {}
        inner: dict[str, bytes] = {}
        for task in tasks:
            documents, pictures, _ = build_task(task)
            for name, document in documents.items():
                annotations[f"decathlon-1.0/annotations/{name}"] = json.dumps(document).encode()
            if task == "imagenet12":
                write_tar(self.folder / "decathlon-1.0-data-imagenet.tar", pictures)
                continue
            write_tar(self.folder / "inner.tar", pictures)
            inner[f"{task}.tar"] = (self.folder / "inner.tar").read_bytes()
            (self.folder / "inner.tar").unlink()
        write_tar(self.folder / "decathlon-1.0-devkit.tar.gz", annotations, mode="w:gz")
        write_tar(self.folder / "decathlon-1.0-data.tar.gz", inner, mode="w:gz")
        return self.folder
