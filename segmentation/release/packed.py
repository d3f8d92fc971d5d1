"""Packed splits, as `prepare` writes them, opened as memory maps.

<root>/<split>/split.json     written last: a split with it is finished
<root>/<split>/index.npy      one record of `INDEX` per picture, in the order of the ids
<root>/<split>/pictures.u8    decoded RGB pixels, one picture after the other, rows of (w, 3) bytes
<root>/<split>/labels.u8      class indices in the same order, one byte per pixel; not in a split without labels
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from piggyback.data.packed import PackedPictures, Packs, map_bytes, open_index, read_flag, set_offsets
from piggyback.shell.console import notice
from piggyback.shell.errors import BadInput
from segmentation.release.splits import ID, complete_text, find_split, overlap, published_ids

PACKS: Final = Packs(benchmark="segmentation", unit="split", key="name", version=1)
INDEX: Final = np.dtype([("offset", "<i8"), ("height", "<i4"), ("width", "<i4")])
"""Where a picture begins, in pixels (its bytes begin at three times that, its labels there), and its size."""

NAMED: Final = 3
CLEAN: Final = ("seg11valid", "voc2012_val_minus_sbd")
"""Splits to evaluate on that have no picture of SBD's train, nor of VOC's."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of ``split.json``.

    Attributes:
        ids: of its pictures, in the order of the index.
        published: how many pictures the published list has.
        official: the ids are those of the published list, and nothing contradicts it.
        labelled: there are label maps.
        fingerprint: hex sha256 over ids, sizes, pixels and labels.
        class_pixels: pixels of class 0..20; empty where not labelled.
        void_pixels: pixels that are not scored.
        listed_in: place of the list of ids.
        sources: places that pictures and label maps were read from.
        remarks: notes for readers of results, such as counts that are not the published ones.
    """

    name: str
    ids: tuple[str, ...]
    published: int
    official: bool
    labelled: bool
    fingerprint: str
    class_pixels: tuple[int, ...]
    void_pixels: int
    listed_in: str
    sources: tuple[str, ...]
    remarks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PackedSplit(PackedPictures):
    """n pictures and their label maps; both stay on disk until looked at.

    Attributes:
        index: n records of `INDEX`.
        pixels: uint8 (bytes), RGB of all pictures.
        labels: uint8 (pixels), classes 0..20 and void 255; None where there are none.
        published: how many pictures the published list has.
        fingerprint: hex sha256 over ids, sizes, pixels and labels.
    """

    name: str
    ids: tuple[str, ...]
    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8] | None
    published: int

    @property
    def labelled(self) -> bool:
        return self.labels is not None

    @property
    def completeness(self) -> str:
        """How much of the published list this is: "736", or "100 of 736"."""
        return complete_text(self.ids, name=self.name, published=self.published)

    def picture(self, place: int) -> NDArray[np.uint8]:
        """One picture, uint8 (h, w, 3), RGB, read-only, not copied.

        Raises:
            IndexError: there is no such picture.
        """
        offset, height, width = self.index[place].tolist()
        return self.pixels[3 * offset : 3 * (offset + height * width)].reshape(height, width, 3)

    def label_map(self, place: int) -> NDArray[np.uint8]:
        """The classes of one picture's pixels, uint8 (h, w), void 255, read-only, not copied.

        Raises:
            BadInput: the split has no label maps.
            IndexError: there is no such picture.
        """
        if self.labels is None:
            raise BadInput(f"{self.name} has no label maps: it can be predicted, neither scored nor trained on")
        offset, height, width = self.index[place].tolist()
        return self.labels[offset : offset + height * width].reshape(height, width)


def index_file(folder: Path) -> Path:
    return folder / "index.npy"


def picture_file(folder: Path) -> Path:
    return folder / "pictures.u8"


def label_file(folder: Path) -> Path:
    return folder / "labels.u8"


def build_index(heights: NDArray[np.int64], widths: NDArray[np.int64]) -> NDArray[np.void]:
    """n records of `INDEX` for pictures of these sizes, each int64 (n), one after the other."""
    index = np.zeros(len(heights), dtype=INDEX)
    index["height"], index["width"] = heights, widths
    set_offsets(index, step=1)
    return index


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Write ``split.json``, which makes the split finished."""
    PACKS.write(root, manifest.name, asdict(manifest))


def read_manifest(root: Path, name: str) -> Manifest | None:
    """The content of ``split.json``; None where the split is not finished.

    Raises:
        BadInput: the file is damaged or of another version.
    """
    return PACKS.read(root, name, build=_build)


def _build(fields: Mapping[str, Any]) -> Manifest:
    return Manifest(
        name=str(fields["name"]),
        ids=_ids(fields["ids"]),
        published=int(fields["published"]),
        official=read_flag(fields["official"]),
        labelled=read_flag(fields["labelled"]),
        fingerprint=str(fields["fingerprint"]),
        class_pixels=tuple(int(count) for count in fields["class_pixels"]),
        void_pixels=int(fields["void_pixels"]),
        listed_in=str(fields["listed_in"]),
        sources=tuple(str(place) for place in fields["sources"]),
        remarks=tuple(str(line) for line in fields["remarks"]),
    )


def _ids(value: object) -> tuple[str, ...]:
    """Ids from a file, which become the names of other files."""
    whole = isinstance(value, list) and all(isinstance(one, str) and ID.fullmatch(one) for one in value)
    if not whole or len(set(cast(list[str], value))) < len(cast(list[str], value)):
        raise ValueError("its ids are malformed, or are there twice")
    return tuple(cast(list[str], value))


def open_split(root: Path, name: str) -> PackedSplit:
    """Open a split that `prepare` has packed.

    Raises:
        BadInput: it is not there, or its files disagree; the message has the command that makes it.
        UnknownName: no split is called so.
    """
    find_split(name)
    manifest = PACKS.read_finished(root, name, build=_build)
    folder = root / name
    try:
        index = open_index_of(folder, manifest)
    except BadInput as fault:
        raise BadInput(f"{fault}. Run `{PACKS.command(root, name)}` to pack it again") from None
    return PackedSplit(
        name=name,
        ids=manifest.ids,
        index=index,
        pixels=map_bytes(picture_file(folder)),
        labels=map_bytes(label_file(folder)) if manifest.labelled else None,
        official=manifest.official,
        published=manifest.published,
        fingerprint=manifest.fingerprint,
    )


def open_index_of(folder: Path, manifest: Manifest) -> NDArray[np.void]:
    """Open a split's index and compare it with the packed files.

    Raises:
        BadInput: with the first fault.
    """
    files = {picture_file(folder): 3} | ({label_file(folder): 1} if manifest.labelled else {})
    return open_index(index_file(folder), kind=INDEX, count=len(manifest.ids), step=1, files=files)


def refuse_overlap(train: PackedSplit, evaluation: PackedSplit, *, allow: bool) -> int:
    """Refuse an evaluation on pictures that were trained on.

    Args:
        train, evaluation: the pictures trained on, before or after this call, and those to be scored.
        allow: print a notice instead.

    Returns:
        The number of pictures in both.

    Raises:
        BadInput: there are some, and `allow` is false.
    """
    both = overlap(evaluation.ids, train.ids)
    if not both:
        return 0
    named = ", ".join(both[:NAMED]) + (", ..." if len(both) > NAMED else "")
    text = f"{len(both):,} of the {len(evaluation):,} pictures of {evaluation.name} are in {train.name} ({named})"
    if not allow:
        clean = [name for name in CLEAN if not overlap(published_ids(find_split(name)), train.ids)]
        such = f", such as {' or '.join(clean)}," if clean and evaluation.name not in clean else ""
        raise BadInput(
            f"{text}: scores on pictures that were trained on say nothing. Evaluate on another split{such} "
            "or allow it with --allow-overlap"
        )
    notice(f"{text}: allowed, but these scores compare with no others")
    return len(both)
