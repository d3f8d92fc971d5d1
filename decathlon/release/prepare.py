"""`piggyback decathlon prepare`: check a task's annotations and pictures, pack the decoded pixels.

Sizes are known from the annotations, so every picture has its place in the packed file before the first is
read.  A killed run continues: what is done is noted in ``<out>/<task>/.partial`` after the pixels reached
the disk.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from decathlon.release.annotations import Annotations, check_together, folder_mismatches, is_official, parse_annotations
from decathlon.release.packed import (
    Manifest,
    find_fault,
    index_file,
    pixel_file,
    read_manifest,
    task_folder,
    write_manifest,
)
from decathlon.release.packing import Packing
from decathlon.release.sources import DEVKIT, RawAnnotations, Source
from decathlon.tasks import SPLITS, TASKS, Split, find_task
from piggyback.shell.console import notice, out, print_json, progress_bar, table
from piggyback.shell.errors import BadInput
from piggyback.shell.files import CHUNK, sha256_of, write_bytes

if TYPE_CHECKING:
    from decathlon.options import PrepareOptions

NAMED: Final = 3
"""How many faulty pictures a message names before it only counts."""


@dataclass(frozen=True, kw_only=True)
class TaskReport:
    """What became of one task.

    Attributes:
        task: name.
        classes: categories the annotations declare; 0 where they could not be read.
        counts: pictures by split, as the annotations say.
        official: the task is the official release's, and all of it is there.
        folder_mismatches: classes whose folder number is not the category's place.
        problems: what kept the task from being packed; empty where it was.
        refused: what was left out of the source, such as links in an archive.
        fresh: it was packed by this call and not found finished.
    """

    task: str
    classes: int = 0
    counts: Mapping[str, int]
    official: bool = False
    folder_mismatches: int = 0
    problems: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    fresh: bool = True


@dataclass(frozen=True, kw_only=True)
class PrepareReport:
    """What `prepare` found: one report per task with anything to it, and the names of those without."""

    tasks: tuple[TaskReport, ...]
    absent: tuple[str, ...]

    @property
    def good(self) -> bool:
        """Whether every task found was packed."""
        return not any(report.problems for report in self.tasks)

    def as_json(self) -> dict[str, object]:
        """The report as ``--json`` prints it."""
        tasks = {
            report.task: {
                "classes": report.classes,
                **{split: report.counts.get(split, 0) for split in SPLITS},
                "official": report.official,
                "problems": list(report.problems),
                "refused": list(report.refused),
                "folder_mismatches": report.folder_mismatches,
            }
            for report in self.tasks
        }
        return {"tasks": tasks, "absent": list(self.absent)}


def run(options: "PrepareOptions") -> int:
    """Do what the command line asks; 1 where a task has problems."""
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
        BadInput: `source` is no folder, has nothing of the decathlon, or `out` cannot be written.
        UnknownName: no task is called so.
    """
    names = tuple(find_task(name).name for name in dict.fromkeys(tasks)) if tasks else tuple(TASKS)
    place = Source(source)
    reports: list[TaskReport] = []
    absent: list[str] = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in names:
            report = prepare_task(place, out, name)
            if report is not None:
                reports.append(report)
            elif tasks:
                fault = f"there are neither annotations nor pictures of it in {source}"
                reports.append(TaskReport(task=name, counts={}, problems=(fault,)))
            else:
                absent.append(name)
        copy_test_labels(source, out)
    except OSError as fault:
        raise BadInput(f"cannot prepare {out}: {fault}") from None
    if not reports and any(place.outer_archives(name) for name in names):
        raise BadInput(f"{source} has pictures but no annotations: put {DEVKIT} there too")
    if not reports:
        raise BadInput(
            f"{source} has nothing of the decathlon: expected annotations/<task>_train.json with data/<task>/ or "
            "<task>.tar, or the official archives; `piggyback decathlon fetch` gets those"
        )
    return PrepareReport(tasks=tuple(reports), absent=tuple(absent))


def prepare_task(source: Source, out: Path, task: str) -> TaskReport | None:
    """Check and pack one task; None where the source has nothing of it."""
    try:
        raw = {split: found for split in SPLITS if (found := source.annotations(task, split)) is not None}
    except BadInput as fault:
        return TaskReport(task=task, counts={}, problems=(str(fault),))
    if not raw and not source.trees(task) and not source.inner_tars(task):
        return None
    without = [split for split in SPLITS if split not in raw]
    if without:
        return TaskReport(task=task, counts={}, problems=tuple(f"{split}: no annotation file" for split in without))
    digests = {split: hashlib.sha256(raw[split].data).hexdigest() for split in SPLITS}
    finished = _finished(out, task, digests=digests)
    if finished is not None:
        return finished
    try:
        splits = {split: _parse(raw[split], task=task, split=split) for split in SPLITS}
        check_together(splits)
    except BadInput as fault:
        return TaskReport(task=task, counts={}, problems=(str(fault),))
    return _pack(source, out, splits=splits, digests=digests)


def _parse(raw: RawAnnotations, *, task: str, split: Split) -> Annotations:
    return parse_annotations(raw.data, task=task, split=split, name=raw.name)


def _finished(out: Path, task: str, *, digests: Mapping[Split, str]) -> TaskReport | None:
    """The report of a task that is packed already from these annotations; clears away one that is outdated."""
    folder = task_folder(out, task)
    try:
        manifest = read_manifest(out, task)
        reason = "the source's annotations changed"
    except BadInput as fault:
        manifest, reason = None, str(fault)
    if manifest is None and not (folder / "task.json").exists():
        return None
    if manifest is not None and manifest.annotations == dict(digests):
        classes = len(manifest.category_ids)
        faults = [find_fault(folder, split, count=manifest.counts[split], classes=classes) for split in SPLITS]
        if not any(faults):
            return _report(manifest, fresh=False)
        reason = next(fault for fault in faults if fault)
    notice(f"{task}: {reason}; packing it again")
    (folder / "task.json").unlink()  # first: without it the task is unfinished, whatever else is left
    for stale in [*folder.glob("*.u8"), *folder.glob("*.index.npy")]:
        stale.unlink()
    return None


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
    source: Source, out: Path, *, splits: Mapping[Split, Annotations], digests: Mapping[Split, str]
) -> TaskReport:
    """Read, check and pack all pictures of a task; write its manifest when none is wanting."""
    train = splits["train"]
    task = train.task
    counts: dict[str, int] = {split: len(splits[split]) for split in SPLITS}
    refused: list[str] = []
    with progress_bar() as bar, Packing(task_folder(out, task), splits=splits, digests=digests) as packing:
        shown = bar.add_task(task, total=sum(counts.values()), completed=packing.done)
        for name, data in source.pictures(task, wanted=packing.wanted(), refuse=refused.append):
            packing.add(name, data)
            bar.update(shown, completed=packing.done)
        packing.drain()
        problems = _problems(packing, source=source, splits=splits)
        if not problems:
            packing.finish()
    if problems:
        problems += refused[:NAMED] + _more(refused)
        classes, mismatches = train.classes, folder_mismatches(train)
        return TaskReport(
            task=task, classes=classes, counts=counts, folder_mismatches=mismatches, problems=tuple(problems)
        )
    manifest = Manifest(
        task=task,
        category_ids=tuple(train.category_ids.tolist()),
        category_names=train.category_names,
        counts=counts,
        official=is_official(splits),
        folder_mismatches=folder_mismatches(train),
        fingerprint=fingerprint(task_folder(out, task)),
        annotations={split: digests[split] for split in SPLITS},
        source=", ".join(map(str, source.places(task))),
        refused=tuple(refused[:NAMED] + _more(refused)),
    )
    write_manifest(out, manifest)
    return _report(manifest, fresh=True)


def _problems(packing: Packing, *, source: Source, splits: Mapping[Split, Annotations]) -> list[str]:
    """One line per kind of fault and split: how many pictures, and the first few by name."""
    if packing.done == 0 and not source.places(splits["train"].task):
        return [f"no pictures: neither data/{splits['train'].task}/ nor {splits['train'].task}.tar is there"]
    problems = []
    for split in SPLITS:
        faults = {name: fault for name, fault in packing.faults.items() if fault.split == split}
        missing = [name for name in packing.wanted(split) if name not in faults]
        if missing:
            problems.append(f"{split}: {len(missing)} of {len(splits[split])} pictures missing: {_first(missing)}")
        if faults:
            named = [f"{name} ({fault.text})" for name, fault in faults.items()]
            problems.append(f"{split}: {len(faults)} of {len(splits[split])} pictures unusable: {_first(named)}")
    return problems


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def _more(lines: Sequence[str]) -> list[str]:
    return [f"and {len(lines) - NAMED} more left out"] if len(lines) > NAMED else []


def fingerprint(folder: Path) -> str:
    """Hex sha256 over index and pixels of the three splits, in that order."""
    digest = hashlib.sha256()
    for split in SPLITS:
        digest.update(np.load(index_file(folder, split), allow_pickle=False).tobytes())
        with pixel_file(folder, split).open("rb") as file:
            while piece := file.read(CHUNK):
                digest.update(piece)
    return digest.hexdigest()


def copy_test_labels(source: Path, out: Path) -> None:
    """Bring published test labels along, unread, so that scoring finds them beside the packs."""
    names = ["labels_test.zip", *(f"labels_test/{task}_test.json" for task in TASKS)]
    for name in names:
        origin, target = source / name, out / name
        if not origin.is_file() or origin.is_symlink() or (target.exists() and os.path.samefile(origin, target)):
            continue
        if not target.is_file() or sha256_of(origin) != sha256_of(target):
            write_bytes(target, origin.read_bytes())


def show(report: PrepareReport, *, out_folder: Path) -> None:
    """Print the report for a person."""
    rows: list[tuple[str, ...]] = []
    for one in report.tasks:
        state = "problems" if one.problems else ("packed" if one.fresh else "was packed")
        counts = [f"{one.counts[split]:,}" if split in one.counts else "-" for split in SPLITS]
        rows.append((one.task, str(one.classes or "-"), *counts, "yes" if one.official else "no", state))
    table(f"Decathlon tasks in {out_folder}", "task", "classes", *SPLITS, "official", "state", rows=rows)
    if report.absent:
        out.print(f"not in the source: {', '.join(report.absent)}", markup=False)
    for one in report.tasks:
        for line in one.problems:
            out.print(f"{one.task}: {line}", markup=False)
        for line in one.refused:
            out.print(f"{one.task}: left out: {line}", markup=False)
