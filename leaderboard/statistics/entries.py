"""Entries: the numbers of one method under one protocol, over its seeds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from leaderboard.boards.board import Board
from leaderboard.store.reading import StoredResult

Evidence = Literal["measured", "published", "unverified"]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Conditions under which numbers were made; only entries of equal protocols are ranked with each other.

    Attributes:
        split: the split judged, such as ``test``; after the task's name if a benchmark ranks several tasks separately.
        official: whether all its data are the official release's; None if unknown.
        trained_on: ``train`` or ``train+val``; None if unknown.
        backbone: name of a published row's network, or "backbone" and the first digits of its fingerprint.
        data: "official", or the first digits of the data's fingerprint; with the version of the task after the first.
    """

    split: str
    official: bool | None
    trained_on: str | None
    backbone: str
    data: str

    @property
    def label(self) -> str:
        """The protocol in words, for tables and filters."""
        data = (
            f"official data{self.data.removeprefix('official')}"
            if self.official
            else f"not official data ({self.data})"
        )
        return ", ".join(
            filter(None, [data, self.split, self.trained_on and f"trained on {self.trained_on}", self.backbone])
        )


@dataclass(frozen=True, kw_only=True)
class Value:
    """A number over seeds.

    Attributes:
        mean: over the seeds; fractions stay fractions.
        spread: sample standard deviation; None for a single seed, and for published numbers without one.
        n: number of seeds.
        interval: lower and upper end at 95 % by bootstrap over pictures; None if it is unknown which are right.
        results: places in the store (`StoredResult.place`) of what it was made from; empty for published numbers.
    """

    mean: float
    spread: float | None = None
    n: int = 1
    interval: tuple[float, float] | None = None
    results: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The numbers of one method under one protocol and recipe.

    Attributes:
        board: of its benchmark.
        method: our name.
        label: for people; it tells apart recipes of one method.
        evidence: whether the numbers were measured here, or are published and read from their source, or not.
        task: the numbers' task, if columns are metrics; empty for entries over several tasks.
        values: the main metric by task, or by metric, as the board's columns are.
        points: by task, if the board has a total; empty if the data are not official.
        total: the number to rank by: the board's total, or the mean over its tasks, or the main metric; None for
            incomplete entries, which are never ranked. A published row of which only the score is known has it as its
            total, and all tasks as `missing`.
        mean: of the main metric over all tasks; None for incomplete entries, and if columns are metrics.
        parameter_ratio: by the paper's convention; None if unknown.
        missing: tasks without a number.
        rank: within the benchmark and protocol, from 1; ties share it; None for incomplete or unverified entries.
        tied: whether another has the same rank.
        citation, table, link: of published numbers.
        note: what a reader must know, such as a rounding.
        stored: the results behind it, all seeds and tasks.
    """

    board: Board
    method: str
    label: str
    evidence: Evidence
    protocol: Protocol
    values: Mapping[str, Value]
    task: str = ""
    points: Mapping[str, Value] = field(default_factory=dict)
    total: Value | None = None
    mean: Value | None = None
    parameter_ratio: float | None = None
    missing: tuple[str, ...] = ()
    rank: int | None = None
    tied: bool = False
    citation: str = ""
    table: str = ""
    link: str = ""
    note: str = ""
    stored: tuple[StoredResult, ...] = ()

    @property
    def benchmark(self) -> str:
        return self.board.name
