"""Packed splits: what `prepare` leaves behind, opened as memory maps.

<root>/<split>/split.json     written last: a split with it is finished
<root>/<split>/index.npy      one record of `INDEX` per picture, in the order of the ids
<root>/<split>/pictures.u8    decoded RGB pixels, one picture after the other, rows of (w, 3) bytes
<root>/<split>/labels.u8      class indices in the same order, one byte per pixel; not in a split without labels
"""

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from piggyback.shell.console import notice
from piggyback.shell.errors import BadInput, one_line
from piggyback.shell.files import write_json
from piggyback.shell.strict_json import read_json
from segmentation.release.splits import ID, complete_text, find_split, overlap, published_ids

VERSION: Final = 1
INDEX: Final = np.dtype([("offset", "<i8"), ("height", "<i4"), ("width", "<i4")])
"""Where a picture begins, in pixels (its bytes begin at three times that, its labels there), and its size."""

NAMED: Final = 3
CLEAN: Final = ("seg11valid", "voc2012_val_minus_sbd")
"""Splits to evaluate on that have no picture of SBD's train, nor of VOC's."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What ``split.json`` says.

    Attributes:
        name: of the split.
        ids: of its pictures, in the order of the index.
        published: how many pictures the published list has.
        official: the ids are those of the published list, and nothing contradicts it.
        labelled: label maps are there.
        fingerprint: hex sha256 over ids, sizes, pixels and labels.
        class_pixels: pixels of class 0..20; empty where not labelled.
        void_pixels: pixels that are not scored.
        listed_in: where the ids are from.
        sources: where pictures and label maps were read from.
        remarks: what a reader of results should know, such as counts that are not the published ones.
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
class PackedSplit:
    """n pictures and their label maps; both stay on disk until looked at.

    Attributes:
        name: of the split.
        ids: n of them.
        index: n records of `INDEX`.
        pixels: uint8 (bytes), RGB of all pictures.
        labels: uint8 (pixels), classes 0..20 and void 255; None where there are none.
        official: the ids are those of the published list, and nothing contradicts it.
        published: how many pictures the published list has.
        fingerprint: hex sha256 over ids, sizes, pixels and labels.
    """

    name: str
    ids: tuple[str, ...]
    index: NDArray[np.void]
    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8] | None
    official: bool
    published: int
    fingerprint: str

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def heights(self) -> NDArray[np.int64]:
        """Rows of each picture, int64 (n)."""
        return self.index["height"].astype(np.int64)

    @property
    def widths(self) -> NDArray[np.int64]:
        """Columns of each picture, int64 (n)."""
        return self.index["width"].astype(np.int64)

    @property
    def labelled(self) -> bool:
        """Whether there are label maps."""
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


def split_folder(root: Path, name: str) -> Path:
    """Where a split's packed files are."""
    return root / name


def index_file(folder: Path) -> Path:
    """The places and sizes of the pictures."""
    return folder / "index.npy"


def picture_file(folder: Path) -> Path:
    """The packed pixels."""
    return folder / "pictures.u8"


def label_file(folder: Path) -> Path:
    """The packed label maps."""
    return folder / "labels.u8"


def manifest_file(folder: Path) -> Path:
    """The file that makes a split finished."""
    return folder / "split.json"


def build_index(heights: NDArray[np.int64], widths: NDArray[np.int64]) -> NDArray[np.void]:
    """n records of `INDEX` for pictures of these sizes, each int64 (n), one after the other."""
    index = np.zeros(len(heights), dtype=INDEX)
    index["height"], index["width"] = heights, widths
    index["offset"] = np.cumsum(heights * widths) - heights * widths
    return index


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``split.json``, which makes the split finished."""
    write_json(manifest_file(folder), {"version": VERSION, **asdict(manifest)})


def read_manifest(root: Path, name: str) -> Manifest | None:
    """What ``split.json`` says, or None where the split is not finished.

    Raises:
        BadInput: the file is damaged or of another version.
    """
    path = manifest_file(split_folder(root, name))
    if not path.is_file():
        return None
    advice = f"delete {one_line(path.parent)} and run `{prepare_command(root, name)}`"
    try:
        value = read_json(path)
    except BadInput as fault:
        raise BadInput(f"{fault}: {advice}") from None
    if not isinstance(value, dict) or value.get("version") != VERSION or value.get("name") != name:
        raise BadInput(f"{one_line(path)} is not a version {VERSION} description of {name}: {advice}")
    try:
        fields = cast(dict[str, Any], value)
        return Manifest(
            name=name,
            ids=_ids(fields["ids"]),
            published=int(fields["published"]),
            official=_flag(fields["official"]),
            labelled=_flag(fields["labelled"]),
            fingerprint=str(fields["fingerprint"]),
            class_pixels=tuple(int(count) for count in fields["class_pixels"]),
            void_pixels=int(fields["void_pixels"]),
            listed_in=str(fields["listed_in"]),
            sources=tuple(str(place) for place in fields["sources"]),
            remarks=tuple(str(line) for line in fields["remarks"]),
        )
    except (KeyError, TypeError, ValueError) as fault:
        raise BadInput(f"{one_line(path)} is damaged ({fault!r}): {advice}") from None


def _ids(value: object) -> tuple[str, ...]:
    """Ids from a file, which become the names of other files."""
    whole = isinstance(value, list) and all(isinstance(one, str) and ID.fullmatch(one) for one in value)
    if not whole or len(set(cast(list[str], value))) < len(cast(list[str], value)):
        raise ValueError("its ids are no ids, or stand there twice")
    return tuple(cast(list[str], value))


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r:.40} is neither true nor false")
    return value


def prepare_command(root: Path, name: str) -> str:
    """What a user types to have a split packed."""
    return f"piggyback segmentation prepare --source FOLDER --out {one_line(shlex.quote(str(root)))} --splits {name}"


def open_split(root: Path, name: str) -> PackedSplit:
    """Open a split that `prepare` has packed.

    Raises:
        BadInput: it is not there, or its files disagree; the message has the command that makes it.
        UnknownName: no split is called so.
    """
    find_split(name)
    folder = split_folder(root, name)
    manifest = read_manifest(root, name)
    if manifest is None:
        missing = f"{name} is not packed in {one_line(root)}: there is no {one_line(manifest_file(folder))}"
        raise BadInput(f"{missing}. Run `{prepare_command(root, name)}`")
    fault = find_fault(folder, manifest)
    if fault is not None:
        raise BadInput(f"{fault}. Run `{prepare_command(root, name)}` to pack it again")
    return PackedSplit(
        name=name,
        ids=manifest.ids,
        index=np.load(index_file(folder), allow_pickle=False),
        pixels=_map(picture_file(folder)),
        labels=_map(label_file(folder)) if manifest.labelled else None,
        official=manifest.official,
        published=manifest.published,
        fingerprint=manifest.fingerprint,
    )


def find_fault(folder: Path, manifest: Manifest) -> str | None:
    """What is wrong with a split's files, in words, or None; the pixels themselves are not read."""
    path = index_file(folder)
    parts = [(picture_file(folder), 3), *([(label_file(folder), 1)] if manifest.labelled else [])]
    try:
        index = np.load(path, allow_pickle=False)
        sizes = {part: part.stat().st_size for part, _ in parts}
    except (OSError, ValueError, EOFError) as fault:
        return f"cannot read {one_line(path)} and what belongs to it ({one_line(str(fault))})"
    count = len(manifest.ids)
    if index.dtype != INDEX or index.shape != (count,) or count == 0:
        return f"{one_line(path)} is not an index of {count} pictures"
    heights, widths = index["height"].astype(np.int64), index["width"].astype(np.int64)
    if min(heights.min(), widths.min()) <= 0 or not np.array_equal(build_index(heights, widths), index):
        return f"{one_line(path)} has offsets that do not follow from the sizes"
    pixels = int((heights * widths).sum())
    for part, bytes_each in parts:
        if sizes[part] != bytes_each * pixels:
            return f"{one_line(part)} has {sizes[part]:,} bytes, not the {bytes_each * pixels:,} of its index"
    return None


def refuse_overlap(train: PackedSplit, evaluation: PackedSplit, *, allow: bool) -> int:
    """Stop an evaluation on pictures that were trained on.

    Args:
        train: what is or was trained on.
        evaluation: what shall be scored.
        allow: say it in a notice instead.

    Returns:
        How many pictures are in both.

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


def _map(path: Path) -> NDArray[np.uint8]:
    # The base-class view: slicing np.memmap itself costs microseconds per picture.
    return np.asarray(np.memmap(path, dtype=np.uint8, mode="r")).view(np.ndarray)
