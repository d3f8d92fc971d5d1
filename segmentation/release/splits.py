"""The splits of PASCAL VOC and SBD that FCN and its successors train and evaluate on, and their published lists.

The README of ``segmentation/lists`` says where each list is from; ``tests/segmentation/release/test_splits.py`` holds
which of them contain which.  The console command's help needs this file, so it imports nothing heavy.
"""

import re
from codecs import BOM_UTF8
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final, Literal

from piggyback.shell.errors import BadInput, UnknownName

Origin = Literal["voc", "sbd"]
TRAIN_SPLIT: Final = "sbd_train"
EVALUATION_SPLIT: Final = "seg11valid"  # the paper's two
ID: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,63}")
"""What an id may look like: it becomes a file name.  The published ones are ``2008_000008``."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """One published set of pictures.

    Attributes:
        name: as on the command line.
        origins: where its pictures lie, "voc" or "sbd".  With both, the pictures of VOC2012's train come with
            VOC's label maps and all others with SBD's, as mmsegmentation's trainaug does.
        count: pictures in the published list.
        shipped: file below ``lists/``.
        own: file names under which a source folder keeps its own list.
        minus: name of the split whose published ids are left out.
        years: VOC releases that hold it, the first one found is taken; SBD has only one.
        labelled: whether its label maps are public.
    """

    name: str
    origins: tuple[Origin, ...]
    count: int
    shipped: str
    own: tuple[str, ...]
    minus: str | None = None
    years: tuple[int, ...] = (2012,)
    labelled: bool = True


# seg11valid is VOC2011's, and lies in VOC2012's val as a whole: either devkit has its pictures.
_TABLE: Final = (
    Split(name="sbd_train", origins=("sbd",), count=8498, shipped="sbd_train.txt", own=("train.txt",)),
    Split(name="sbd_val", origins=("sbd",), count=2857, shipped="sbd_val.txt", own=("val.txt",)),
    Split(
        name="seg11valid",
        origins=("voc",),
        count=736,
        shipped="seg11valid.txt",
        own=("seg11valid.txt",),
        years=(2012, 2011),
    ),
    Split(name="voc2012_train", origins=("voc",), count=1464, shipped="voc2012_seg_train.txt", own=("train.txt",)),
    Split(name="voc2012_val", origins=("voc",), count=1449, shipped="voc2012_seg_val.txt", own=("val.txt",)),
    Split(
        name="voc2012_test",
        origins=("voc",),
        count=1456,
        shipped="voc2012_seg_test.txt",
        own=("test.txt",),
        labelled=False,
    ),
    Split(
        name="train_aug",
        origins=("voc", "sbd"),
        count=10582,
        shipped="voc2012_train_aug.txt",
        own=("train_aug.txt", "trainaug.txt"),
    ),
    Split(
        name="voc2012_val_minus_sbd",
        origins=("voc",),
        count=904,
        shipped="voc2012_seg_val.txt",
        own=("val.txt",),
        minus="sbd_train",
    ),
)
SPLITS: Final = {split.name: split for split in _TABLE}


def find_split(name: str) -> Split:
    """The split of that name.

    Raises:
        UnknownName: there is none.
    """
    if name not in SPLITS:
        raise UnknownName(name, known=SPLITS, kind="split")
    return SPLITS[name]


@cache
def published_ids(split: Split) -> tuple[str, ...]:
    """The published ids, in the order of their list."""
    text = files("segmentation").joinpath("lists", split.shipped).read_bytes()
    return leave_out(split, parse_ids(text, name=shipped_name(split)))


def shipped_name(split: Split) -> str:
    """The name of the list that comes with the package, for messages and manifests."""
    return f"segmentation/lists/{split.shipped}"


def leave_out(split: Split, ids: tuple[str, ...]) -> tuple[str, ...]:
    """The ids of a list that belong to a split: all, or those outside of the split that it leaves out."""
    if split.minus is None:
        return ids
    others = frozenset(published_ids(SPLITS[split.minus]))
    return tuple(one for one in ids if one not in others)


def origin_of(split: Split, one: str) -> Origin:
    """The release that the picture and the label map of an id are taken from."""
    if len(split.origins) == 1:
        return split.origins[0]
    return "voc" if one in _voc_train() else "sbd"


@cache
def _voc_train() -> frozenset[str]:
    return frozenset(published_ids(SPLITS["voc2012_train"]))


def parse_ids(data: bytes, *, name: str) -> tuple[str, ...]:
    """The ids of a list, one per line; space around them and blank lines do not matter.

    Args:
        data: not trusted.
        name: of the file, for messages.

    Raises:
        BadInput: an id is there twice, or a line is not an id.
    """
    found: dict[str, None] = {}
    try:
        lines = data.removeprefix(BOM_UTF8).decode("ascii").splitlines()  # Windows' Notepad writes the mark
    except UnicodeDecodeError:
        raise BadInput(f"{name} must be a list of ids in plain text, one per line") from None
    for number, line in enumerate(lines, start=1):
        one = line.strip()
        if not one:
            continue
        if ID.fullmatch(one) is None:
            raise BadInput(
                f"{name}, line {number}: {one[:80]!r} is not an id; one such as 2008_000008 is expected per line"
            )
        if one in found:
            raise BadInput(f"{name}, line {number}: the id {one} is there twice; delete one of the lines")
        found[one] = None
    return tuple(found)


def overlap(first_ids: Iterable[str], second_ids: Collection[str]) -> tuple[str, ...]:
    """The ids that are in both, in the order of the first."""
    second = frozenset(second_ids)
    return tuple(one for one in first_ids if one in second)


def complete_text(ids: Collection[str], *, name: str, published: int) -> str:
    """The part of a published list that some ids are, as words before "pictures".

    "736"; "100 of 736"; "100 of 736 and 3 more"; "48, none of the published 736".

    Args:
        name: of the split.
        published: number of pictures on its list.
    """
    split = SPLITS.get(name)
    known = len(ids) if split is None else len(overlap(ids, published_ids(split)))
    if ids and not known:
        return f"{len(ids)}, none of the published {published}"
    part = f"{known}" if known == published else f"{known} of {published}"
    return f"{part} and {len(ids) - known} more" if len(ids) > known else part
