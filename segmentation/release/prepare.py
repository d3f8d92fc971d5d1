"""`piggyback segmentation prepare`: check pictures and label maps of a split, pack them decoded.

The sizes are read first, so every picture has its place in the packed files before any is decoded.  A split
with a fault in any file is not packed, and nothing of it stays.  A killed run continues.
"""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from piggyback.shell.console import notice, out, print_json, progress_bar, table
from piggyback.shell.errors import BadInput, one_line, refusal
from piggyback.shell.files import CHUNK
from piggyback.shell.lock import LOCK, hold
from segmentation.release.packed import (
    Manifest,
    find_fault,
    index_file,
    label_file,
    manifest_file,
    picture_file,
    read_manifest,
    split_folder,
    write_manifest,
)
from segmentation.release.packing import Packing, Plan, Size, continues, kinds, measure, measured, partial_folder
from segmentation.release.sources import IdList, Key, Kind, Source, expected, file_name
from segmentation.release.splits import Split, complete_text, find_split, published_ids
from segmentation.voc import CLASSES, VOID

if TYPE_CHECKING:
    from segmentation.options import PrepareOptions

NAMED: Final = 3
"""How many faulty files a message names before it only counts."""

GOLDEN: Final[Mapping[str, tuple[tuple[int, ...], int]]] = {
    "seg11valid": (
        (
            *(90730503, 909327, 332697, 1120958, 566747, 1165929, 1791924, 1592013, 2942851, 1506794, 1593248),
            *(1911304, 2308630, 1027153, 1393724, 6682736, 713781, 1043603, 2096985, 2125967, 982492),
        ),
        7051801,
    ),
}
"""Pixels per class and void pixels of the released label maps, counted over all 736 of them."""

_WORDS: Final[dict[Kind, str]] = {"picture": "pictures", "labels": "label maps"}


@dataclass(frozen=True, kw_only=True)
class SplitReport:
    """What became of one split.

    Attributes:
        name: of the split.
        pictures: how many its list has.
        published: how many the published list has.
        completeness: how much of that this is: "736", or "100 of 736".
        official: the ids are those of the published list, and nothing contradicts it.
        labelled: label maps belong to it.
        listed_in: where the ids are from; empty where no list could be read.
        class_pixels: pixels of class 0..20; empty where it was not packed or is not labelled.
        void_pixels: pixels that are not scored.
        problems: what kept it from being packed; empty where it was.
        remarks: what a reader of results should know.
        fresh: it was packed by this call and not found finished.
    """

    name: str
    pictures: int
    published: int
    completeness: str
    official: bool = False
    labelled: bool = True
    listed_in: str = ""
    class_pixels: tuple[int, ...] = ()
    void_pixels: int = 0
    problems: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    fresh: bool = True

    @property
    def pixels(self) -> int:
        """Labelled pixels, void ones included."""
        return sum(self.class_pixels) + self.void_pixels

    def as_json(self) -> dict[str, object]:
        """The report as ``--json`` prints it."""
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
    """What `prepare` found: one report per split that was asked for."""

    splits: tuple[SplitReport, ...]

    @property
    def good(self) -> bool:
        """Whether every split was packed."""
        return not any(report.problems for report in self.splits)

    def as_json(self) -> dict[str, object]:
        """The report as ``--json`` prints it."""
        return {"splits": {report.name: report.as_json() for report in self.splits}}


def run(options: "PrepareOptions") -> int:
    """Do what the command line asks; 1 where a split has problems."""
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
        BadInput: `source` is no folder, has nothing of VOC or SBD, or `out` cannot be written.
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
            f"{one_line(source)} has nothing of {names}: expected {needs}; `piggyback segmentation fetch` gets them"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        return PrepareReport(splits=tuple(prepare_split(place, out, split) for split in asked))
    except OSError as fault:
        raise BadInput(f"cannot prepare {one_line(out)}: {refusal(fault)}") from None


def prepare_split(source: Source, out: Path, split: Split) -> SplitReport:
    """Check and pack one split."""
    missing = [one for one in split.origins if one not in {place.origin for place in source.places(split)}]
    if missing:
        needs = f"{' and '.join(missing).upper()} not found in {one_line(source.folder)}: expected {expected(split)}"
        return _failed(split, None, problems=(needs,))
    try:
        listed = source.ids(split)
    except BadInput as fault:
        return _failed(split, None, problems=(str(fault),))
    folder = split_folder(out, split.name)
    folder.mkdir(exist_ok=True)
    try:
        with hold(folder, work="packing into"):
            finished = _finished(out, split, listed=listed)
            return finished if finished is not None else _pack(source, folder, split=split, listed=listed)
    finally:
        if {path.name for path in folder.iterdir()} <= {LOCK}:
            shutil.rmtree(folder)


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


def _finished(out: Path, split: Split, *, listed: IdList) -> SplitReport | None:
    """The report of a split that is packed already with these ids; clears away one that is outdated."""
    folder = split_folder(out, split.name)
    try:
        manifest = read_manifest(out, split.name)
        reason: str | None = f"{listed.name} does not list what was packed"
    except BadInput as fault:
        manifest, reason = None, str(fault)
    if manifest is None and not manifest_file(folder).exists():
        return None
    if manifest is not None and manifest.ids == listed.ids:
        reason = find_fault(folder, manifest)
        if reason is None:
            return _report(manifest, fresh=False)
    notice(f"{split.name}: {reason}; packing it again")
    manifest_file(folder).unlink()  # first: without it the split is unfinished, whatever else is left
    for stale in (picture_file(folder), label_file(folder), index_file(folder)):
        stale.unlink(missing_ok=True)
    return None


def _pack(source: Source, folder: Path, *, split: Split, listed: IdList) -> SplitReport:
    """Read, check and pack all files of a split; write its manifest when none is wanting."""
    refused: list[str] = []
    faults: dict[Key, str] = {}
    sizes = _sizes(source, folder, split=split, ids=listed.ids, faults=faults, refused=refused)
    plan = Plan(folder=folder, ids=listed.ids, labelled=split.labelled, sizes=sizes)
    with progress_bar() as bar, Packing(plan) as packing:
        shown = bar.add_task(split.name, total=len(listed.ids) * len(kinds(labelled=split.labelled)))
        wanted = [key for key in packing.wanted() if key[0] != "picture" or key[1] in sizes]
        missing = dict.fromkeys(wanted)
        for found in source.files(split, wanted=wanted, refuse=refused.append):
            del missing[found.key]
            packing.add(found)
            bar.update(shown, completed=packing.done)
        packing.drain()
    unmeasured: list[Key] = [("picture", one) for one in listed.ids if one not in sizes]
    missing |= dict.fromkeys(key for key in unmeasured if key not in faults)
    searched = ", ".join(one_line(place.path) for place in source.places(split))
    problems = _problems(split, listed=listed, missing=list(missing), faults=faults | packing.faults, searched=searched)
    if problems:
        shutil.rmtree(partial_folder(folder))
        left_out = list(dict.fromkeys(refused))  # both passes may tell of the same
        return _failed(split, listed, problems=(*problems, *left_out[:NAMED], *_more(left_out)))
    manifest = _finish(source, folder, split=split, listed=listed)
    return _report(manifest, fresh=True)


def _sizes(
    source: Source, folder: Path, *, split: Split, ids: tuple[str, ...], faults: dict[Key, str], refused: list[str]
) -> dict[str, Size]:
    """Height and width of every picture; one that is missing or damaged is left out."""
    state = {"ids": list(ids), "labelled": split.labelled}
    sizes = measured(folder, ids=ids) if continues(folder, state=state) else {}
    if sizes:
        return sizes
    wanted: list[Key] = [("picture", one) for one in ids]
    pictures = source.files(split, wanted=wanted, refuse=refused.append)
    with progress_bar() as bar:
        return dict(bar.track(measure(pictures, faults=faults), total=len(ids), description=f"{split.name}, sizes"))


def _problems(
    split: Split, *, listed: IdList, missing: list[Key], faults: Mapping[Key, str], searched: str
) -> list[str]:
    """One line per kind of fault: how many files, and the first few by name."""
    problems, count = [], len(listed.ids)
    for kind in kinds(labelled=split.labelled):
        absent = [file_name(split, key) for key in missing if key[0] == kind]
        faulty = [text for key, text in faults.items() if key[0] == kind]
        if absent:
            which = f"{len(absent)} of the {count} {_WORDS[kind]} listed in {listed.name} are missing"
            problems.append(f"{which} in {searched}: {_first(absent, joint=', ')}")
        if faulty:
            problems.append(f"{len(faulty)} of the {count} {_WORDS[kind]} are unusable: {_first(faulty, joint='; ')}")
    return problems


def _first(texts: Sequence[str], *, joint: str) -> str:
    more = len(texts) - NAMED
    return joint.join(texts[:NAMED]) + (f"{joint}and {more} more" if more > 0 else "")


def _more(lines: Sequence[str]) -> tuple[str, ...]:
    return (f"and {len(lines) - NAMED} more left out",) if len(lines) > NAMED else ()


def _finish(source: Source, folder: Path, *, split: Split, listed: IdList) -> Manifest:
    """Count and digest what was packed, move it to its final place, write the manifest."""
    partial = partial_folder(folder)
    digest = hashlib.sha256("\n".join(listed.ids).encode())
    index = np.load(index_file(partial), allow_pickle=False)
    digest.update(index.tobytes())
    _read_through(picture_file(partial), digest=digest)
    counts = np.zeros(256, dtype=np.int64)
    if split.labelled:
        counts = _read_through(label_file(partial), digest=digest)
    class_pixels = tuple(counts[: len(CLASSES)].tolist()) if split.labelled else ()
    void_pixels = int(counts[VOID])
    remarks = find_remarks(split, ids=listed.ids, class_pixels=class_pixels, void_pixels=void_pixels)
    for kind_file in (picture_file, label_file, index_file) if split.labelled else (picture_file, index_file):
        kind_file(partial).replace(kind_file(folder))
    shutil.rmtree(partial)
    manifest = Manifest(
        name=split.name,
        ids=listed.ids,
        published=split.count,
        official=not remarks,
        labelled=split.labelled,
        fingerprint=digest.hexdigest(),
        class_pixels=class_pixels,
        void_pixels=void_pixels,
        listed_in=listed.name,
        sources=tuple(str(place.path) for place in source.places(split)),
        remarks=remarks,
    )
    write_manifest(folder, manifest)
    return manifest


def _read_through(path: Path, *, digest: "hashlib._Hash") -> NDArray[np.int64]:
    """Digest a file; gives back how often each value of a byte occurs, int64 (256)."""
    counts = np.zeros(256, dtype=np.int64)
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
            counts += np.bincount(np.frombuffer(piece, dtype=np.uint8), minlength=256)
    return counts


def find_remarks(
    split: Split, *, ids: Sequence[str], class_pixels: tuple[int, ...], void_pixels: int
) -> tuple[str, ...]:
    """Why a packed split is not the published one, in words; nothing where it is.

    Args:
        split: which.
        ids: of its pictures.
        class_pixels: pixels of each class.
        void_pixels: pixels that are not scored.
    """
    if set(ids) != set(published_ids(split)):
        return (f"{complete_text(ids, name=split.name, published=split.count)}: numbers on it compare with no others",)
    if split.name not in GOLDEN or GOLDEN[split.name] == (class_pixels, void_pixels):
        return ()
    classes, void = GOLDEN[split.name]
    packed = (*class_pixels, void_pixels)
    differ = [
        f"{name} {found:,} instead of {released:,}"
        for name, found, released in zip((*CLASSES, "void"), packed, (*classes, void), strict=True)
        if found != released
    ]
    return (f"the label maps are not the released ones: pixels of {_first(differ, joint='; ')}",)


def show(report: PrepareReport, *, out_folder: Path) -> None:
    """Print the report for a person."""
    rows: list[tuple[str, ...]] = []
    for one in report.splits:
        state = "problems" if one.problems else ("packed" if one.fresh else "was packed")
        pixels = (f"{one.pixels:,}", f"{one.void_pixels:,}") if one.pixels else ("-", "-")
        rows.append((one.name, one.completeness, *pixels, "yes" if one.official else "no", state))
    title = f"Splits in {one_line(out_folder)}"
    table(title, "split", "pictures", "labelled pixels", "void", "official", "state", rows=rows)
    for one in report.splits:
        for line in (*one.problems, *one.remarks):
            out.print(f"{one.name}: {line}", markup=False, soft_wrap=True)
