"""Plain boards, for benchmarks that have none: made from what their results say."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from leaderboard.boards.board import Better, Board, Metric, Unit
from leaderboard.boards.installed import REPRODUCED, find_boards
from leaderboard.result import FRACTIONS, Result

HOUSEKEEPING: Final = frozenset({"train_loss", "zeros", "classes", "seconds", "epoch"})
"""Metrics that say how a run went, not how good it is."""

_DIRECTIONS: Final[Mapping[str, Better]] = {
    **dict.fromkeys(("accuracy", "iou", "top1", "top5"), "higher"),
    **dict.fromkeys(("error", "loss"), "lower"),
}
"""Which direction is better, by how a metric's name ends."""


def boards_for(results: Iterable[Result]) -> dict[str, Board]:
    """The boards of all installed benchmarks, in order, then a plain one for every other benchmark in the results."""
    boards = dict(find_boards().boards)
    unknown: dict[str, list[Mapping[str, float]]] = {}
    for result in results:
        if result.benchmark not in boards:
            unknown.setdefault(result.benchmark, []).append(result.metrics)
    taken = {REPRODUCED, *(view for board in boards.values() for view in board.views)}
    for name in sorted(unknown):
        boards[name] = plain_board(name, metrics=unknown[name], view=f"{name}-results" if name in taken else name)
    return boards


def plain_board(name: str, *, metrics: Sequence[Mapping[str, float]], view: str = "") -> Board:
    """Make a board for a benchmark of which only results are known.

    Args:
        name: of the benchmark.
        metrics: of its results; the main one is the first that all of them have, housekeeping left aside.
        view: name of its table; the benchmark's where empty.
    """
    names = list(dict.fromkeys(key for one in metrics for key in one))
    shown = [key for key in names if key not in HOUSEKEEPING] or names
    shared = [key for key in shown if all(key in one for one in metrics)]
    ordered = [*shared[:1], *(key for key in shown if key not in shared[:1])]
    return Board(
        name=name,
        view=view,
        title=name,
        caption=f"{name}: a benchmark without a board, its metrics as its results name them",
        metrics=tuple(_metric(key) for key in ordered),
        across="metrics",
        intro="No installed package says what is known of this benchmark: no official counts, no published rows.",
    )


def _metric(name: str) -> Metric:
    direction = next((better for ending, better in _DIRECTIONS.items() if name.endswith(ending)), None)
    unit: Unit = "fraction" if name.endswith(FRACTIONS) else "number"
    return Metric(name=name, title=name.replace("_", " "), unit=unit, better=direction)
