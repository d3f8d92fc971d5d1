"""A small release of drawn pictures with all that the official one has: annotations, inner tars, test labels.

<folder>/annotations/<task>_train.json, _val.json, _test_stripped.json (without labels)
<folder>/data/<task>.tar                one JPEG a picture, <task>/<split>/[<class folder>/]<number>.jpg
<folder>/labels_test/<task>_test.json   the labels, for scoring
<folder>/drawn.json                     written last
"""

import io
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from decathlon.drawn.pictures import DRAWN, draw_picture
from decathlon.options import DrawOptions
from decathlon.release.annotations import annotation_file
from decathlon.tasks import BACKBONE_TASK, SPLITS, Split, find_task
from piggyback.data.drawn_release import encode_jpeg, was_drawn
from piggyback.shell.console import out, progress_bar
from piggyback.shell.files import atomic_file, write_json

VERSION: Final = 1  # of the drawings: another one does not continue a folder


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """Pictures in train, val and test, of the backbone's task and of each of the others."""

    backbone: tuple[int, int, int] = (2400, 200, 200)
    task: tuple[int, int, int] = (320, 80, 160)

    def of(self, task: str) -> tuple[int, int, int]:
        return self.backbone if task == BACKBONE_TASK else self.task


@dataclass(frozen=True, kw_only=True)
class DrawnPicture:
    """One picture, as the annotations describe it and as it is drawn.

    Attributes:
        number: counts from 1 through train, val and test of the task.
        place: its class, from 0.
        file_name: as in the annotations, ``data/<task>/...``.
    """

    split: Split
    number: int
    place: int
    file_name: str


def write_release(
    folder: Path, *, tasks: Sequence[str] = tuple(DRAWN), amounts: Amounts | None = None, seed: int = 0
) -> None:
    """Draw and write a release; one that is there already is kept.

    Args:
        folder: made where it is missing.
        tasks: of the ten.
        amounts: the defaults of `Amounts` for None.
        seed: of all pictures.

    Raises:
        BadInput: another release is there.
    """
    amounts = amounts or Amounts()
    identity = {"version": VERSION, "seed": seed, "tasks": {task: list(amounts.of(task)) for task in tasks}}
    stamp = folder / "drawn.json"
    if was_drawn(stamp, identity=identity):
        return
    with progress_bar() as bar:
        shown = bar.add_task("drawing", total=sum(sum(amounts.of(task)) for task in tasks))
        for task in tasks:
            pictures = plan_pictures(task, amounts=amounts.of(task), seed=seed)
            write_annotations(folder, task, pictures)
            for _ in write_pictures(folder / "data" / f"{task}.tar", task, pictures, seed=seed):
                bar.advance(shown)
    write_json(stamp, identity)


def plan_pictures(task: str, *, amounts: tuple[int, int, int], seed: int) -> list[DrawnPicture]:
    """Every picture of a task; a split has all classes equally often, give or take one, in no order.

    Class folders are numbered in the alphabetical order of the classes' names, which is not the order of the
    categories: as in the official release, a folder's number is not the label.
    """
    names = DRAWN[task].classes
    folders = {place: rank for rank, place in enumerate(sorted(range(len(names)), key=names.__getitem__), start=1)}
    random = np.random.default_rng([seed, find_task(task).number])
    pictures: list[DrawnPicture] = []
    for split, amount in zip(SPLITS, amounts, strict=True):
        for place in random.permutation(np.arange(amount) % len(names)).tolist():
            number = len(pictures) + 1
            below = "" if split == "test" else f"{folders[place]:04}/"
            file_name = f"data/{task}/{split}/{below}{number:06}.jpg"
            pictures.append(DrawnPicture(split=split, number=number, place=place, file_name=file_name))
    return pictures


def write_annotations(folder: Path, task: str, pictures: Sequence[DrawnPicture]) -> None:
    """Write the three annotation files, test without its labels, and those labels apart."""
    for split in SPLITS:
        document = describe(task, [picture for picture in pictures if picture.split == split])
        if split == "test":
            write_json(folder / "labels_test" / f"{task}_test.json", document)
            document = {key: value for key, value in document.items() if key != "annotations"}
        write_json(folder / "annotations" / annotation_file(task, split), document)


def describe(task: str, pictures: Sequence[DrawnPicture]) -> Mapping[str, Any]:
    """Pictures of one split in COCO's form, with the release's ids."""
    drawn, first = DRAWN[task], find_task(task).number * 10**7
    images, annotations = [], []
    for picture in pictures:
        image_id = first + SPLITS.index(picture.split) * 10**5 + picture.number
        images.append(
            {"id": image_id, "width": drawn.width, "height": drawn.height, "file_name": picture.file_name, "license": 1}
        )
        annotations.append(
            {"id": image_id, "image_id": image_id, "category_id": first + picture.place + 1, "segmentation": []}
        )
    categories = [
        {"id": first + place, "name": name, "supercategory": task} for place, name in enumerate(drawn.classes, start=1)
    ]
    return {
        "info": {"description": "drawn pictures for a demo, not the Visual Decathlon"},
        "licenses": [],
        "categories": categories,
        "images": images,
        "annotations": annotations,
    }


def write_pictures(path: Path, task: str, pictures: Sequence[DrawnPicture], *, seed: int) -> Iterator[DrawnPicture]:
    """Draw pictures into a tar; yields each that is in it."""
    with atomic_file(path) as file, tarfile.open(fileobj=file, mode="w") as tar:
        for picture in pictures:
            pixels = draw_picture(task, picture.place, number=picture.number, seed=seed)
            data = encode_jpeg(pixels)
            member = tarfile.TarInfo(picture.file_name.removeprefix("data/"))
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
            yield picture


def run(options: DrawOptions) -> int:
    write_release(options.out, amounts=Amounts())
    out.print(f"ten drawn tasks in {options.out}", markup=False, soft_wrap=True)
    return 0
