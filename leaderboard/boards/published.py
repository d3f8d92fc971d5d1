"""Published rows: what others measured, as they printed it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Final, Literal

from leaderboard.boards.score import Score, decathlon_score

VERIFIED: Final = ("decathlon.json", "decathlon-scores.json", "segmentation.json")
UNVERIFIED: Final = ("decathlon-unverified.json",)
TABLE8: Final = "Table 8 of A. Mallya, D. Davis, S. Lazebnik: Piggyback, ECCV 2018"


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """One method of a printed table.

    Attributes:
        benchmark: ``decathlon`` or ``segmentation``.
        evidence: ``published``, read in the source that `table` names; or ``unverified``, which nobody of us has read.
        method: our name of it.
        label: its name in the table.
        citation: the work whose numbers these are: authors, title, venue, year.
        link: to that work, http or https; empty where none is known.
        table: the table, figure or list that they were read from.
        split: that was judged.
        backbone: the network, as far as its authors or their repository say; None where they do not.
        trained_on: ``train`` or ``train+val``; None where nobody says.
        parameter_ratio: parameters for all ten tasks over those of one network, printed as "#par"; None where it is
            not given or is by another convention.
        accuracies: decathlon: per task, fractions in [0, 1]; empty where only score or mean are known.
        metrics: segmentation: by name, fractions in [0, 1]; empty in the decathlon.
        printed_mean: fraction in [0, 1], as printed; the table's rounding is its own.
        printed_score: as printed; up to 2.3 below `score`, which knows only rounded accuracies.
        note: what a reader must know.
    """

    benchmark: str
    evidence: Literal["published", "unverified"]
    method: str
    label: str
    citation: str
    link: str
    table: str
    split: str
    backbone: str | None
    trained_on: str | None
    parameter_ratio: float | None = None
    accuracies: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    printed_mean: float | None = None
    printed_score: int | None = None
    note: str = ""

    @property
    def score(self) -> Score:
        """The score recomputed from the printed accuracies."""
        return decathlon_score({task: 1.0 - accuracy for task, accuracy in self.accuracies.items()})


@cache
def published_rows() -> tuple[PublishedRow, ...]:
    """All rows whose numbers were read in the source that they name."""
    return tuple(row for name in VERIFIED for row in _read(name))


@cache
def unverified_rows() -> tuple[PublishedRow, ...]:
    """Rows of the decathlon whose source was not read; their scores fit their accuracies, no more is known."""
    return tuple(row for name in UNVERIFIED for row in _read(name))


def table8() -> tuple[PublishedRow, ...]:
    """The seven rows of Table 8 of the Piggyback paper, in its order."""
    return tuple(row for row in published_rows() if row.table == TABLE8)


def _read(name: str) -> tuple[PublishedRow, ...]:
    document = json.loads(files("leaderboard").joinpath("data", name).read_text(encoding="utf-8"))
    shared = {"benchmark": document["benchmark"], "evidence": document["evidence"]}
    return tuple(_row(row, shared | _cite(document["papers"][row["paper"]])) for row in document["rows"])


def _cite(paper: Mapping[str, Any]) -> dict[str, str]:
    """The citation in one line, and the link."""
    return {
        "citation": f"{paper['authors']}: {paper['title']}. {paper['venue']}, {paper['year']}",
        "link": paper["link"],
    }


def _row(row: Mapping[str, Any], shared: Mapping[str, str]) -> PublishedRow:
    frozen = {key: MappingProxyType(value) for key, value in row.items() if isinstance(value, dict)}
    return PublishedRow(**{**{key: value for key, value in row.items() if key != "paper"}, **frozen, **shared})
