"""From a results file and the test labels to accuracies, points and the decathlon score."""

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from decathlon.challenge.points import decathlon_score
from decathlon.release.labels import MAX_BYTES, MAX_VALUES, Labels, read_labels, read_member, task_of, zip_members
from decathlon.tasks import TASKS
from piggyback.shell import console
from piggyback.shell.errors import BadInput
from piggyback.shell.files import read_file
from piggyback.shell.strict_json import parse_json

if TYPE_CHECKING:
    from decathlon.options import ScoreOptions

MEMBER: Final = "results.json"
NOT_OFFICIAL: Final = "not a decathlon score: the baseline errors are the official tasks'"
_KEYS: Final = {"image_id", "category_id"}


@dataclass(frozen=True, kw_only=True)
class TaskScore:
    """How one task's predictions did: pictures, right ones, fractions in [0, 1], points in [0, 1000]."""

    n: int
    correct: int
    accuracy: float
    error: float
    points: float


@dataclass(frozen=True, kw_only=True)
class ScoreReport:
    """Scores of a results file.

    Attributes:
        score: sum of the points, in [0, 10000]; None unless all ten tasks are there.
        mean_accuracy: fraction in [0, 1]; None unless all ten tasks are there.
        tasks: those with entries, by name.
        complete: whether all ten tasks are there.
        official: whether the labels are the organisers'.
    """

    score: float | None
    mean_accuracy: float | None
    tasks: Mapping[str, TaskScore]
    complete: bool
    official: bool

    @property
    def notes(self) -> tuple[str, ...]:
        """Limits of the numbers that a reader must know; empty for a complete official score."""
        missing = ", ".join(name for name in TASKS if name not in self.tasks)
        return (
            *(() if self.official else (NOT_OFFICIAL,)),
            *(() if self.complete else (f"no score: there are no entries for {missing}",)),
        )

    def as_json(self) -> dict[str, object]:
        """The report for ``--json``; it has a key ``note`` only where there are notes."""
        report: dict[str, object] = {
            "score": self.score,
            "mean_accuracy": self.mean_accuracy,
            "tasks": {name: vars(task) for name, task in self.tasks.items()},
            "complete": self.complete,
            "official": self.official,
        }
        return {**report, "note": "; ".join(self.notes)} if self.notes else report


def score_file(path: Path, *, labels: Labels) -> ScoreReport:
    """Score a ``results.json``, or a zip that holds it, by the challenge's rule.

    A task without any entry is left out; a task with some entries must have one for every picture.

    Raises:
        BadInput: the file is unreadable, no results file, or an entry is not a valid prediction; the message
            names the first fault.
    """
    predicted = match_entries(read_entries(path), labels=labels, name=str(path))
    counts: dict[str, tuple[int, int]] = {}
    for name, entries in predicted.items():
        truth = labels.tasks[name].labels
        absent = sorted(truth.keys() - entries.keys())
        if absent:
            raise BadInput(
                f"{path} lacks {len(absent)} of the {len(truth)} pictures of {name}, first {absent[0]}; "
                "give all pictures of a task, or none"
            )
        counts[name] = len(truth), sum(truth[image] == category for image, category in entries.items())
    earned = decathlon_score({name: (n - correct) / n for name, (n, correct) in counts.items()})
    tasks = {
        name: TaskScore(n=n, correct=correct, accuracy=correct / n, error=(n - correct) / n, points=earned.points[name])
        for name, (n, correct) in counts.items()
    }
    return ScoreReport(
        score=earned.score,
        mean_accuracy=earned.mean_accuracy,
        tasks=MappingProxyType(tasks),
        complete=len(tasks) == len(TASKS),
        official=labels.official,
    )


def read_entries(path: Path) -> list[tuple[int, int]]:
    """The (image id, category id) pairs of an untrusted results file, in its order.

    Raises:
        BadInput: it is no list of ``{"image_id": int, "category_id": int}``, or no zip of exactly one such list.
    """
    data, name = read_file(path, limit=MAX_BYTES), str(path)
    if data.startswith(b"PK"):  # no JSON text starts so
        members = zip_members(data, name=name)
        if [member.filename for member in members] != [MEMBER]:
            found = ", ".join(repr(member.filename[:80]) for member in members[:3]) or "nothing"
            more = f" and {len(members) - 3} more" if len(members) > 3 else ""
            raise BadInput(f"{name} must hold exactly one file, {MEMBER}, in no folder; it holds {found}{more}")
        data, name = read_member(data, members[0], name=name), f"{MEMBER} in {name}"
    document = parse_json(data, name=name, values=MAX_VALUES)
    if not isinstance(document, list) or not document:
        what = "an empty list" if document == [] else f"a JSON {_kind(document)}"
        raise BadInput(f"{name} must be a list of entries with image_id and category_id; it is {what}")
    return [_entry(entry, place=f"{name}: entry {number}") for number, entry in enumerate(document, start=1)]


def match_entries(entries: list[tuple[int, int]], *, labels: Labels, name: str) -> dict[str, dict[int, int]]:
    """Sort entries by task: category id by image id, for the tasks that have entries.

    Args:
        entries: (image id, category id), not trusted.
        labels: they say which pictures and categories there are.
        name: of the file, for messages.

    Raises:
        BadInput: a picture is there twice or is unknown, or a category is not one of the picture's task.
    """
    task_by_image = {image: task for task in labels.tasks.values() for image in task.labels}
    found: dict[str, dict[int, int]] = {task: {} for task in labels.tasks}
    unlabelled: set[str] = set()
    for number, (image, category) in enumerate(entries, start=1):
        place = f"{name}: entry {number}"
        task = task_by_image.get(image)
        if task is None:
            owner = task_of(image)
            if owner is not None and owner.name not in labels.tasks:
                unlabelled.add(owner.name)
                continue
            where = f"the test part of {owner.name}" if owner else "any task"
            raise BadInput(f"{place} has the unknown image id {reprlib.repr(image)}; no picture of {where} has it")
        if image in found[task.task]:
            raise BadInput(f"{place} has image id {image}, which an earlier entry has too; give each only once")
        if category not in task.category_ids:
            owner = task_of(category)
            what = f"of {owner.name}" if owner and owner.name != task.task else "that is not in the labels"
            raise BadInput(
                f"{place}: image {image} is of {task.task}, but category {reprlib.repr(category)} is one {what}"
            )
        found[task.task][image] = category
    if unlabelled:
        which = ", ".join(sorted(unlabelled))
        raise BadInput(f"{name} has entries for {which}, but {labels.source} holds no labels of these")
    return {task: pairs for task, pairs in found.items() if pairs}


def run(options: "ScoreOptions") -> int:
    report = score_file(options.file, labels=read_labels(options.labels))
    if options.json:
        console.print_json(report.as_json())
    else:
        show(report)
    return 0


def show(report: ScoreReport) -> None:
    rows: list[tuple[str, ...]] = [
        (name, f"{task.n:,}", f"{100 * task.accuracy:.2f}", f"{100 * task.error:.2f}", f"{task.points:.1f}")
        for name, task in report.tasks.items()
    ]
    console.table("Visual Decathlon", "task", "pictures", "accuracy %", "error %", "points", rows=rows)
    if report.score is not None and report.mean_accuracy is not None:
        what = "score" if report.official else "sum of points"
        line = f"{what} {report.score:.1f} of 10000, mean accuracy {100 * report.mean_accuracy:.2f} %"
        console.out.print(line, markup=False, soft_wrap=True)
    for note in report.notes:
        console.out.print(note, markup=False, soft_wrap=True)


def _entry(entry: object, *, place: str) -> tuple[int, int]:
    if not isinstance(entry, dict) or entry.keys() != _KEYS:
        found = (
            f"one with the keys {reprlib.repr(sorted(entry))}" if isinstance(entry, dict) else f"a JSON {_kind(entry)}"
        )
        raise BadInput(f"{place} must be an object with exactly image_id and category_id, not {found}")
    for key, value in entry.items():
        if type(value) is not int:  # a boolean is an int to Python, but not an id
            raise BadInput(f"{place}: {key} must be a whole number, not the {_kind(value)} {reprlib.repr(value)}")
    return entry["image_id"], entry["category_id"]


def _kind(value: object) -> str:
    """JSON's word for a value's type."""
    words = {bool: "boolean", int: "number", float: "fraction", str: "string", list: "list", dict: "object"}
    return words.get(type(value), "null")
