import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from piggyback.shell.errors import BadInput, UnknownName
from segmentation.release.packed import INDEX, PackedSplit, open_split, refuse_overlap
from segmentation.release.prepare import prepare
from segmentation.release.splits import find_split, published_ids


def published(name: str) -> PackedSplit:
    """A split of the published ids, with no pixels behind them."""
    split = find_split(name)
    ids = published_ids(split)
    return PackedSplit(
        name=name,
        ids=ids,
        index=np.zeros(len(ids), dtype=INDEX),
        pixels=np.zeros(0, np.uint8),
        labels=None,
        official=True,
        published=split.count,
        fingerprint="",
    )


def test_545_pictures_of_vocs_val_were_trained_on(capsys: Any) -> None:
    train, val = published("sbd_train"), published("voc2012_val")
    with pytest.raises(
        BadInput, match=r"545 of the 1,449 pictures of voc2012_val are in sbd_train \(2008_\d+, "
    ) as told:
        refuse_overlap(train, val, allow=False)
    assert "\n" not in str(told.value)
    assert "another split, such as seg11valid or voc2012_val_minus_sbd, or" in str(told.value)
    assert capsys.readouterr().err == ""
    with pytest.raises(BadInput, match=r"Evaluate on another split or allow"):  # those two would not do either
        refuse_overlap(published("seg11valid"), val, allow=False)
    assert refuse_overlap(train, val, allow=True) == 545
    assert "545 of the 1,449" in capsys.readouterr().err
    for clean in ("seg11valid", "voc2012_val_minus_sbd"):
        assert refuse_overlap(train, published(clean), allow=False) == 0
    assert refuse_overlap(published("train_aug"), val, allow=False) == 0


def test_a_split_says_how_much_of_the_published_one_it_is() -> None:
    whole = published("seg11valid")
    assert whole.completeness == "736"
    assert replace(whole, ids=whole.ids[:100]).completeness == "100 of 736"
    assert replace(whole, name="drawn", ids=whole.ids[:100]).completeness == "100 of 736"


def test_pictures_and_label_maps_are_views_that_cannot_be_written(tiny: Any, tmp_path: Path, pixels_of: Any) -> None:
    prepare(tiny.write(), tmp_path / "out", splits=["seg11valid"])
    split = open_split(tmp_path / "out", "seg11valid")
    assert len(split) == 4
    assert split.labelled
    assert split.heights.dtype == split.widths.dtype == np.int64
    assert list(zip(split.heights.tolist(), split.widths.tolist(), strict=True)) == [tiny.size_of(i) for i in split.ids]
    for place, one in [*enumerate(split.ids), (-1, split.ids[-1])]:
        picture, labels = split.picture(place), split.label_map(place)
        assert picture.dtype == labels.dtype == np.uint8
        assert np.array_equal(picture, pixels_of(one))
        assert np.array_equal(labels, tiny.draw_labels(one, void=True))
        assert not picture.flags.writeable
        assert not labels.flags.writeable
        assert np.shares_memory(picture, split.pixels)
    with pytest.raises(IndexError):
        split.picture(4)
    with pytest.raises(BadInput, match="seg11valid has no label maps"):
        replace(split, labels=None).label_map(0)


def test_what_is_not_packed_says_the_command_that_packs_it(tmp_path: Path) -> None:
    root = tmp_path / "my data\nof voc"
    with pytest.raises(BadInput, match=r"piggyback segmentation prepare .*--splits sbd_val`") as told:
        open_split(root, "sbd_val")
    assert "\n" not in str(told.value)
    with pytest.raises(UnknownName, match="seg11valid"):
        open_split(root, "seg11vlid")


def change(**fields: object) -> Callable[[Path], object]:
    return lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_damaged_files_are_named(tiny: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(tiny.write(), out, splits=["seg11valid"])
    folder = out / "seg11valid"
    for name, spoil, message in [
        ("labels.u8", lambda path: os.truncate(path, 10), r"labels\.u8 has 10 bytes, not the \d+ of its index"),
        ("pictures.u8", lambda path: path.unlink(), r"cannot read .*pictures\.u8"),
        ("index.npy", lambda path: os.truncate(path, 100), r"index\.npy is not an index of 4 pictures: it is damaged"),
        ("index.npy", lambda path: np.save(path, np.zeros(4, INDEX)), "has a height that is impossible for a picture"),
        ("index.npy", lambda path: np.save(path, np.ones(4, INDEX)), "offsets that do not follow"),
        ("index.npy", lambda path: np.save(path, np.zeros(3, INDEX)), "is not an index of 4 pictures: it must be"),
        ("split.json", lambda path: path.write_text("{"), r"split\.json is not JSON.*: delete .* and run `piggyback"),
        ("split.json", change(ids=["../../a", "b", "c", "d"]), r"damaged \(.*its ids are malformed"),
        ("split.json", change(ids=["a", "b", "c", "a"]), "or are there twice"),
        ("split.json", change(ids="abcd"), "its ids are malformed"),
        ("split.json", change(official="false"), "neither true nor false"),
        ("split.json", lambda path: path.write_text('{"version": 9}'), "is not a version 1 description of seg11valid"),
        ("split.json", lambda path: path.write_text('{"version": 1, "name": "seg11valid"}'), r"damaged.*'ids'"),
    ]:
        kept = (folder / name).read_bytes()
        spoil(folder / name)
        with pytest.raises(BadInput, match=message):
            open_split(out, "seg11valid")
        (folder / name).write_bytes(kept)
    assert len(open_split(out, "seg11valid")) == 4
