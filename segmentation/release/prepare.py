"""`piggyback segmentation prepare`: check pictures and label maps of a split, pack them decoded.

Sizes are read first, so every picture has its place in the packed files before any is decoded.  A split
with a fault in any file is not packed, and leaves nothing behind.  A killed run continues.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from piggyback.data.packed import count_pixels, fingerprint, read_pieces
from piggyback.data.packing import Decode, Packing, PlannedFile, begin, partial_folder
from piggyback.data.picture_sizes import measure_all
from piggyback.data.pictures import Size, decode_rgb, open_picture
from piggyback.data.preparation import (
    Outcome,
    find_problems,
    keep_first,
    pack_unless_finished,
    packing_below,
    show_outcomes,
)
from piggyback.shell.console import print_json
from piggyback.shell.errors import BadInput, one_line
from segmentation.release.label_files import read_label_map
from segmentation.release.mat_files import read_mat
from segmentation.release.official import find_remarks
from segmentation.release.packed import (
    PACKS,
    Manifest,
    build_index,
    index_file,
    label_file,
    open_index_of,
    picture_file,
    read_manifest,
    write_manifest,
)
from segmentation.release.sources import Found, IdList, Key, Kind, Source, expected, file_name
from segmentation.release.splits import Split, complete_text, find_split
from segmentation.voc import CLASSES, VOID

if TYPE_CHECKING:
    from segmentation.options import PrepareOptions

_WORDS: Final[dict[Kind, str]] = {"picture": "pictures", "labels": "label maps"}


@dataclass(frozen=True, kw_only=True)
class SplitReport(Outcome):
    """The outcome for one split.

    Attributes:
        pictures: how many its list has.
        published: how many the published list has.
        completeness: how much of that this is: "736", or "100 of 736".
        labelled: label maps belong to it.
        listed_in: place of the list of ids; empty where none could be read.
        class_pixels: pixels of class 0..20; empty where it was not packed or is not labelled.
        void_pixels: pixels that are not scored.
        remarks: notes for readers of results.
    """

    name: str
    pictures: int
    published: int
    completeness: str
    labelled: bool = True
    listed_in: str = ""
    class_pixels: tuple[int, ...] = ()
    void_pixels: int = 0
    remarks: tuple[str, ...] = ()

    @property
    def pixels(self) -> int:
        """Labelled pixels, void ones included."""
        return sum(self.class_pixels) + self.void_pixels

    def as_json(self) -> dict[str, object]:
        return {
            "pictures": self.pictures,
            "published": self.published,
            "completeness": self.completeness,
            "official": self.official,
            "labelled": self.labelled,
            "listed_in": self.listed_in,
            "pixels": self.pixels,
            "void_pixels": self.void_pixels,
            "class_pixels": list(self.class_pixels),
            "problems": list(self.problems),
            "remarks": list(self.remarks),
            "fresh": self.fresh,
        }


@dataclass(frozen=True, kw_only=True)
class PrepareReport:
    """Outcomes of `prepare`: one per split that was asked for."""

    splits: tuple[SplitReport, ...]

    @property
    def good(self) -> bool:
        return not any(report.problems for report in self.splits)

    def as_json(self) -> dict[str, object]:
        return {"splits": {report.name: report.as_json() for report in self.splits}}


def run(options: "PrepareOptions") -> int:
    """Prepare and print the outcome; return 1 where a split has problems."""
    report = prepare(options.source, options.out, splits=options.splits)
    if options.json:
        print_json(report.as_json())
    else:
        show(report, out_folder=options.out)
    return 0 if report.good else 1


def prepare(source: Path, out: Path, *, splits: Sequence[str]) -> PrepareReport:
    """Check and pack splits; one that is packed already from the same list costs next to nothing.

    Args:
        source: folder with VOC and SBD in any form of `segmentation.release.sources`.
        out: folder for the packed splits, made where it is missing.
        splits: names; one that is not there is a problem.

    Raises:
        BadInput: `source` is no folder, holds no part of VOC or SBD, or `out` cannot be written.
        UnknownName: no split is called so.
    """
    asked = [find_split(name) for name in dict.fromkeys(splits)]
    place = Source(source)
    if not asked:
        raise BadInput("no split is named: give at least one, such as seg11valid")
    if not any(place.places(split) for split in asked):
        names = ", ".join(split.name for split in asked)
        needs = "; or ".join(dict.fromkeys(expected(split) for split in asked))
        raise BadInput(
            f"{one_line(source)} holds no part of {names}: expected {needs}; `piggyback segmentation fetch` gets them"
        )
    with packing_below(out):
        return PrepareReport(splits=tuple(prepare_split(place, out, split) for split in asked))


def prepare_split(source: Source, out: Path, split: Split) -> SplitReport:
    missing = [one for one in split.origins if one not in {place.origin for place in source.places(split)}]
    if missing:
        needs = f"{' and '.join(missing).upper()} not found in {one_line(source.folder)}: expected {expected(split)}"
        return _failed(split, None, problems=(needs,))
    try:
        listed = source.ids(split)
    except BadInput as fault:
        return _failed(split, None, problems=(str(fault),))
    folder = out / split.name
    return pack_unless_finished(
        folder,
        manifest=PACKS.manifest_file(out, split.name),
        finished=partial(_finished, out, split, listed=listed),
        pack=partial(_pack, source, out, split=split, listed=listed),
        stale=lambda: [picture_file(folder), label_file(folder), index_file(folder)],
    )


def _failed(split: Split, listed: IdList | None, *, problems: tuple[str, ...]) -> SplitReport:
    ids = listed.ids if listed is not None else ()
    return SplitReport(
        name=split.name,
        pictures=len(ids),
        published=split.count,
        completeness=complete_text(ids, name=split.name, published=split.count),
        labelled=split.labelled,
        listed_in=listed.name if listed is not None else "",
        problems=problems,
    )


def _report(manifest: Manifest, *, fresh: bool) -> SplitReport:
    return SplitReport(
        name=manifest.name,
        pictures=len(manifest.ids),
        published=manifest.published,
        completeness=complete_text(manifest.ids, name=manifest.name, published=manifest.published),
        official=manifest.official,
        labelled=manifest.labelled,
        listed_in=manifest.listed_in,
        class_pixels=manifest.class_pixels,
        void_pixels=manifest.void_pixels,
        remarks=manifest.remarks,
        fresh=fresh,
    )


def _finished(out: Path, split: Split, *, listed: IdList) -> SplitReport:
    """The report of a split that is packed already with these ids.

    Raises:
        BadInput: it is damaged, or packed with others.
    """
    manifest = read_manifest(out, split.name)
    if manifest is None or manifest.ids != listed.ids:
        raise BadInput(f"{listed.name} does not list what was packed")
    open_index_of(out / split.name, manifest)
    return _report(manifest, fresh=False)


def _pack(source: Source, out: Path, *, split: Split, listed: IdList) -> SplitReport:
    """Read, check and pack all files of a split; write its manifest when none is missing.

    Where pictures are missing or damaged, the other files are still checked, so that one run reports all faults.
    """
    folder, ids = out / split.name, listed.ids
    state = {"ids": list(ids), "labelled": split.labelled}
    begin(folder, state=state)
    refused: list[str] = []
    pictures = _pictures(source, split=split, ids=ids, refused=refused)
    sizes, unmeasured = measure_all(folder, pictures, ids=ids, title=f"{split.name}, sizes")
    faults: dict[Key, str] = {("picture", one): text for one, text in unmeasured.items()}
    index = build_index(*np.array([sizes.get(one, (0, 0)) for one in ids], dtype=np.int64).T)
    files = {kind: _plan(kind, index) for kind in kinds(labelled=split.labelled)}
    with Packing(folder, files=files, state=state, writes=len(sizes) == len(ids)) as packing:
        wanted = [key for key in _keys(packing, ids) if key not in faults]
        packing.fill(_read(source, split=split, ids=ids, sizes=sizes, wanted=wanted, refused=refused), title=split.name)
        faults |= {(kind, ids[place]): text for (kind, place), text in packing.faults.items()}
        missing = [key for key in _keys(packing, ids) if key not in faults]
        problems = _problems(source, split=split, listed=listed, missing=missing, faults=faults)
        if not problems:
            manifest = _describe(packing, source=source, split=split, listed=listed, index=index)
            packing.finish({index_file(folder).name: index})
    if problems:
        shutil.rmtree(partial_folder(folder))
        return _failed(split, listed, problems=(*problems, *keep_first(refused)))
    write_manifest(out, manifest)
    return _report(manifest, fresh=True)


def kinds(*, labelled: bool) -> tuple[Kind, ...]:
    """The files that belong to one picture of a split."""
    return ("picture", "labels") if labelled else ("picture",)


def _plan(kind: Kind, index: NDArray[np.void]) -> PlannedFile:
    """The packed file of one kind: its pieces are three bytes a pixel, or one."""
    pixels = count_pixels(index)
    if kind == "picture":
        return PlannedFile(picture_file(Path()).name, 3 * pixels)
    return PlannedFile(label_file(Path()).name, pixels)


def _keys(packing: Packing[Kind], ids: tuple[str, ...]) -> list[Key]:
    """The files that are neither packed nor found to be faulty."""
    return [(kind, ids[place]) for kind, place in packing.wanted()]


def _pictures(
    source: Source, *, split: Split, ids: tuple[str, ...], refused: list[str]
) -> Iterator[tuple[str, bytes, str]]:
    """Id, file and name of each picture that the source has."""
    wanted: list[Key] = [("picture", one) for one in ids]
    for found in source.files(split, wanted=wanted, refuse=refused.append):
        yield found.key[1], found.data, found.name


def _read(
    source: Source,
    *,
    split: Split,
    ids: tuple[str, ...],
    sizes: Mapping[str, Size],
    wanted: Sequence[Key],
    refused: list[str],
) -> Iterator[tuple[tuple[Kind, int], Decode]]:
    """Those of the wanted files that the source has."""
    places = {one: place for place, one in enumerate(ids)}
    for found in source.files(split, wanted=wanted, refuse=refused.append):
        kind, one = found.key
        yield (kind, places[one]), partial(decode, found, size=sizes.get(one))


def decode(found: Found, *, size: Size | None) -> NDArray[np.uint8]:
    """A picture, uint8 (h, w, 3), RGB; or a label map, uint8 (h, w), of 0..20 and 255.

    Args:
        found: the file.
        size: height and width of the picture that it belongs to; None where that has none.

    Raises:
        BadInput: it is not one, is damaged, or has another size; the message names the file.
    """
    if found.key[0] == "picture":
        with open_picture(found.data, name=found.name) as picture:
            pixels = decode_rgb(picture)
    else:
        read = read_mat if found.suffix == ".mat" else read_label_map
        pixels = read(found.data, name=found.name)
    height, width = pixels.shape[:2]
    if size is not None and size != (height, width):
        raise BadInput(f"{found.name} is {width} x {height}, but its picture {size[1]} x {size[0]}")
    return pixels


def _problems(
    source: Source, *, split: Split, listed: IdList, missing: Sequence[Key], faults: Mapping[Key, str]
) -> list[str]:
    """One line per kind of fault: how many files, and the first few by name."""
    searched = ", ".join(one_line(place.path) for place in source.places(split))
    problems = []
    for kind in kinds(labelled=split.labelled):
        problems += find_problems(
            _WORDS[kind],
            count=len(listed.ids),
            missing=[file_name(split, key) for key in missing if key[0] == kind],
            faulty=[text for key, text in faults.items() if key[0] == kind],
            listed=listed.name,
            searched=searched,
        )
    return problems


def _describe(
    packing: Packing[Kind], *, source: Source, split: Split, listed: IdList, index: NDArray[np.void]
) -> Manifest:
    """The manifest of files that are complete, with their counts and their fingerprint."""
    counts = _count_labels(packing.path("labels")) if split.labelled else np.zeros(256, dtype=np.int64)
    class_pixels = tuple(counts[: len(CLASSES)].tolist()) if split.labelled else ()
    void_pixels = int(counts[VOID])
    remarks = find_remarks(split, ids=listed.ids, class_pixels=class_pixels, void_pixels=void_pixels)
    packed = [packing.path(kind) for kind in kinds(labelled=split.labelled)]
    return Manifest(
        name=split.name,
        ids=listed.ids,
        published=split.count,
        official=not remarks,
        labelled=split.labelled,
        fingerprint=fingerprint(["\n".join(listed.ids).encode(), index.tobytes(), *packed]),
        class_pixels=class_pixels,
        void_pixels=void_pixels,
        listed_in=listed.name,
        sources=tuple(str(place.path) for place in source.places(split)),
        remarks=remarks,
    )


def _count_labels(path: Path) -> NDArray[np.int64]:
    """The number of pixels with each label, int64 (256)."""
    counts = np.zeros(256, dtype=np.int64)
    for piece in read_pieces(path):
        counts += np.bincount(np.frombuffer(piece, dtype=np.uint8), minlength=256)
    return counts


def show(report: PrepareReport, *, out_folder: Path) -> None:
    rows: list[tuple[str, ...]] = []
    for one in report.splits:
        pixels = (f"{one.pixels:,}", f"{one.void_pixels:,}") if one.pixels else ("-", "-")
        rows.append((one.name, one.completeness, *pixels, *one.cells))
    notes = {one.name: (*one.problems, *one.remarks) for one in report.splits}
    columns = ("split", "pictures", "labelled pixels", "void")
    show_outcomes(f"Splits in {one_line(out_folder)}", *columns, rows=rows, notes=notes)
