"""`piggyback decathlon prepare`: check a task's annotations and pictures, pack the decoded pixels.

Sizes are known from the annotations, so every picture has its place in the packed file before the first is read.  A
killed run continues, and so does one that found pictures missing, when they are there.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from decathlon.release.annotations import Annotations, check_together, folder_mismatches, is_official, parse_annotations
from decathlon.release.packed import PACKS, Manifest, read_manifest, write_manifest
from decathlon.release.sources import DEVKIT, RawAnnotations, Source
from decathlon.tasks import SPLITS, TASKS, Split, find_task
from piggyback.data.labelled import (
    CHANNELS,
    build_index,
    index_file,
    open_labelled_index,
    pixel_file,
)
from piggyback.data.packed import count_pixels, fingerprint
from piggyback.data.packing import Decode, Packing, PlannedFile
from piggyback.data.pictures import CONVERTED, decode_rgb, open_picture
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
from piggyback.shell.files import sha256_of, write_bytes

if TYPE_CHECKING:
    from decathlon.options import PrepareOptions


@dataclass(frozen=True, kw_only=True)
class TaskReport(Outcome):
    """The outcome for one task.

    Attributes:
        classes: categories the annotations declare; 0 where they could not be read.
        counts: pictures by split, as the annotations say.
        folder_mismatches: classes whose folder number is not the category's place.
        refused: files of the source that were left out, such as links in an archive.
    """

    task: str
    classes: int = 0
    counts: Mapping[str, int]
    folder_mismatches: int = 0
    refused: tuple[str, ...] = ()

    def as_json(self) -> dict[str, object]:
        return {
            "classes": self.classes,
            **{split: self.counts.get(split, 0) for split in SPLITS},
            "official": self.official,
            "problems": list(self.problems),
            "refused": list(self.refused),
            "folder_mismatches": self.folder_mismatches,
        }


@dataclass(frozen=True, kw_only=True)
class PrepareReport:
    """Outcomes of `prepare`: one per task that the source has a part of, and the names of the other tasks."""

    tasks: tuple[TaskReport, ...]
    absent: tuple[str, ...]

    @property
    def good(self) -> bool:
        """Whether every task found was packed."""
        return not any(report.problems for report in self.tasks)

    def as_json(self) -> dict[str, object]:
        return {"tasks": {report.task: report.as_json() for report in self.tasks}, "absent": list(self.absent)}


def run(options: "PrepareOptions") -> int:
    """Prepare and print the outcome; return 1 where a task has problems."""
    report = prepare(options.source, options.out, tasks=options.tasks or None)
    if options.json:
        print_json(report.as_json())
    else:
        show(report, out_folder=options.out)
    return 0 if report.good else 1


def prepare(source: Path, out: Path, *, tasks: Sequence[str] | None = None) -> PrepareReport:
    """Check and pack every task found in a folder; what is packed already costs next to nothing.

    Args:
        source: folder with the release in any form of `decathlon.release.sources`.
        out: folder for the packed tasks, made where it is missing.
        tasks: only these; one that is asked for and not there is a problem.

    Raises:
        BadInput: `source` is no folder, holds no part of the decathlon, or `out` cannot be written.
        UnknownName: no task is called so.
    """
    names = tuple(find_task(name).name for name in dict.fromkeys(tasks)) if tasks else tuple(TASKS)
    place = Source(source)
    reports: list[TaskReport] = []
    absent: list[str] = []
    with packing_below(out):
        for name in names:
            report = prepare_task(place, out, name)
            if report is not None:
                reports.append(report)
            elif tasks:
                reports.append(_failed(name, f"there are neither annotations nor pictures of it in {one_line(source)}"))
            else:
                absent.append(name)
        copy_test_labels(source, out)
    if not reports and any(place.outer_archives(name) for name in names):
        raise BadInput(f"{one_line(source)} has pictures but no annotations: put {DEVKIT} there too")
    if not reports:
        raise BadInput(
            f"{one_line(source)} holds no part of the decathlon: expected annotations/<task>_train.json with "
            "data/<task>/ or <task>.tar, or the official archives; `piggyback decathlon fetch` gets those"
        )
    return PrepareReport(tasks=tuple(reports), absent=tuple(absent))


def prepare_task(source: Source, out: Path, task: str) -> TaskReport | None:
    """Check and pack one task; None where the source holds no part of it."""
    try:
        raw = {split: found for split in SPLITS if (found := source.annotations(task, split)) is not None}
    except BadInput as fault:
        return _failed(task, str(fault))
    if not raw and not source.trees(task) and not source.inner_tars(task):
        return None
    without = [split for split in SPLITS if split not in raw]
    if without:
        return _failed(task, *(f"{split}: no annotation file" for split in without))
    digests = {split: hashlib.sha256(raw[split].data).hexdigest() for split in SPLITS}
    folder = out / task
    return pack_unless_finished(
        folder,
        manifest=PACKS.manifest_file(out, task),
        finished=partial(_finished, out, task, digests=digests),
        pack=partial(_pack, source, out, task, raw=raw, digests=digests),
        stale=lambda: [*folder.glob("*.u8"), *folder.glob("*.index.npy")],
    )


def _failed(task: str, *problems: str) -> TaskReport:
    return TaskReport(task=task, counts={}, problems=problems)


def _finished(out: Path, task: str, *, digests: Mapping[Split, str]) -> TaskReport:
    """The report of a task that is packed already from these annotations.

    Raises:
        BadInput: it is damaged, or packed from others.
    """
    manifest = read_manifest(out, task)
    if manifest is None or manifest.annotations != dict(digests):
        raise BadInput("the source's annotations changed")
    for split in SPLITS:
        open_labelled_index(out / task, split, count=manifest.counts[split], classes=len(manifest.category_ids))
    return _report(manifest, fresh=False)


def _report(manifest: Manifest, *, fresh: bool) -> TaskReport:
    return TaskReport(
        task=manifest.task,
        classes=len(manifest.category_ids),
        counts=manifest.counts,
        official=manifest.official,
        folder_mismatches=manifest.folder_mismatches,
        refused=manifest.refused,
        fresh=fresh,
    )


def _pack(
    source: Source, out: Path, task: str, *, raw: Mapping[Split, RawAnnotations], digests: Mapping[Split, str]
) -> TaskReport:
    """Read, check and pack all pictures of a task; write its manifest when none is missing."""
    try:
        splits = {
            split: parse_annotations(one.data, task=task, split=split, name=one.name) for split, one in raw.items()
        }
        check_together(splits)
    except BadInput as fault:
        return _failed(task, str(fault))
    indices = {split: _build_index(splits[split]) for split in SPLITS}
    folder, train, refused = out / task, splits["train"], list[str]()
    files = {
        split: PlannedFile(pixel_file(folder, split).name, count_pixels(indices[split]) * CHANNELS) for split in SPLITS
    }
    with Packing(folder, files=files, state={"annotations": dict(digests)}) as packing:
        packing.fill(_read(source, splits=splits, wanted=packing.wanted(), refused=refused), title=task)
        problems = _problems(packing, source=source, splits=splits, raw=raw)
        counts: dict[str, int] = {split: len(splits[split]) for split in SPLITS}
        mismatches = folder_mismatches(train)
        if problems:
            return TaskReport(
                task=task,
                classes=train.classes,
                counts=counts,
                folder_mismatches=mismatches,
                problems=(*problems, *keep_first(refused)),
            )
        manifest = Manifest(
            task=task,
            category_ids=tuple(train.category_ids.tolist()),
            category_names=train.category_names,
            counts=counts,
            official=is_official(splits),
            folder_mismatches=mismatches,
            fingerprint=_fingerprint(packing, indices=indices),
            annotations={split: digests[split] for split in SPLITS},
            source=", ".join(map(str, source.places(task))),
            refused=keep_first(refused),
        )
        packing.finish({index_file(folder, split).name: indices[split] for split in SPLITS})
    write_manifest(out, manifest)
    return _report(manifest, fresh=True)


def _build_index(annotations: Annotations) -> NDArray[np.void]:
    return build_index(
        image_ids=annotations.image_ids,
        labels=annotations.labels,
        heights=annotations.heights,
        widths=annotations.widths,
    )


def _read(
    source: Source, *, splits: Mapping[Split, Annotations], wanted: Sequence[tuple[Split, int]], refused: list[str]
) -> Iterator[tuple[tuple[Split, int], Decode]]:
    """Those of the wanted pictures that the source has."""
    named = {splits[split].file_names[place]: (split, place) for split, place in wanted}
    for name, data in source.pictures(splits["train"].task, wanted=named, refuse=refused.append):
        split, place = named[name]
        size = int(splits[split].heights[place]), int(splits[split].widths[place])
        yield (split, place), partial(decode, data, name=name, size=size)


def decode(data: bytes, *, name: str, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A picture's pixels, uint8 (height, width, 3), RGB.

    Args:
        data: the file's bytes, not trusted.
        name: of the file, for messages.
        size: height and width by the annotations; compared before anything is decoded.

    Raises:
        BadInput: the picture is damaged or has another size.
    """
    with open_picture(data, name=name, modes=CONVERTED) as picture:
        if (picture.height, picture.width) != size:
            found = f"{name} is {picture.width} x {picture.height}"
            raise BadInput(f"{found}, but the annotations say {size[1]} x {size[0]}")
        return decode_rgb(picture)


def _problems(
    packing: Packing[Split],
    *,
    source: Source,
    splits: Mapping[Split, Annotations],
    raw: Mapping[Split, RawAnnotations],
) -> list[str]:
    """One line per kind of fault and split: how many pictures, and the first few by name."""
    task, missing = splits["train"].task, packing.wanted()
    places = ", ".join(map(one_line, source.places(task)))
    if not packing.done and not places:
        return [f"no pictures: neither data/{task}/ nor {task}.tar is there"]
    problems = []
    for split in SPLITS:
        problems += find_problems(
            f"pictures of {split}",
            count=len(splits[split]),
            missing=[splits[split].file_names[place] for one, place in missing if one == split],
            faulty=[text for (one, _), text in packing.faults.items() if one == split],
            listed=one_line(raw[split].name),
            searched=places or one_line(source.folder),
        )
    return problems


def _fingerprint(packing: Packing[Split], *, indices: Mapping[Split, NDArray[np.void]]) -> str:
    """Hex sha256 over index and pixels of the three splits, in that order."""
    return fingerprint(part for split in SPLITS for part in (indices[split].tobytes(), packing.path(split)))


def copy_test_labels(source: Path, out: Path) -> None:
    """Copy published test labels, unread, so that scoring finds them beside the packs.

    Raises:
        BadInput: their folder in `out` is a link: they would be written elsewhere.
    """
    names = ["labels_test.zip", *(f"labels_test/{task}_test.json" for task in TASKS)]
    for name in names:
        origin, target = source / name, out / name
        if not origin.is_file() or origin.is_symlink() or (target.exists() and os.path.samefile(origin, target)):
            continue
        if target.parent.is_symlink():
            raise BadInput(f"{one_line(target.parent)} is a link, and labels would be written elsewhere: remove it")
        if not target.is_file() or sha256_of(origin) != sha256_of(target):
            write_bytes(target, origin.read_bytes())


def show(report: PrepareReport, *, out_folder: Path) -> None:
    rows: list[tuple[str, ...]] = []
    notes: dict[str, Sequence[str]] = {}
    for one in report.tasks:
        counts = [f"{one.counts[split]:,}" if split in one.counts else "-" for split in SPLITS]
        rows.append((one.task, str(one.classes or "-"), *counts, *one.cells))
        notes[one.task] = (*one.problems, *(f"left out: {line}" for line in one.refused))
    if report.absent:
        notes["not in the source"] = [", ".join(report.absent)]
    show_outcomes(f"Decathlon tasks in {one_line(out_folder)}", "task", "classes", *SPLITS, rows=rows, notes=notes)
