"""Comparison of two entries on the same pictures: which answers differ, and whether chance explains it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Final

import numpy as np
from numpy.typing import NDArray

from leaderboard.boards.board import Board, Confusion, Numbers
from leaderboard.statistics.answers import Judge, has_answers, runs_of
from leaderboard.statistics.entries import Entry
from leaderboard.statistics.labels import given_recipe
from leaderboard.statistics.uncertainty import (
    Interval,
    Sample,
    holm,
    mcnemar,
    percentile_interval,
    resample,
)
from leaderboard.store.reading import StoredResult
from piggyback.shell.errors import Fault, ResultError, shown

SAME: Final = "the very same results"
LONGEST: Final = 300  # characters of a text in a message


@dataclass(frozen=True, kw_only=True)
class SeedTest:
    """McNemar's exact test between two runs.

    Attributes:
        seeds: of the two.
        only_first, only_second: pictures that only this one has right.
        p: probability, without a difference, of pictures so unevenly divided or more.
    """

    seeds: tuple[int, int]
    only_first: int
    only_second: int
    p: float


@dataclass(frozen=True, kw_only=True)
class Line:
    """One task, or one metric.

    Attributes:
        name: of it.
        first, second: means over seeds, fractions in [0, 1].
        tests: per pair of seeds; empty where nobody knows which pictures are right, or where both have the very same
            results.
        p: the largest of them; None without tests.
        p_holm: the same, adjusted for testing several tasks.
        why_no_test: the reason, in words.
    """

    name: str
    first: float
    second: float
    tests: tuple[SeedTest, ...] = ()
    p: float | None = None
    p_holm: float | None = None
    why_no_test: str = ""

    @property
    def difference(self) -> float:
        """First minus second."""
        return self.first - self.second


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The difference, first minus second, of a number over all common tasks; 95 % `interval` by paired bootstrap."""

    value: float
    interval: Interval | None = None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two entries of one protocol.

    Attributes:
        first, second: the entries.
        lines: per task or metric that both have.
        mean: difference of the main metric's mean over those tasks; None where columns are metrics.
        score: difference of the board's totals; None where an entry or the board has none.
        notes: sentences.
    """

    first: Entry
    second: Entry
    lines: Sequence[Line]
    mean: Difference | None
    score: Difference | None
    notes: Sequence[str]


def find_pairs(entries: Sequence[Entry], first: str, second: str) -> list[tuple[Entry, Entry]]:
    """Pairs of entries of the same benchmark and protocol.

    Args:
        entries: measured ones.
        first, second: methods or labels.

    Raises:
        ResultError: one is missing or ambiguous, or the two have no protocol in common.
    """
    found = [_named(entries, name) for name in (first, second)]
    pairs = []
    for key in dict.fromkeys((entry.benchmark, entry.protocol) for entry in found[0]):
        ours, theirs = ([one for one in side if (one.benchmark, one.protocol) == key] for side in found)
        pairs += _paired(ours, theirs)
    if not pairs:
        one, other = (min(f"{e.benchmark}: {e.protocol.label}" for e in side) for side in found)
        raise ResultError(
            f"{shown(first)} and {shown(second)} have no protocol in common; there is, of the one, "
            f"{shown(one, longest=LONGEST)}; of the other, {shown(other, longest=LONGEST)}; only results of the same "
            "pictures and backbone can be compared"
        )
    return pairs


def _paired(ours: Sequence[Entry], theirs: Sequence[Entry]) -> list[tuple[Entry, Entry]]:
    """Entries of equal recipes, if there are any; else the only two.

    Raises:
        ResultError: one side has several, and no recipe says which is meant.
    """
    if not ours or not theirs:
        return []
    alike = [(one, other) for one in ours for other in theirs if given_recipe(one) == given_recipe(other)]
    if alike:
        return alike
    for side in (ours, theirs):
        if len(side) > 1:
            labels = "; ".join(shown(entry.label, longest=LONGEST) for entry in side[:5])
            raise ResultError(f"several entries are meant by one name: give one of their labels: {labels}")
    return [(ours[0], theirs[0])]


def _named(entries: Sequence[Entry], name: str) -> list[Entry]:
    found = [entry for entry in entries if entry.label == name] or [entry for entry in entries if entry.method == name]
    if not found:
        known = ", ".join(sorted({shown(entry.method, longest=40) for entry in entries})[:20]) or "none"
        raise ResultError(f"the store has no method and no label {shown(name)}; its methods: {known}")
    return found


def compare(first: Entry, second: Entry) -> Comparison:
    """Compare two measured entries of the same protocol, number by number and over all tasks."""
    board = first.board
    metrics: Sequence[str] = [metric.name for metric in board.metrics]
    known = board.names if board.across == "tasks" else metrics
    names = [name for name in known if name in first.values and name in second.values]
    judged = [name for name in names if has_answers(first, name)]
    answers, reasons = _read_answers(first, second, judged)
    reasons |= {name: why_no_pictures(board) for name in names if name not in judged}
    lines = []
    for name in names:
        line = _line(first, second, name, why_no_test=reasons.get(name, ""))
        if name in answers:
            tests = _tests(answers[name])
            line = replace(line, tests=tests, p=max(test.p for test in tests))
        lines.append(line)
    lines = _adjusted(lines)
    notes = _notes(lines) if judged else (f"No test and no interval: {why_no_pictures(board)}.",)
    mean, score = _totals(first, second, lines, answers) if board.across == "tasks" else (None, None)
    return Comparison(first=first, second=second, lines=lines, mean=mean, score=score, notes=notes)


def why_no_pictures(board: Board) -> str:
    """Reason why two results of a benchmark cannot be compared picture by picture."""
    if isinstance(board.evidence, Confusion):
        return "a run keeps one confusion matrix, not one per picture"
    return "a run keeps no answer for each picture"


def _read_answers(first: Entry, second: Entry, names: Sequence[str]) -> tuple[dict[str, "_Answers"], dict[str, str]]:
    """Read the answers of both entries, by number; and the reasons for those that are unavailable."""
    judge = Judge(first.stored[0].root)
    answers: dict[str, _Answers] = {}
    reasons: dict[str, str] = {}
    for name in names:
        ours, theirs = runs_of(first, name), runs_of(second, name)
        if [one.place for one in ours] == [one.place for one in theirs]:
            reasons[name] = SAME
            continue
        try:
            answers[name] = _answers(ours, theirs, board=first.board, judge=judge)
        except Fault as fault:
            reasons[name] = str(fault)
    return answers, reasons


def _line(first: Entry, second: Entry, name: str, *, why_no_test: str = "") -> Line:
    return Line(name=name, first=first.values[name].mean, second=second.values[name].mean, why_no_test=why_no_test)


@dataclass(frozen=True, kw_only=True)
class _Answers:
    """The seeds of both entries' runs of one number, and bool [pictures, runs], whether each answer is right."""

    seeds: tuple[tuple[int, ...], tuple[int, ...]]
    right: tuple[NDArray[np.bool_], NDArray[np.bool_]]


def _answers(ours: Sequence[StoredResult], theirs: Sequence[StoredResult], *, board: Board, judge: Judge) -> _Answers:
    """Read the answers of both.

    Raises:
        Fault: it is unknown which pictures a run has right.
    """
    first, second = (
        (tuple(one.result.seed or 0 for one in side), np.stack([judge.right(one, board=board) for one in side], axis=1))
        for side in (ours, theirs)
    )
    return _Answers(seeds=(first[0], second[0]), right=(first[1], second[1]))


def _tests(answers: _Answers) -> tuple[SeedTest, ...]:
    """A test per seed that both have; without common seeds, per pair in the order of their seeds."""
    ours, theirs = answers.seeds
    common = [seed for seed in ours if seed in theirs]
    pairs = [(seed, seed) for seed in common] or list(zip(ours, theirs, strict=False))
    tests = []
    for pair in pairs:
        one = answers.right[0][:, ours.index(pair[0])]
        other = answers.right[1][:, theirs.index(pair[1])]
        alone = int((one & ~other).sum()), int((other & ~one).sum())
        tests.append(SeedTest(seeds=pair, only_first=alone[0], only_second=alone[1], p=mcnemar(*alone)))
    return tuple(tests)


def _adjusted(lines: Sequence[Line]) -> list[Line]:
    """The lines with probabilities adjusted for the number of tasks tested."""
    tested = [line.p for line in lines if line.p is not None]
    adjusted = iter(holm(tested))
    return [line if line.p is None else replace(line, p_holm=next(adjusted)) for line in lines]


def _totals(
    first: Entry, second: Entry, lines: Sequence[Line], answers: Mapping[str, _Answers]
) -> tuple[Difference | None, Difference | None]:
    """Differences of mean and score, with intervals where the pictures of every task are known."""
    if not lines:
        return None, None
    mean = Difference(value=fmean(line.difference for line in lines))
    score = None
    if first.board.total is not None and first.total is not None and second.total is not None:
        score = Difference(value=first.total.mean - second.total.mean)
    if not answers or any(line.p is None and line.why_no_test != SAME for line in lines):
        return mean, score
    drawn = resample({task: Sample.of(np.concatenate(one.right, axis=1)) for task, one in answers.items()}).accuracies
    runs = {task: len(one.seeds[0]) for task, one in answers.items()}
    # Where both have the very same results, every drawing gives a difference of zero.
    means = np.sum([_apart(numbers, runs[task]) for task, numbers in drawn.items()], axis=0) / len(lines)
    mean = replace(mean, interval=percentile_interval(means))
    rule = first.board.total
    if score is not None and rule is not None:
        points = {task: rule.points(task, 1.0 - numbers) for task, numbers in drawn.items()}
        scores = np.sum([_apart(numbers, runs[task]) for task, numbers in points.items()], axis=0)
        score = replace(score, interval=percentile_interval(scores))
    return mean, score


def _apart(numbers: Numbers, ours: int) -> Numbers:
    """Mean of the first entry's runs, the first columns, minus that of the second's."""
    return np.asarray(numbers[:, :ours].mean(axis=1) - numbers[:, ours:].mean(axis=1), dtype=np.float64)


def _notes(lines: Sequence[Line]) -> tuple[str, ...]:
    notes = []
    if any(line.tests for line in lines):
        notes.append(
            "p: McNemar's exact test on the same pictures, of several seeds the largest; Holm: adjusted for the number "
            "of tasks. It says whether these runs differ, not whether runs of other seeds would."
        )
    if any(line.why_no_test and line.why_no_test != SAME for line in lines):
        notes.append("Without a test: the store needs predictions and, in its truth folder, the labels of that part.")
    return tuple(notes)
