"""Views of entries: a board's table, and the points of its tasks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from leaderboard.boards.board import Board, Confusion, Unit
from leaderboard.statistics.entries import Entry, Value
from leaderboard.statistics.ranking import can_be_ranked, place_entries
from leaderboard.tables.views import Cell, Column, Kind, Row, View

Shown = Callable[[Entry], bool]

RANK_NOTE: Final = "Ranks are among complete entries of the same protocol; = marks a tie."
SPREAD_NOTE: Final = "± is the sample standard deviation over n seeds; * marks a single seed, which has none."
INTERVAL_NOTE: Final = (
    "Intervals are 95 % by bootstrap over pictures, stratified by task; the choice of seeds is not in them."
)
PIXELS_NOTE: Final = "There are no intervals: a run keeps one confusion matrix, not one per picture."

SCORE: Final = "score"
"""The key of the column of totals, in every board."""

_RANK: Final = Column(key="rank", title="rank", kind="count", note=RANK_NOTE)
_METHOD: Final = Column(key="method", title="method", kind="text")
_RATIO: Final = Column(key="ratio", title="#par", kind="ratio", note="parameters for all tasks, over one network's")
_EVIDENCE: Final = Column(key="evidence", title="evidence", kind="text", note="measured here, published, or unverified")
_SEEDS: Final = Column(key="n", title="n", kind="count", note="seeds")
_PROTOCOL: Final = Column(key="protocol", title="protocol", kind="text", note="letters are explained below the table")
_TASK: Final = Column(key="task", title="task", kind="text")
_ENDS: Final = (_SEEDS, _EVIDENCE, _PROTOCOL)
_TAKEN: Final = frozenset({"place", "mean", SCORE, *(one.key for one in (_RANK, _METHOD, _RATIO, _TASK, *_ENDS))})

KINDS: Final[Mapping[Unit, Kind]] = {"fraction": "percent", "number": "number"}
"""How numbers of a unit are shown."""


def every(entry: Entry) -> bool:
    """Whether to show an entry: always."""
    return True


def board_views(
    boards: Mapping[str, Board], entries: Sequence[Entry], *, shown: Shown = every, left_out: int = 0
) -> list[View]:
    """All tables of all boards, in order; arguments as for `board_view`."""
    views = []
    for board in boards.values():
        views.append(board_view(board, entries, shown=shown, left_out=left_out))
        if board.total is not None:
            views.append(points_view(board, entries, shown=shown, left_out=left_out))
    return views


def board_view(board: Board, entries: Sequence[Entry], *, shown: Shown = every, left_out: int = 0) -> View:
    """A board's table: the main metric of each task with mean and total, or the metrics of each task.

    Args:
        board: the board.
        entries: of any benchmark; the board's own are shown.
        shown: which of them; ranks are those among all.
        left_out: number of results that did not pass the checks, for a note.
    """
    chosen = [entry for entry in entries if entry.benchmark == board.name]
    kind = KINDS[board.main.unit]
    if board.across == "tasks":
        numbers = _task_columns(board, kind=kind)
        totals = {"mean": Column(key="mean", title="mean", kind=kind), **_score_column(board)}
    else:
        numbers = {
            one.name: Column(key=_key(one.name), title=one.title, kind=KINDS[one.unit], note=one.name)
            for one in board.metrics
        }
        totals = {}
    separate = [_TASK] if board.across == "metrics" and len(board.tasks) != 1 else []

    def cells(entry: Entry) -> dict[str, Cell]:
        found = {column.key: value_cell(entry.values[name]) for name, column in numbers.items() if name in entry.values}
        return found | {"mean": value_cell(entry.mean), "task": Cell(value=entry.task or None)}

    columns = (*_place_columns(board), _RANK, _METHOD, *separate, _RATIO, *numbers.values(), *totals.values(), *_ENDS)
    view = _view(board, board.views[0], board.caption, columns, chosen, cells, shown=shown, left_out=left_out)
    measured = any(row.entry.evidence == "measured" for row in view.rows)
    if isinstance(board.evidence, Confusion) and measured:
        view = replace(view, notes=(*view.notes, PIXELS_NOTE))
    return replace(view, bounded=frozenset(totals or {_key(board.main.name)}))


def points_view(board: Board, entries: Sequence[Entry], *, shown: Shown = every, left_out: int = 0) -> View:
    """Points per task, of entries on official data; arguments as for `board_view`.

    Raises:
        ValueError: the board has no total, so there are no points.
    """
    if board.total is None:
        raise ValueError(f"the board {board.name} has no points")
    chosen = [entry for entry in entries if entry.benchmark == board.name and entry.points]
    numbers = _task_columns(board, kind="points")
    columns = (*_place_columns(board), _RANK, _METHOD, *numbers.values(), *_score_column(board).values(), *_ENDS)

    def cells(entry: Entry) -> dict[str, Cell]:
        return {column.key: value_cell(entry.points[task]) for task, column in numbers.items() if task in entry.points}

    view = _view(board, board.total.view, board.total.caption, columns, chosen, cells, shown=shown, left_out=left_out)
    return replace(view, bounded=frozenset({SCORE}), heated=frozenset(map(_key, board.tasks)), most=board.total.most)


def _task_columns(board: Board, *, kind: Kind) -> dict[str, Column]:
    return {name: Column(key=_key(name), title=task.title, kind=kind, note=name) for name, task in board.tasks.items()}


def _key(name: str) -> str:
    """Key of a column of numbers: the name of its task or metric, unless another column has that key."""
    return f"{name}_" if name in _TAKEN else name


def _place_columns(board: Board) -> list[Column]:
    placing = board.placing
    return [] if placing is None else [Column(key="place", title="place", kind="count", note=placing.note)]


def _score_column(board: Board) -> dict[str, Column]:
    if board.total is None:
        return {}
    note = f"of {board.total.most * len(board.tasks):,.0f}"
    return {SCORE: Column(key=SCORE, title="score", kind="points", note=note)}


def value_cell(value: Value | None, *, kind: Kind | None = None) -> Cell:
    if value is None:
        return Cell(value=None)
    return Cell(
        value=value.mean, spread=value.spread, n=value.n, interval=value.interval, results=value.results, kind=kind
    )


def protocol_letters(entries: Sequence[Entry]) -> dict[str, str]:
    """A letter for each protocol, in the order of the entries: A to Z, then AA and so on."""
    letters: dict[str, str] = {}
    for entry in entries:
        if entry.protocol.label not in letters:
            place, name = len(letters), ""
            while place >= 0:
                name = chr(ord("A") + place % 26) + name
                place = place // 26 - 1
            letters[entry.protocol.label] = name
    return letters


def protocol_notes(letters: Mapping[str, str]) -> tuple[str, ...]:
    """A sentence for each letter."""
    return tuple(f"Protocol {letter}: {label}." for label, letter in letters.items())


def left_out_notes(left_out: int) -> tuple[str, ...]:
    """A sentence about results that are not shown, and how to find out why."""
    if not left_out:
        return ()
    were = "1 result was" if left_out == 1 else f"{left_out} results were"
    return (f"{were} left out by the checks; `piggyback leaderboard check` names each.",)


def _view(
    board: Board,
    name: str,
    title: str,
    columns: Sequence[Column],
    entries: Sequence[Entry],
    cells: Callable[[Entry], dict[str, Cell]],
    *,
    shown: Shown,
    left_out: int,
) -> View:
    places = place_entries(entries)
    entries = [entry for entry in entries if shown(entry)]
    letters = protocol_letters(entries)
    rows = []
    for entry in entries:
        place, shared = places.get(id(entry), (None, False))
        every_cell = {
            "place": Cell(value=place, hint="tie" if shared else ""),
            "rank": Cell(value=entry.rank, hint="tie" if entry.tied else ""),
            "method": Cell(value=entry.label, hint=entry.note),
            "ratio": Cell(value=entry.parameter_ratio),
            SCORE: value_cell(entry.total),
            "n": Cell(value=_seeds(entry)),
            "evidence": Cell(value=entry.evidence, hint=entry.table),
            "protocol": Cell(value=letters[entry.protocol.label], hint=entry.protocol.label),
        } | cells(entry)
        keys = {column.key for column in columns}
        rows.append(Row(entry=entry, cells={key: cell for key, cell in every_cell.items() if key in keys}))
    notes = (
        *_notes(board, entries, placed=any(id(entry) in places for entry in entries)),
        *protocol_notes(letters),
        *sources(entries),
    )
    notes += left_out_notes(left_out)
    return View(name=name, title=title, columns=columns, rows=rows, notes=notes)


def _seeds(entry: Entry) -> float | str | None:
    """Number of seeds; a range if an entry's numbers have different ones; None for published numbers."""
    if entry.evidence != "measured":
        return None
    # The backbone's own accuracy serves for every seed, whatever its count.
    own = {value.n for value in entry.values.values() if _is_own(entry, value)} or {1}
    return min(own) if len(own) == 1 else f"{min(own)}-{max(own)}"


def _is_own(entry: Entry, value: Value) -> bool:
    methods = {one.place: one.result.method for one in entry.stored}
    return all(methods.get(place) == entry.method for place in value.results)


def sources(entries: Sequence[Entry]) -> tuple[str, ...]:
    """Sources of published numbers: a sentence per work and table."""
    found: dict[tuple[str, str], list[str]] = {}
    for entry in entries:
        if entry.citation or entry.table:
            found.setdefault((entry.citation, entry.table), []).append(entry.label)
    return tuple(f"{', '.join(labels)}: {work}; from: {table}." for (work, table), labels in found.items())


def _notes(board: Board, entries: Sequence[Entry], *, placed: bool) -> list[str]:
    rule, placing = board.total, board.placing
    judged = {entry.protocol.split for entry in entries if entry.total} if rule is not None else set[str]()
    measured = [entry for entry in entries if entry.evidence == "measured"]
    unverified = sum(entry.evidence == "unverified" for entry in entries)
    ranked = rule is not None or board.main.better is not None
    incomplete = sum(entry.evidence != "unverified" and not can_be_ranked(entry) for entry in entries) if ranked else 0
    values = [value for entry in entries for value in (entry.total, entry.mean) if value]
    notes: list[tuple[object, str]] = [
        (any(entry.rank for entry in entries), RANK_NOTE),
        (not ranked, f"There are no ranks: nobody says whether a higher or a lower {board.main.title} is better."),
        (placed, "" if placing is None else placing.note),
        (measured, SPREAD_NOTE),
        (any(value.interval for value in values), INTERVAL_NOTE),
        (len(measured) < len(entries), "" if rule is None else rule.published_note),
        *((split in judged, note) for split, note in ({} if rule is None else rule.split_notes).items()),
        (
            incomplete,
            f"{incomplete} incomplete entries (tasks or seeds are missing, or only a score is known) have no rank.",
        ),
        (unverified, f"{unverified} entries are unverified: nobody of this project has read their source."),
    ]
    return [note for wanted, note in notes if wanted and note]
