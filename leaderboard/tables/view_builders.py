"""Views of entries: the decathlon's table, its points, segmentation."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from leaderboard.statistics.aggregation import METRICS
from leaderboard.statistics.entries import Entry, Value
from leaderboard.statistics.ranking import can_be_ranked, place_in_challenge
from leaderboard.tables.views import Cell, Column, Kind, Row, View

TASKS: Final[Mapping[str, str]] = {
    "imagenet12": "ImNet.",
    "aircraft": "Airc.",
    "cifar100": "C100",
    "daimlerpedcls": "DPed",
    "dtd": "DTD",
    "gtsrb": "GTSR",
    "vgg-flowers": "Flwr",
    "omniglot": "OGlt",
    "svhn": "SVHN",
    "ucf101": "UCF",
}
"""The ten tasks in the order of Table 8 of the Piggyback paper, with its headings."""

METRIC_TITLES: Final[Mapping[str, str]] = {
    "mean_iou": "mean IoU",
    "pixel_accuracy": "pixel acc.",
    "mean_accuracy": "mean acc.",
    "frequency_weighted_iou": "f.w. IoU",
}

Shown = Callable[[Entry], bool]

RANK_NOTE: Final = "Ranks are among complete entries of the same protocol; = marks a tie."
PLACE_NOTE: Final = (
    "Places are among all complete entries on the official test part, by score, as the challenge counts: any network, "
    "trained on train or train+val."
)
SPREAD_NOTE: Final = "± is the sample standard deviation over n seeds; * marks a single seed, which has none."
INTERVAL_NOTE: Final = (
    "Intervals are 95 % by bootstrap over pictures, stratified by task; the choice of seeds is not in them."
)
PUBLISHED_NOTE: Final = "Published numbers are as printed; points are recomputed from their rounded accuracies."
VAL_NOTE: Final = "On val the formula still takes the baseline errors of the test parts."

_RANK: Final = Column(key="rank", title="rank", kind="count", note=RANK_NOTE)
_PLACE: Final = Column(key="place", title="place", kind="count", note=PLACE_NOTE)
_METHOD: Final = Column(key="method", title="method", kind="text")
_RATIO: Final = Column(key="ratio", title="#par", kind="ratio", note="parameters for all tasks, over one network's")
_EVIDENCE: Final = Column(key="evidence", title="evidence", kind="text", note="measured here, published, or unverified")
_SEEDS: Final = Column(key="n", title="n", kind="count", note="seeds")
_PROTOCOL: Final = Column(key="protocol", title="protocol", kind="text", note="letters are explained below the table")
_SCORE: Final = Column(key="score", title="score", kind="points", note="of 10,000")


def every(entry: Entry) -> bool:
    """Whether to show an entry: always."""
    return True


def decathlon_view(entries: Sequence[Entry], *, shown: Shown = every, left_out: int = 0) -> View:
    """Table 8 of the Piggyback paper: parameters, ten accuracies, mean, score.

    Args:
        entries: of any benchmark; those of the decathlon are shown.
        shown: which of them; places are those among all.
        left_out: results that did not pass the checks, for a note.
    """
    chosen = [entry for entry in entries if entry.benchmark == "decathlon"]
    columns = (
        *(_PLACE, _RANK, _METHOD, _RATIO),
        *(Column(key=task, title=title, kind="percent", note=task) for task, title in TASKS.items()),
        *(Column(key="mean", title="mean", kind="percent"), _SCORE, _SEEDS, _EVIDENCE, _PROTOCOL),
    )

    def cells(entry: Entry) -> dict[str, Cell]:
        return {task: value_cell(entry.values[task]) for task in TASKS if task in entry.values} | {
            "mean": value_cell(entry.mean)
        }

    return _view(
        "decathlon", "Visual Decathlon: top-1 accuracy (%)", columns, chosen, cells, shown=shown, left_out=left_out
    )


def points_view(entries: Sequence[Entry], *, shown: Shown = every, left_out: int = 0) -> View:
    """Points per task, of entries on official data; arguments as for `decathlon_view`."""
    chosen = [entry for entry in entries if entry.benchmark == "decathlon" and entry.points]
    columns = (
        *(_PLACE, _RANK, _METHOD),
        *(Column(key=task, title=title, kind="points", note=task) for task, title in TASKS.items()),
        *(_SCORE, _SEEDS, _EVIDENCE, _PROTOCOL),
    )

    def cells(entry: Entry) -> dict[str, Cell]:
        return {task: value_cell(entry.points[task]) for task in TASKS if task in entry.points}

    return _view(
        "points", "Visual Decathlon: points of 1000 per task", columns, chosen, cells, shown=shown, left_out=left_out
    )


def segmentation_view(entries: Sequence[Entry], *, shown: Shown = every, left_out: int = 0) -> View:
    """Semantic segmentation on PASCAL VOC; arguments as for `decathlon_view`."""
    chosen = [entry for entry in entries if entry.benchmark == "segmentation"]
    columns = (
        *(_RANK, _METHOD, _RATIO),
        *(Column(key=name, title=METRIC_TITLES[name], kind="percent", note=name) for name in METRICS),
        *(_SEEDS, _EVIDENCE, _PROTOCOL),
    )

    def cells(entry: Entry) -> dict[str, Cell]:
        return {name: value_cell(entry.values[name]) for name in METRICS if name in entry.values}

    view = _view("segmentation", "PASCAL VOC segmentation (%)", columns, chosen, cells, shown=shown, left_out=left_out)
    measured = any(row.entry.evidence == "measured" for row in view.rows)
    more = ("There are no intervals: a run keeps one confusion matrix, not one per picture.",) if measured else ()
    return View(name=view.name, title=view.title, columns=view.columns, rows=view.rows, notes=(*view.notes, *more))


def value_cell(value: Value | None, *, kind: Kind | None = None) -> Cell:
    """A number with all that is known of it."""
    if value is None:
        return Cell(value=None)
    return Cell(
        value=value.mean, spread=value.spread, n=value.n, interval=value.interval, results=value.results, kind=kind
    )


def protocol_letters(entries: Sequence[Entry]) -> dict[str, str]:
    """A short name for each protocol, in the order of the entries: A to Z, then AA and so on."""
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
    """What the letters mean."""
    return tuple(f"Protocol {letter}: {label}." for label, letter in letters.items())


def left_out_notes(left_out: int) -> tuple[str, ...]:
    """That results are not shown, and where to learn why."""
    if not left_out:
        return ()
    were = "1 result was" if left_out == 1 else f"{left_out} results were"
    return (f"{were} left out by the checks; `piggyback leaderboard check` names each.",)


def _view(
    name: str,
    title: str,
    columns: Sequence[Column],
    entries: Sequence[Entry],
    cells: Callable[[Entry], dict[str, Cell]],
    *,
    shown: Shown,
    left_out: int,
) -> View:
    places = place_in_challenge(entries)
    entries = [entry for entry in entries if shown(entry)]
    letters = protocol_letters(entries)
    rows = []
    for entry in entries:
        place, shared = places.get(id(entry), (None, False))
        told = {
            "place": Cell(value=place, hint="tie" if shared else ""),
            "rank": Cell(value=entry.rank, hint="tie" if entry.tied else ""),
            "method": Cell(value=entry.label, hint=entry.note),
            "ratio": Cell(value=entry.parameter_ratio),
            "score": value_cell(entry.total),
            "n": Cell(value=_seeds(entry)),
            "evidence": Cell(value=entry.evidence, hint=entry.table),
            "protocol": Cell(value=letters[entry.protocol.label], hint=entry.protocol.label),
        } | cells(entry)
        keys = {column.key for column in columns}
        rows.append(Row(entry=entry, cells={key: cell for key, cell in told.items() if key in keys}))
    notes = (
        *_notes(entries, placed=any(id(entry) in places for entry in entries)),
        *protocol_notes(letters),
        *sources(entries),
    )
    notes += left_out_notes(left_out)
    return View(name=name, title=title, columns=columns, rows=rows, notes=notes)


def _seeds(entry: Entry) -> float | str | None:
    """How many seeds: a range where its numbers have different many; None of published numbers."""
    if entry.evidence != "measured":
        return None
    # The backbone's own accuracy stands for every seed, whatever its count.
    own = {value.n for value in entry.values.values() if _is_own(entry, value)} or {1}
    return min(own) if len(own) == 1 else f"{min(own)}-{max(own)}"


def _is_own(entry: Entry, value: Value) -> bool:
    methods = {one.place: one.result.method for one in entry.stored}
    return all(methods.get(place) == entry.method for place in value.results)


def sources(entries: Sequence[Entry]) -> tuple[str, ...]:
    """Where published numbers are from: a sentence per work and table."""
    found: dict[tuple[str, str], list[str]] = {}
    for entry in entries:
        if entry.citation or entry.table:
            found.setdefault((entry.citation, entry.table), []).append(entry.label)
    return tuple(f"{', '.join(labels)}: {work}; from: {table}." for (work, table), labels in found.items())


def _notes(entries: Sequence[Entry], *, placed: bool) -> list[str]:
    measured = [entry for entry in entries if entry.evidence == "measured"]
    decathlon = any(entry.benchmark == "decathlon" for entry in entries)
    unverified = sum(entry.evidence == "unverified" for entry in entries)
    incomplete = sum(entry.evidence != "unverified" and not can_be_ranked(entry) for entry in entries)
    values = [value for entry in entries for value in (entry.total, entry.mean) if value]
    on_val = any(entry.total and entry.protocol.split == "val" for entry in entries) and decathlon
    told: list[tuple[object, str]] = [
        (any(entry.rank for entry in entries), RANK_NOTE),
        (placed, PLACE_NOTE),
        (measured, SPREAD_NOTE),
        (any(value.interval for value in values), INTERVAL_NOTE),
        (len(measured) < len(entries) and decathlon, PUBLISHED_NOTE),
        (on_val, VAL_NOTE),
        (
            incomplete,
            f"{incomplete} incomplete entries (tasks or seeds are missing, or only a score is known) have no rank.",
        ),
        (unverified, f"{unverified} entries are unverified: nobody of this project has read their source."),
    ]
    return [note for wanted, note in told if wanted]
