"""Published rows: what others measured, as they printed it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType

from leaderboard.score import Score, decathlon_score


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """One method of a printed table.

    Attributes:
        method: our name of it.
        label: its name in the table.
        citation: the work whose numbers these are.
        table: the table they were read from.
        parameter_ratio: parameters for all ten tasks over those of one network; printed as "#par".
        accuracies: per task, fractions in [0, 1], printed with two decimals of a percent.
        printed_mean: fraction in [0, 1], as printed; the table's rounding is its own.
        printed_score: as printed; up to 2.3 below `score`, which knows only rounded accuracies.
    """

    method: str
    label: str
    citation: str
    table: str
    parameter_ratio: float
    accuracies: Mapping[str, float]
    printed_mean: float
    printed_score: int

    @property
    def score(self) -> Score:
        """The score recomputed from the printed accuracies."""
        return decathlon_score({task: 1.0 - accuracy for task, accuracy in self.accuracies.items()})


@cache
def table8() -> tuple[PublishedRow, ...]:
    """The seven rows of Table 8 of the Piggyback paper, in its order."""
    document = json.loads(files("leaderboard").joinpath("data", "table8.json").read_text(encoding="utf-8"))
    return tuple(
        PublishedRow(**{**row, "table": document["table"], "accuracies": MappingProxyType(row["accuracies"])})
        for row in document["rows"]
    )
