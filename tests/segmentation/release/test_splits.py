import hashlib
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from piggyback.shell.errors import BadInput, UnknownName
from segmentation.release.splits import SPLITS, complete_text, find_split, origin_of, overlap, parse_ids, published_ids


def ids(name: str) -> set[str]:
    return set(published_ids(find_split(name)))


@pytest.mark.parametrize("name", SPLITS)
def test_every_split_has_as_many_pictures_as_published(name: str) -> None:
    split = find_split(name)
    assert len(published_ids(split)) == len(ids(name)) == split.count


def test_the_lists_are_the_published_ones(shared_data: Path) -> None:
    lists = files("segmentation").joinpath("lists")
    table = lists.joinpath("README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\S+)` \| (\d+) \|.*`([0-9a-f]{64})`", table, re.MULTILINE)
    assert {name for name, _, _ in rows} == {split.shipped for split in SPLITS.values()}
    for name, count, digest in rows:
        data = lists.joinpath(name).read_bytes()
        assert len(data.split()) == int(count)
        assert hashlib.sha256(data).hexdigest() == digest
        assert data == (shared_data / "lists" / name).read_bytes()


@pytest.mark.parametrize(
    ("first", "second", "count"),
    [
        ("seg11valid", "sbd_train", 0),
        ("seg11valid", "sbd_val", 394),
        ("seg11valid", "voc2012_val", 736),
        ("seg11valid", "train_aug", 0),
        ("sbd_train", "sbd_val", 0),
        ("sbd_train", "voc2012_val", 545),
        ("voc2012_val_minus_sbd", "sbd_train", 0),
        ("voc2012_val_minus_sbd", "seg11valid", 736),
        ("voc2012_train", "voc2012_val", 0),
        ("voc2012_test", "voc2012_val", 0),
    ],
)
def test_how_the_sets_overlap(first: str, second: str, count: int) -> None:
    both = overlap(published_ids(find_split(first)), published_ids(find_split(second)))
    assert len(both) == count
    assert set(both) == ids(first) & ids(second)


def test_how_the_sets_make_each_other() -> None:
    assert len(ids("sbd_train") | ids("sbd_val")) == 11355
    assert len(ids("sbd_train") | ids("voc2012_train")) == 8829
    assert ids("voc2012_val") - ids("sbd_train") == ids("voc2012_val_minus_sbd")
    everything = ids("sbd_train") | ids("sbd_val") | ids("voc2012_train")
    assert everything - ids("voc2012_val") == ids("train_aug")
    assert len(ids("voc2012_val") & (ids("sbd_train") | ids("sbd_val"))) == 1103


def test_train_aug_takes_the_label_maps_of_voc_where_voc_has_them() -> None:
    split = find_split("train_aug")
    of_voc = {one for one in published_ids(split) if origin_of(split, one) == "voc"}
    assert of_voc == ids("voc2012_train")
    assert ids("train_aug") - of_voc <= ids("sbd_train") | ids("sbd_val")


def test_a_list_is_read_with_its_blanks_and_line_ends() -> None:
    assert parse_ids(b"\n 2008_000008 \r\n\n2008_000112\t\n", name="x") == ("2008_000008", "2008_000112")
    assert parse_ids(b"\xef\xbb\xbf2008_000008\r\n", name="x") == ("2008_000008",)  # as Windows' Notepad saves it
    assert parse_ids(b"", name="x") == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a\nb\na\n", r"^train\.txt, line 3: the id a is there twice"),
        (b"a\n../b\n", r"^train\.txt, line 2: '\.\./b' is not an id"),
        (b"2008_000008 1\n", r"line 1: '2008_000008 1' is not an id"),
        (b"a\0b", r"is not an id"),
        (b"..", r"is not an id"),
        (b"\xff\xfea\0", r"^train\.txt must be a list of ids"),
    ],
)
def test_a_bad_list_is_refused_with_its_name_and_line(text: bytes, message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        parse_ids(text, name="train.txt")
    assert "\n" not in str(caught.value)


def test_a_part_of_a_list_is_said_to_be_one() -> None:
    listed = published_ids(find_split("seg11valid"))
    assert complete_text(listed, name="seg11valid", published=736) == "736"
    assert complete_text(listed[:100], name="seg11valid", published=736) == "100 of 736"
    assert complete_text((*listed[:100], "mine"), name="seg11valid", published=736) == "100 of 736 and 1 more"
    assert complete_text(("mine", "yours"), name="seg11valid", published=736) == "2, none of the published 736"
    assert complete_text((), name="seg11valid", published=736) == "0 of 736"


def test_an_unknown_split_is_named_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'seg11valid'"):
        find_split("seg11val")


def test_splits_load_nothing_heavy() -> None:
    code = "import sys, segmentation.release.splits; print({'numpy', 'torch', 'scipy', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
