"""Answers per picture: which ones a run has right, by its predictions and the store's labels; and intervals."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from leaderboard.boards.board import Answers, Board, Numbers
from leaderboard.statistics.entries import Entry, Value
from leaderboard.statistics.uncertainty import Sample, percentile_interval, resample
from leaderboard.store.folders import TRUTH
from leaderboard.store.predictions import MAX_UNPACKED, read_predictions
from leaderboard.store.reading import StoredResult
from leaderboard.store.truth import Truth, TruthKey, read_truth, truth_name
from piggyback.shell.errors import Fault
from piggyback.shell.files import read_file
from piggyback.shell.strict_json import LARGEST

PREDICTIONS: Final = Answers.file
Right = NDArray[np.bool_]


@dataclass(frozen=True)
class Judge:
    """A reader of one store's labels and predictions, which reads each file of labels once.

    Attributes:
        root: the store.
    """

    root: Path
    _truths: dict[TruthKey, Truth] = field(default_factory=dict)

    def truth(self, board: Board, *, task: str, split: str) -> Truth:
        """Labels of one split of one task.

        Raises:
            Fault: the store has none, or a damaged file.
        """
        key = (board.name, task, split)
        if key not in self._truths:
            if not board.has_task(task) or not board.has_split(split):
                raise Fault("no-truth", f"is of no task and split of {board.name}")
            name = f"{TRUTH}/{truth_name(board, task=task, split=split)}"
            if not (self.root / name).exists():
                raise Fault("no-truth", "is not in the store", file=name)
            try:
                self._truths[key] = read_truth(self.root / name, board=board, task=task, split=split)
            except Fault as fault:
                raise Fault(fault.kind, fault.message, file=name) from None
        return self._truths[key]

    def right(self, one: StoredResult, *, board: Board) -> Right:
        """Whether each picture of a result's split was given its own category, in the order of the truth's ids.

        Args:
            one: the result.
            board: of its benchmark, with answers picture by picture.

        Raises:
            Fault: there is no truth, or the predictions are missing, damaged, not those of the record, or do not
                agree with its counts.
        """
        result, answered = one.result, board.evidence
        if not isinstance(answered, Answers):
            raise Fault("no-predictions", f"is of {board.name}, which keeps no answer for each picture")
        if result.split != answered.split:
            raise Fault("no-predictions", f"is of {result.split}, and predictions are of {answered.split} alone")
        truth = self.truth(board, task=result.task, split=result.split)
        try:
            data = read_file(one.folder / PREDICTIONS, limit=MAX_UNPACKED, follow=False)
            if result.fingerprints is None or hashlib.sha256(data).hexdigest() != result.fingerprints.predictions:
                raise Fault("changed-predictions", "is not the file that the record names by its digest")
            predictions = read_predictions(data)
        except Fault as fault:
            raise Fault(fault.kind, fault.message, file=PREDICTIONS) from None
        ids, first = np.unique(predictions.image_ids, return_index=True)
        places = np.minimum(np.searchsorted(ids, truth.ids), len(ids) - 1)
        if predictions.task != result.task or not np.array_equal(ids[places], truth.ids):
            raise Fault("missing-predictions", "does not answer every picture of the truth", file=PREDICTIONS)
        right: Right = predictions.category_ids[first[places]] == truth.labels
        if result.counts is None or (result.counts.n, result.counts.correct) != (len(right), int(right.sum())):
            raise Fault("bad-counts", "does not give the record's counts", file=PREDICTIONS)
        return right


def runs_of(entry: Entry, task: str) -> list[StoredResult]:
    """The results behind an entry's number for a task, in the order of their seeds."""
    places = entry.values[task].results
    found = {one.place: one for one in entry.stored}
    return [found[place] for place in places]


def has_answers(entry: Entry, name: str) -> bool:
    """Whether one of an entry's numbers is a share of pictures that were judged one by one."""
    board = entry.board
    return isinstance(board.evidence, Answers) and (board.across == "tasks" or name == board.main.name)


def sample_of(judge: Judge, runs: Sequence[StoredResult], *, board: Board) -> Sample:
    """The pictures of one task, by how some runs answered them.

    A single run needs its counts alone; of several it matters which pictures they have right together.

    Raises:
        Fault: it is unknown which pictures they have right.
    """
    if len(runs) == 1 and (counts := runs[0].result.counts) is not None:
        if counts.n > LARGEST:
            raise Fault("huge-number", f"has {counts.n} pictures, which cannot be")
        return Sample.of_counts(counts.n, counts.correct)
    return Sample.of(np.stack([judge.right(one, board=board) for one in runs], axis=1))


def with_intervals(entries: Iterable[Entry]) -> list[Entry]:
    """Measured entries with 95 % intervals by bootstrap over pictures, if pictures are judged one by one."""
    judges: dict[Path, Judge] = {}
    found = []
    for entry in entries:
        if not isinstance(entry.board.evidence, Answers) or entry.evidence != "measured" or not entry.stored:
            found.append(entry)
            continue
        root = entry.stored[0].root
        found.append(_with_intervals(entry, judges.setdefault(root, Judge(root))))
    return found


def _with_intervals(entry: Entry, judge: Judge) -> Entry:
    rule, samples = entry.board.total, dict[str, Sample]()
    judged = [name for name in entry.values if has_answers(entry, name)]
    for name in judged:
        try:
            samples[name] = sample_of(judge, runs_of(entry, name), board=entry.board)
        except Fault:  # no labels, no predictions: no interval for this number, and none for the total
            continue
    if not samples:
        return entry
    drawn = resample(samples)
    values = _bounded(entry.values, drawn.accuracies)
    points = {} if rule is None else {task: rule.points(task, 1.0 - one) for task, one in drawn.accuracies.items()}
    entry = replace(entry, values=values, points=_bounded(entry.points, points))
    if entry.total is None or entry.mean is None or len(samples) < len(judged):
        return entry
    totals = drawn.means if rule is None else drawn.totals(rule)
    return replace(
        entry,
        total=replace(entry.total, interval=percentile_interval(totals)),
        mean=replace(entry.mean, interval=percentile_interval(drawn.means)),
    )


def _bounded(values: Mapping[str, Value], drawn: Mapping[str, Numbers]) -> dict[str, Value]:
    return {
        name: replace(value, interval=percentile_interval(drawn[name]) if name in drawn else None)
        for name, value in values.items()
    }
