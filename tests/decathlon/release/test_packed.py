from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from decathlon.release.packed import open_split
from piggyback.data.labelled import join, whole
from piggyback.shell.errors import BadInput


def test_a_split_opens_read_only_with_what_the_annotations_say(packed_root: Path) -> None:
    split = open_split(packed_root, "svhn", "train")
    assert (len(split), split.classes, split.official) == (8, 4, False)
    assert split.category_ids.tolist() == [80000001, 80000002, 80000003, 80000004]
    assert split.picture(1).shape == (split.heights[1], split.widths[1], 3)
    assert np.array_equal(split.picture(-1), split.picture(7))
    with pytest.raises(ValueError, match="read-only"):
        split.picture(0)[0, 0, 0] = 1
    assert (open_split(packed_root, "svhn", "test").labels == -1).all()


def test_a_missing_pack_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"piggyback decathlon prepare --source FOLDER --out .* --tasks svhn"):
        open_split(tmp_path, "svhn", "train")


def test_joined_splits_keep_every_picture_and_label(packed_root: Path) -> None:
    train, val = open_split(packed_root, "svhn", "train"), open_split(packed_root, "svhn", "val")
    both = join(train, val)
    assert (len(both), both.split) == (12, "train+val")
    assert both.labels.tolist() == [*train.labels, *val.labels]
    for place in range(12):
        expected = train.picture(place) if place < 8 else val.picture(place - 8)
        assert np.array_equal(both.picture(place), expected)
    assert np.array_equal(both.picture(-1), val.picture(3))
    with pytest.raises(ValueError, match="they are from different packs"):
        join(train, open_split(packed_root, "aircraft", "val"))


def test_the_whole_view_is_pillows_resize_made_once(packed_root: Path) -> None:
    both = join(open_split(packed_root, "svhn", "train"), open_split(packed_root, "svhn", "val"))
    seen = whole(both, size=24)
    for place in range(len(both)):
        expected = Image.fromarray(both.picture(place)).resize((24, 24), Image.Resampling.BILINEAR)
        assert np.array_equal(seen.picture(place), np.asarray(expected))
    files = [packed_root / "svhn" / f"{split}.whole24.u8" for split in ("train", "val")]
    made = [file.stat().st_mtime_ns for file in files]
    whole(both, size=24)
    assert [file.stat().st_mtime_ns for file in files] == made
