"""Entries from stored results: one per method, recipe and protocol, over its seeds."""

import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Final

from leaderboard.boards.board import Board
from leaderboard.boards.plain_boards import boards_for
from leaderboard.boards.published import published_rows, unverified_rows
from leaderboard.result import BACKBONE_METHOD
from leaderboard.statistics.entries import Entry, Protocol, Value
from leaderboard.statistics.labels import given, labelled
from leaderboard.statistics.published_entries import cited_entry, published_entry, split_name
from leaderboard.statistics.ranking import ranked
from leaderboard.store.reading import StoredResult

_SHORT: Final = 12  # digits of a fingerprint


def make_entries(stored: Iterable[StoredResult], *, published: bool = True, unverified: bool = False) -> list[Entry]:
    """Group results into entries and rank them.

    Results are of one entry when benchmark, method, recipe without what a run chose by itself, split, officialness,
    training part, backbone and data agree; val and test so never meet.  An entry over several tasks has a total only
    when all of them have the same seeds, and are official where the board's total needs that; the task of the backbone
    may come from the backbone's own result.

    Args:
        stored: results that passed every check; those that no table shows (`is_shown`) are left aside.
        published: whether to add the rows that others published.
        unverified: whether to add published rows that nobody of us has read in their source.

    Returns:
        Ranked entries first, then incomplete, then unverified ones.
    """
    results = sorted(stored, key=lambda one: one.place)
    boards = boards_for(one.result for one in results)
    shown = [one for one in results if is_shown(one, boards)]
    entries = _measured([one for one in shown if one.result.origin == "measured"], boards)
    if published:
        entries += [published_entry(row, boards[row.benchmark]) for row in published_rows(boards.values())]
    if unverified:
        entries += [published_entry(row, boards[row.benchmark]) for row in unverified_rows(boards.values())]
        entries += [cited_entry(one, boards[one.result.benchmark]) for one in shown if one.result.origin == "published"]
    return ranked(entries)


def is_shown(one: StoredResult, boards: Mapping[str, Board]) -> bool:
    """Whether a table can show a result: a column for its task, if needed, and the metrics that every result needs.

    Args:
        one: the result.
        boards: of all benchmarks, as `boards_for` gives them.
    """
    result, board = one.result, boards[one.result.benchmark]
    try:
        json.dumps(result.recipe)
    except RecursionError:  # read with a shorter stack than ours is now
        return False
    has_place = board.across == "metrics" or board.has_task(result.task)
    return has_place and all(metric.name in result.metrics for metric in board.metrics if metric.needed == "always")


@dataclass(frozen=True, kw_only=True)
class _Group:
    """What all results of an entry share; fingerprints are whole here, not shortened as in a protocol."""

    benchmark: str
    task: str
    version: int
    method: str
    recipe: str
    split: str
    official: bool | None
    trained_on: str | None
    backbone: str | None
    data: str


def _measured(results: Sequence[StoredResult], boards: Mapping[str, Board]) -> list[Entry]:
    worlds = _worlds(results, boards)
    groups: defaultdict[_Group, list[StoredResult]] = defaultdict(list)
    for one in results:
        groups[_group(one, boards[one.result.benchmark], worlds)].append(one)
    own = _backbones(results, boards)
    entries = []
    for group, members in groups.items():
        board = boards[group.benchmark]
        over_tasks = board.across == "tasks"
        entries.append(_entry_of_tasks(board, group, members, own) if over_tasks else _entry(board, group, members))
    return labelled(entries)


def _group(one: StoredResult, board: Board, worlds: Mapping[tuple[str, str, str], str]) -> _Group:
    result, over_tasks = one.result, board.across == "tasks"
    fingerprints = result.fingerprints
    data = fingerprints.data if fingerprints is not None else ""
    if over_tasks:
        data = "official" if result.official_data else worlds[board.name, result.task, data]
    return _Group(
        benchmark=result.benchmark,
        task="" if over_tasks else result.task,
        version=result.task_version,
        method=result.method,
        recipe=json.dumps(given(result.recipe), sort_keys=True),
        split=result.split,
        official=result.official_data,
        trained_on=result.trained_on,
        backbone=None if fingerprints is None else fingerprints.backbone,
        data=data,
    )


def _worlds(results: Iterable[StoredResult], boards: Mapping[str, Board]) -> dict[tuple[str, str, str], str]:
    """Name sets of tasks' data that are not official, by benchmark, task and fingerprint.

    Results do not say which tasks' data were made together: the most used data of each task of a benchmark count as one
    set, the second most used as another, and so on.
    """
    counts: defaultdict[str, defaultdict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for one in results:
        if boards[one.result.benchmark].across == "tasks" and one.result.fingerprints is not None:
            counts[one.result.benchmark][one.result.task][one.result.fingerprints.data] += 1
    names: dict[tuple[str, str, str], str] = {}
    for benchmark, tasks in counts.items():
        variants = {task: sorted(found, key=lambda data: (-found[data], data)) for task, found in tasks.items()}
        for place in range(max(map(len, variants.values()))):
            world = sorted((task, found[place]) for task, found in variants.items() if len(found) > place)
            name = hashlib.sha256(json.dumps(world).encode()).hexdigest()
            names |= {(benchmark, task, data): name for task, data in world}
    return names


_Own = Mapping[tuple[str, str, bool | None, str], StoredResult]


def _backbones(results: Iterable[StoredResult], boards: Mapping[str, Board]) -> _Own:
    """The backbones' own results on their tasks, by benchmark, split, officialness and fingerprint; the first ones."""
    own: dict[tuple[str, str, bool | None, str], StoredResult] = {}
    for one in results:
        result, task = one.result, boards[one.result.benchmark].backbone_task
        backbone = result.fingerprints and result.fingerprints.backbone
        if task is not None and (result.method, result.task) == (BACKBONE_METHOD, task.name) and backbone:
            own.setdefault((result.benchmark, result.split, result.official_data, backbone), one)
    return own


def _protocol(board: Board, group: _Group) -> Protocol:
    # A fingerprint may be two with a plus between: of the pictures trained on, and of those judged.
    data = "official" if group.official else "+".join(part[:_SHORT] for part in group.data.split("+")[:2])
    if group.version != 1:
        data = f"{data}, version {group.version}"
    return Protocol(
        split=split_name(board, task=group.task, split=group.split),
        official=group.official,
        trained_on=group.trained_on,
        backbone=f"backbone {group.backbone[:_SHORT]}" if group.backbone else "no backbone",
        data=data,
    )


_Runs = dict[int, StoredResult]


def _by_seed(members: Iterable[StoredResult]) -> _Runs:
    """Keep one result per seed: the first by its place, which does not depend on the numbers."""
    found: _Runs = {}
    for one in members:
        found.setdefault(one.result.seed or 0, one)
    return dict(sorted(found.items()))


def value_of(runs: Mapping[int, float], results: Iterable[StoredResult]) -> Value:
    """Mean and sample standard deviation over seeds."""
    numbers = list(runs.values())
    return Value(
        mean=fmean(numbers),
        spread=stdev(numbers) if len(numbers) > 1 else None,
        n=len(numbers),
        results=tuple(one.place for one in results),
    )


def _metric(runs: _Runs, name: str) -> Value:
    found = {seed: one for seed, one in runs.items() if name in one.result.metrics}
    return value_of({seed: one.result.metrics[name] for seed, one in found.items()}, found.values())


def _entry(board: Board, group: _Group, members: Sequence[StoredResult]) -> Entry:
    """The entry of one task, with the metrics that all its seeds have."""
    runs = _by_seed(members)
    names = [metric.name for metric in board.metrics]
    values = {name: _metric(runs, name) for name in names if all(name in one.result.metrics for one in runs.values())}
    return Entry(
        board=board,
        method=group.method,
        label=group.method,
        evidence="measured",
        protocol=_protocol(board, group),
        task=group.task,
        values=values,
        total=values.get(board.main.name),
        parameter_ratio=_ratio(members),
        note=_repeats(members, len(runs)),
        stored=tuple(members),
    )


def _entry_of_tasks(board: Board, group: _Group, members: Sequence[StoredResult], own: _Own) -> Entry:
    """The entry over all tasks of a board."""
    tasks: defaultdict[str, list[StoredResult]] = defaultdict(list)
    for one in members:
        tasks[one.result.task].append(one)
    runs = {task: _by_seed(found) for task, found in sorted(tasks.items())}
    notes = [_repeats(members, sum(map(len, runs.values())))]
    borrowed = _borrowed(board, group, own) if board.backbone_task and board.backbone_task.name not in runs else None
    stored, values = list(members), {task: _metric(found, board.main.name) for task, found in runs.items()}
    if borrowed is not None:
        notes.append(f"{borrowed.result.task} is the backbone's own")
        values[borrowed.result.task] = _metric({0: borrowed}, board.main.name)
        stored.append(borrowed)
    entry = Entry(
        board=board,
        method=group.method,
        label=group.method,
        evidence="measured",
        protocol=_protocol(board, group),
        values={task: values[task] for task in sorted(values)},
        parameter_ratio=_ratio(members),
        missing=tuple(task for task in board.names if task not in values),
        stored=tuple(stored),
    )
    if group.official or board.total is None:
        entry = _with_totals(entry, runs, borrowed, notes)
    return replace(entry, note="; ".join(filter(None, notes)))


def _borrowed(board: Board, group: _Group, own: _Own) -> StoredResult | None:
    """The backbone's own result, if the method leaves the network as it was for the backbone's task."""
    if board.backbone_task is None or group.method not in board.backbone_task.kept_by:
        return None
    return own.get((board.name, group.split, group.official, group.backbone or ""))


def _with_totals(entry: Entry, runs: Mapping[str, _Runs], borrowed: StoredResult | None, notes: list[str]) -> Entry:
    """Points per task, if the board has them, and totals if all tasks have the same seeds."""
    metric, rule = entry.board.main.name, entry.board.total
    seeds = {task: tuple(found) for task, found in runs.items()}
    every = sorted({seed for found in seeds.values() for seed in found})
    rest = {} if borrowed is None else {borrowed.result.task: borrowed}
    errors = {
        seed: {
            task: 1.0 - one.result.metrics[metric]
            for task, one in ({task: found[seed] for task, found in runs.items() if seed in found} | rest).items()
        }
        for seed in every
    }
    if rule is not None:
        earned = {
            seed: {task: rule.earned(task, error) for task, error in found.items()} for seed, found in errors.items()
        }
        entry = replace(entry, points=_points(entry, earned, borrowed))
    if entry.missing:
        return entry
    if len(set(seeds.values())) > 1:
        notes.append("no total: its tasks do not all have the same seeds")
        return entry
    means = {seed: math.fsum(1.0 - error for error in found.values()) / len(found) for seed, found in errors.items()}
    totals = means if rule is None else {seed: math.fsum(found.values()) for seed, found in earned.items()}
    return replace(entry, total=value_of(totals, entry.stored), mean=value_of(means, entry.stored))


def _points(entry: Entry, earned: Mapping[int, Mapping[str, float]], borrowed: StoredResult | None) -> dict[str, Value]:
    points = {
        task: replace(
            value_of({seed: found[task] for seed, found in earned.items() if task in found}, ()), results=value.results
        )
        for task, value in entry.values.items()
    }
    if borrowed is not None:
        points[borrowed.result.task] = replace(points[borrowed.result.task], spread=None, n=1)
    return points


def _ratio(members: Iterable[StoredResult]) -> float | None:
    """The largest ratio that a member states, so that no entry looks smaller than one of its tasks."""
    return max((one.result.parameter_ratio for one in members if one.result.parameter_ratio is not None), default=None)


def _repeats(members: Sequence[StoredResult], used: int) -> str:
    spare = len(members) - used
    return f"{spare} repeated results not counted: the first of each task and seed by its name is" if spare else ""
