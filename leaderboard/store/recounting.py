"""Checks that recount a record's numbers, from predictions of pictures or a confusion matrix of pixels."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, cast

import numpy as np

from leaderboard.boards.board import Answers, Board, Confusion, PictureIds
from leaderboard.store.candidates import Candidate
from leaderboard.store.confusion import read_confusion, score_confusion
from leaderboard.store.predictions import Predictions, count_right, read_predictions
from leaderboard.store.truth import Ids, Truth
from piggyback.shell.errors import Fault, shown

_ROUNDING: Final = 1e-9


def check_fingerprint(candidate: Candidate, data: bytes) -> Iterator[Fault]:
    """The record has the digest of the file that it was counted from."""
    prints = candidate.result.fingerprints
    stated, found = (prints.predictions if prints is not None else None), hashlib.sha256(data).hexdigest()
    if stated != found:
        yield Fault("fingerprint", f"has the sha256 {found[:12]}..., the record says {shown(stated, longest=12)}...")


def check_predictions(candidate: Candidate, data: bytes) -> Iterator[Fault]:
    """The predictions are the record's, of this task, complete, and have as many right as the record says."""
    board, result = candidate.board, candidate.result
    evidence = None if board is None else board.evidence
    if board is not None and not isinstance(evidence, Answers):
        yield Fault("foreign-file", f"is no evidence of {result.benchmark}")
        return
    yield from check_fingerprint(candidate, data)
    predictions = read_predictions(data)
    if predictions.task != result.task:
        yield Fault(
            "foreign-predictions", f"are of {shown(predictions.task, longest=40)}, the record is of {result.task}"
        )
    elif board is None:
        yield from check_once(np.sort(predictions.image_ids))
    elif board.has_task(result.task) and board.has_split(result.split):
        answered = Answered(candidate=candidate, board=board, split=cast(Answers, evidence).split)
        faults = [*check_ids(answered, predictions), *check_categories(answered, predictions)]
        yield from faults
        if not faults:
            yield from check_score(answered, predictions)


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A result whose pictures are answered one by one.

    Attributes:
        candidate: the result.
        board: of its benchmark.
        split: whose pictures are answered, also beside a record of another split.
    """

    candidate: Candidate
    board: Board
    split: str

    @property
    def truth(self) -> Truth | None:
        """Labels of that split, if they are those of the release that the record was measured on."""
        result = self.candidate.result
        truth = self.candidate.truths.get((self.board.name, result.task, self.split))
        return truth if truth is not None and truth.official in (None, result.official_data) else None

    @property
    def rule(self) -> PictureIds | None:
        return self.board.find_ids(self.candidate.result.task)

    def wanted(self) -> Ids | None:
        """Ids of that split's pictures, ascending: by its labels or by the official release; None if neither says."""
        if (truth := self.truth) is not None:
            return truth.ids
        official = self.rule.official.get(self.split) if self.rule and self.candidate.result.official_data else None
        return None if official is None else np.arange(official.start, official.stop, dtype=np.int64)


def check_once(ids: Ids) -> Iterator[Fault]:
    """No picture is predicted twice; the ids are sorted."""
    twice = ids[1:][ids[1:] == ids[:-1]]
    if len(twice):
        yield Fault("duplicate-id", f"has the picture {twice[0]} twice")


def check_ids(answered: Answered, predictions: Predictions) -> Iterator[Fault]:
    """Every picture of the answered split is predicted, once, and no others."""
    result, ids = answered.candidate.result, np.sort(predictions.image_ids)
    yield from check_once(ids)
    rule = answered.rule
    if rule is not None and (ids[0] < rule.known.start or ids[-1] >= rule.known.stop):
        yield Fault("foreign-id", f"has a picture that is none of {result.task}, from {ids[0]} to {ids[-1]}")
    wanted = answered.wanted()
    if wanted is None:
        if result.split == answered.split and result.counts is not None and len(ids) < result.counts.n:
            yield Fault("missing-id", f"has {len(ids)} pictures, the record says {result.counts.n}")
        return
    missing = np.setdiff1d(wanted, ids)
    if len(missing):
        yield Fault("missing-id", f"lacks {len(missing)} of {len(wanted)} pictures of {answered.split}: {missing[0]}")
    strange = np.setdiff1d(ids, wanted)
    if len(strange):
        part = f"its {answered.split} part"
        yield Fault("foreign-id", f"has {len(strange)} pictures that are not in {part}: {strange[0]}")


def check_categories(answered: Answered, predictions: Predictions) -> Iterator[Fault]:
    """Every category is one of the task's."""
    result, chosen = answered.candidate.result, predictions.category_ids
    rule, truth = answered.rule, answered.truth
    strange = chosen[:0]
    if rule is not None:
        known = rule.categories if result.official_data else rule.known
        strange = chosen[(chosen < known.start) | (chosen >= known.stop)]
    if not len(strange) and truth is not None and truth.categories is not None:
        strange = np.setdiff1d(chosen, sorted(truth.categories))
    if len(strange):
        yield Fault("foreign-category", f"has the category {strange[0]}, which {result.task} does not have")


def check_score(answered: Answered, predictions: Predictions) -> Iterator[Fault]:
    """As many pictures are right as the record says."""
    result, truth = answered.candidate.result, answered.truth
    if result.split != answered.split or truth is None or result.counts is None:
        return
    right = count_right(predictions, truth)
    if (right, len(truth.ids)) != (result.counts.correct, result.counts.n):
        record = f"the record says {result.counts.correct} of {result.counts.n}"
        yield Fault("rescored", f"has {right} of {len(truth.ids)} right when counted again; {record}")


def check_confusion(candidate: Candidate, data: bytes) -> Iterator[Fault]:
    """The matrix is the record's, and its numbers are the record's."""
    board, result = candidate.board, candidate.result
    evidence = None if board is None else board.evidence
    if board is not None and not isinstance(evidence, Confusion):
        yield Fault("foreign-file", f"is no evidence of {result.benchmark}")
        return
    yield from check_fingerprint(candidate, data)
    classes = evidence.classes if isinstance(evidence, Confusion) else None
    scores = score_confusion(read_confusion(data, classes=classes).rows)
    if result.counts is not None and (scores.n, scores.correct) != (result.counts.n, result.counts.correct):
        record = f"the record says {result.counts.correct} of {result.counts.n}"
        yield Fault("rescored", f"has {scores.correct} of {scores.n} pixels right when counted again; {record}")
    for name, value in scores.metrics.items():
        stated = result.metrics.get(name, value)
        if abs(stated - value) > _ROUNDING:
            yield Fault("rescored", f"gives {name} {value!r} when counted again; the record says {stated!r}")
