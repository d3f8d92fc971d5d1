"""Which pictures a run has right, from its predictions and the store's truth; and intervals from that."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from leaderboard.boards.tasks import DECATHLON, DECATHLON_SPLITS, PREDICTED
from leaderboard.faults import Fault
from leaderboard.files import read_file
from leaderboard.statistics.entries import Entry, Value
from leaderboard.statistics.uncertainty import Sample, percentile_interval, points, resample
from leaderboard.store.rescoring import MAX_UNPACKED, read_predictions
from leaderboard.store.store import StoredResult
from leaderboard.store.truth import Truth, read_truth
from leaderboard.strict_json import LARGEST

PREDICTIONS: Final = "predictions.npz"
Right = NDArray[np.bool_]


@dataclass(frozen=True)
class Judge:
    """Reads truth and predictions of one store, each truth once.

    Attributes:
        root: the store.
    """

    root: Path
    _truths: dict[tuple[str, str], Truth] = field(default_factory=dict)

    def truth(self, task: str, split: str) -> Truth:
        """Labels of one split of a decathlon task.

        Raises:
            Fault: the store has none, or a damaged file.
        """
        if (task, split) not in self._truths:
            if task not in DECATHLON or split not in DECATHLON_SPLITS:
                raise Fault("no-truth", "is of no task and split of the decathlon")
            name = f"truth/decathlon-{task}-{split}.json"
            if not (self.root / name).exists():
                raise Fault("no-truth", "is not in the store", file=name)
            try:
                self._truths[task, split] = read_truth(self.root / name, task=task, split=split)
            except Fault as fault:
                raise Fault(fault.kind, fault.message, file=name) from None
        return self._truths[task, split]

    def right(self, one: StoredResult) -> Right:
        """Whether each picture of a result's split was given its own category, in the order of the truth's ids.

        Raises:
            Fault: there is no truth, or the predictions are missing, damaged, not those of the record, or do not
                agree with its counts.
        """
        result = one.result
        if result.split != PREDICTED:
            raise Fault("no-predictions", f"is of {result.split}, and predictions are of {PREDICTED} alone")
        truth = self.truth(result.task, result.split)
        try:
            data = read_file(one.folder / PREDICTIONS, limit=MAX_UNPACKED)
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


def sample_of(judge: Judge, runs: Sequence[StoredResult]) -> Sample:
    """How some runs of one task answered its pictures.

    A single run is known by its counts alone; of several it matters which pictures they have right together.

    Raises:
        Fault: that cannot be told.
    """
    if len(runs) == 1 and (counts := runs[0].result.counts) is not None:
        if counts.n > LARGEST:
            raise Fault("huge-number", f"has {counts.n} pictures, which cannot be")
        return Sample.of_counts(counts.n, counts.correct)
    return Sample.of(np.stack([judge.right(one) for one in runs], axis=1))


def with_intervals(entries: Iterable[Entry]) -> list[Entry]:
    """Measured decathlon entries get 95 % intervals by bootstrap over pictures, where these can be told.

    A segmentation's pictures are not kept one by one, so it has none.
    """
    judges: dict[Path, Judge] = {}
    found = []
    for entry in entries:
        if entry.benchmark != "decathlon" or entry.evidence != "measured" or not entry.stored:
            found.append(entry)
            continue
        root = entry.stored[0].root
        found.append(_with_intervals(entry, judges.setdefault(root, Judge(root))))
    return found


def _with_intervals(entry: Entry, judge: Judge) -> Entry:
    samples: dict[str, Sample] = {}
    for task in entry.values:
        try:
            samples[task] = sample_of(judge, runs_of(entry, task))
        except Fault:  # no truth, no predictions: no interval for this task, and none for the total
            continue
    if not samples:
        return entry
    drawn = resample(samples)
    values = _bounded(entry.values, {task: percentile_interval(one) for task, one in drawn.accuracies.items()})
    earned = _bounded(
        entry.points, {task: percentile_interval(points(task, one)) for task, one in drawn.accuracies.items()}
    )
    entry = replace(entry, values=values, points=earned)
    if entry.total is None or entry.mean is None or len(samples) < len(entry.values):
        return entry
    return replace(
        entry,
        total=replace(entry.total, interval=percentile_interval(drawn.scores)),
        mean=replace(entry.mean, interval=percentile_interval(drawn.means)),
    )


def _bounded(values: Mapping[str, Value], bounds: Mapping[str, tuple[float, float]]) -> dict[str, Value]:
    return {name: replace(value, interval=bounds.get(name)) for name, value in values.items()}
