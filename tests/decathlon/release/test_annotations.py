import copy
import json
from typing import Any

import numpy as np
import pytest

from decathlon.release.annotations import (
    check_together,
    folder_mismatches,
    is_official,
    parse_annotations,
    read_annotations,
)
from decathlon.tasks import SPLITS
from piggyback.shell.errors import BadInput


def parse(document: Any, split: Any = "train", task: str = "svhn") -> Any:
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    return parse_annotations(data, task=task, split=split, name="x.json")


@pytest.fixture
def document(tiny_pictures: Any) -> Any:
    return tiny_pictures("svhn")[0]["svhn_train.json"]


def test_labels_follow_image_ids_and_category_ids_whatever_the_order(document: Any) -> None:
    found = parse(document)
    category = {entry["image_id"]: entry["category_id"] for entry in document["annotations"]}
    assert found.category_ids[found.labels].tolist() == [category[image["id"]] for image in document["images"]]
    assert found.category_ids.tolist() == [80000001, 80000002, 80000003, 80000004]
    assert found.category_names == ("svhn 1", "svhn 2", "svhn 3", "svhn 4")
    assert found.image_ids.tolist() == [image["id"] for image in document["images"]]
    assert (found.labels.dtype, found.image_ids.dtype) == (np.int32, np.int64)
    assert folder_mismatches(found) == 4
    assert not is_official({"train": found})


def test_test_labels_are_never_looked_at(document: Any) -> None:
    assert (parse(document, split="test").labels == -1).all()


def change(document: Any, part: str, place: int, **fields: Any) -> Any:
    document[part][place].update(fields)
    return document


FAULTS = {
    "duplicate image": (lambda d: change(d, "images", 1, id=80000001), "image id 80000001 is there twice"),
    "another task's image": (lambda d: change(d, "images", 1, id=10000001), "entry 1 is 10000001, but must lie in"),
    "bool id": (lambda d: change(d, "images", 1, id=True), "must be int, not 'True'"),
    "huge id": (lambda d: change(d, "images", 1, id=10**400), "has the number 1000"),
    "float width": (lambda d: change(d, "images", 2, width=72.0), "'width' of entry 2 must be int"),
    "no width": (lambda d: d["images"][2].pop("width") and d, "entry 2 has no 'width'"),
    "huge width": (lambda d: change(d, "images", 2, width=10**6), "must lie in 1 to 4096"),
    "escape": (lambda d: change(d, "images", 0, file_name="data/svhn/../../etc/passwd"), "must be a plain path"),
    "absolute": (lambda d: change(d, "images", 0, file_name="/data/svhn/1.jpg"), "must be a plain path"),
    "same file": (lambda d: change(d, "images", 0, file_name=d["images"][1]["file_name"]), "name the same file"),
    "annotated twice": (lambda d: change(d, "annotations", 0, image_id=80000001), "image 80000001 is there twice"),
    "not annotated": (lambda d: d["annotations"].pop(0) and d, "image 80000008 has no annotation"),
    "unknown image": (lambda d: change(d, "annotations", 0, image_id=80000999), "image 80000999, which"),
    "unknown category": (lambda d: change(d, "annotations", 0, category_id=80000005), "category 80000005, which"),
    "category between": (lambda d: d["categories"].pop(1) and d, "category 80000003, which"),
    "category twice": (lambda d: change(d, "categories", 0, id=80000001), "category id 80000001 is there twice"),
    "no images": (lambda d: {**d, "images": []}, "list 'images' that is not empty"),
    "a list": (lambda d: [d], "must hold one JSON object"),
    "not JSON": (lambda d: b"{", "is not JSON"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_refused_with_their_place(fault: str, document: Any) -> None:
    edit, message = FAULTS[fault]
    parse(document)
    with pytest.raises(BadInput, match=message):
        parse(edit(copy.deepcopy(document)))


def test_splits_must_share_categories_and_no_picture(tiny_pictures: Any) -> None:
    documents = tiny_pictures("svhn")[0]
    train, val = parse(documents["svhn_train.json"]), parse(documents["svhn_val.json"], "val")
    check_together({"train": train, "val": val})
    with pytest.raises(BadInput, match="is there twice"):
        check_together({"train": train, "val": parse(documents["svhn_train.json"], "val")})
    renamed = change(documents["svhn_val.json"], "categories", 0, name="else")
    with pytest.raises(BadInput, match="declare different categories"):
        check_together({"train": train, "val": parse(renamed, "val")})


def test_the_official_aircraft_is_recognised_and_its_near_misses_are_not(shared_data: Any) -> None:
    folder = shared_data / "official" / "annotations"
    names = {"train": "aircraft_train", "val": "aircraft_val", "test": "aircraft_test_stripped"}
    splits = {s: read_annotations(folder / f"{names[s]}.json", task="aircraft", split=s) for s in SPLITS}
    check_together(splits)
    assert is_official(splits)
    assert folder_mismatches(splits["train"]) == 20
    assert not is_official({**splits, "val": splits["train"]})
    train = splits["train"]
    swapped = parse_annotations(
        json.dumps(_renamed(folder / "aircraft_train.json")).encode(), task="aircraft", split="train", name="x"
    )
    assert np.array_equal(swapped.image_ids, train.image_ids)
    assert not is_official({**splits, "train": swapped})


def _renamed(path: Any) -> Any:
    document = json.loads(path.read_text())
    document["categories"][0]["name"] = "707"
    return document
