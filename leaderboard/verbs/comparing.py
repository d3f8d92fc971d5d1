"""``piggyback leaderboard compare``: two methods of a store on the same pictures."""

from dataclasses import asdict
from typing import Any, Final

from leaderboard.boards.board import Board
from leaderboard.boards.plain_boards import boards_for
from leaderboard.statistics.aggregation import make_entries
from leaderboard.statistics.comparison import Comparison, Difference, Line, compare, find_pairs
from leaderboard.store.reading import read_store
from leaderboard.tables.escaping import visible
from leaderboard.tables.formats import LONGEST_NOTE, number_text
from leaderboard.tables.view_builders import KINDS, left_out_notes
from leaderboard.tables.views import Kind
from leaderboard.verbs.notices import warn_of_broken_boards
from leaderboard.verbs.options import CompareOptions
from leaderboard.verbs.showing import count_left_out
from piggyback.shell.console import print_json, say, table
from piggyback.shell.errors import UnknownName, shown

_NUMBERS: Final = 8  # columns before the reasons


def run_compare(options: CompareOptions) -> int:
    """``piggyback leaderboard compare``."""
    results, findings = read_store(options.store)
    boards = boards_for(one.result for one in results)
    if options.benchmark is not None and options.benchmark not in boards:
        raise UnknownName(shown(options.benchmark), known=boards, kind="benchmark")
    entries = [
        entry for entry in make_entries(results, published=False) if options.benchmark in (None, entry.benchmark)
    ]
    found = [compare(*pair) for pair in find_pairs(entries, options.first, options.second)]
    left_out = left_out_notes(count_left_out(results, findings, boards))
    warn_of_broken_boards()
    if options.json:
        print_json({"comparisons": [as_json(one) for one in found], "notes": list(left_out)})
        return 0
    for one in found:
        show_comparison(one)
    for note in left_out:
        say(note)
    return 0


def as_json(one: Comparison) -> dict[str, Any]:
    """All numbers of a comparison; fractions stay fractions."""
    return {
        "benchmark": one.first.benchmark,
        "protocol": asdict(one.first.protocol),
        "first": one.first.label,
        "second": one.second.label,
        "lines": [asdict(line) | {"difference": line.difference} for line in one.lines],
        "mean": None if one.mean is None else asdict(one.mean),
        "score": None if one.score is None else asdict(one.score),
        "notes": list(one.notes),
    }


def show_comparison(one: Comparison) -> None:
    """Print a comparison."""
    say(f"first: {visible(one.first.label)}")
    say(f"second: {visible(one.second.label)}")
    reasons = [] if all(not line.why_no_test for line in one.lines) else ["no test because"]
    table(
        visible(f"{one.first.benchmark}: {one.first.protocol.label}", longest=LONGEST_NOTE),
        *("number", "first", "second", "difference", "only first", "only second", "p", "p (Holm)", *reasons),
        rows=[_texts(line, one.first.board)[: _NUMBERS + len(reasons)] for line in one.lines],
        numeric=range(1, _NUMBERS),
    )
    main = one.first.board.main
    totals: tuple[tuple[str, Difference | None, Kind], ...] = (
        (f"mean {main.name}", one.mean, KINDS[main.unit]),
        ("score", one.score, "points"),
    )
    for name, difference, kind in totals:
        if difference is not None:
            say(f"{name}, first minus second: {_difference(difference, kind=kind)}")
    for note in one.notes:
        say(visible(note, longest=LONGEST_NOTE))


def _texts(line: Line, board: Board) -> tuple[str, ...]:
    metric = board.main if board.across == "tasks" else next(one for one in board.metrics if one.name == line.name)
    title = board.tasks[line.name].title if board.across == "tasks" else metric.title
    kind = KINDS[metric.unit]
    numbers = (number_text(value, kind=kind) for value in (line.first, line.second, line.difference))
    worst = max(line.tests, key=lambda test: test.p, default=None)
    alone = ("", "") if worst is None else (f"{worst.only_first}", f"{worst.only_second}")
    chances = ("" if value is None else f"{value:.2g}" for value in (line.p, line.p_holm))
    return (title, *numbers, *alone, *chances, visible(line.why_no_test))


def _difference(one: Difference, *, kind: Kind) -> str:
    text = number_text(one.value, kind=kind)
    if one.interval is None:
        return f"{text}, without an interval: not every picture's answer is known"
    low, high = (number_text(end, kind=kind) for end in one.interval)
    said = (
        "the interval is on one side of zero"
        if one.interval[0] * one.interval[1] > 0
        else "the interval has zero in it"
    )
    return f"{text}, 95 % interval {low} to {high}; {said}"
