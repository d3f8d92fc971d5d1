"""Entries from stored results: one per method, recipe and protocol, over its seeds."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any, Final

from leaderboard.boards.published import published_rows, unverified_rows
from leaderboard.boards.score import BASELINE_ERRORS, decathlon_score
from leaderboard.boards.tasks import SEGMENTATION_TASK
from leaderboard.statistics.entries import Entry, Protocol, Value
from leaderboard.statistics.published_entries import cited_entry, published_entry
from leaderboard.statistics.ranking import ranked
from leaderboard.store.store import StoredResult

BACKBONE: Final = "backbone"
BACKBONE_TASK: Final = "imagenet12"
KEEP_THE_BACKBONE: Final = frozenset(
    {
        *("piggyback", "piggyback-ternary", "feature", "finetune", "scratch", "norm"),
        *("affine", "ksm", "series", "parallel", "dan"),
    }
)
"""Methods that leave the pretrained network as it was for imagenet12, so that its own accuracy there is theirs.

``finetune`` and ``scratch`` train copies; Table 8 of the Piggyback paper prints one accuracy on imagenet12 for both.
The others that we name (packnet, joint, series-joint) change the network that all tasks share, and of a method that
we do not know nobody can say.
"""

METRICS: Final = ("mean_iou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou")
"""Of a segmentation result, in the order of the FCN paper's section 5."""

# What a run chose by itself: not part of the recipe that it was given.
_CHOSEN: Final = ("seed", "lr_used", "lr_trials")
_SHORT: Final = 12  # digits of a fingerprint


def make_entries(stored: Iterable[StoredResult], *, published: bool = True, unverified: bool = False) -> list[Entry]:
    """Group results into entries and rank them.

    Results are of one entry when benchmark, method, recipe without what a run chose by itself, split, officialness,
    training part, backbone and data agree; val and test so never meet.  A decathlon entry has a total only when all
    ten tasks are official and have the same seeds; imagenet12 may come from the backbone's own result.

    Args:
        stored: results that passed every check; those that no table shows (`is_shown`) are left aside.
        published: whether to add the rows that others published.
        unverified: whether to add published rows that nobody of us has read in their source.

    Returns:
        Ranked entries first, then incomplete, then unverified ones.
    """
    results = sorted(stored, key=lambda one: one.place)
    entries = _measured([one for one in results if is_shown(one) and one.result.origin == "measured"])
    if published:
        entries += map(published_entry, published_rows())
    if unverified:
        entries += map(published_entry, unverified_rows())
        entries += [cited_entry(one) for one in results if is_shown(one) and one.result.origin == "published"]
    return ranked(entries)


def is_shown(one: StoredResult) -> bool:
    """Whether a table has a place for a result: a decathlon task's accuracy, or a segmentation's mean IoU."""
    result = one.result
    try:
        json.dumps(result.recipe)
    except RecursionError:  # read with a shorter stack than ours is now
        return False
    if result.benchmark == "decathlon":
        return result.task in BASELINE_ERRORS and "accuracy" in result.metrics
    return result.benchmark == "segmentation" and "mean_iou" in result.metrics


@dataclass(frozen=True, kw_only=True)
class _Group:
    """What the results of one entry share; fingerprints are whole here, not shortened as in a protocol."""

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


def _measured(results: Sequence[StoredResult]) -> list[Entry]:
    worlds = _worlds(results)
    groups: defaultdict[_Group, list[StoredResult]] = defaultdict(list)
    for one in results:
        groups[_group(one, worlds)].append(one)
    own = _backbones(results)
    entries = [
        _decathlon_entry(group, members, own) if group.benchmark == "decathlon" else _segmentation_entry(group, members)
        for group, members in groups.items()
    ]
    return _labelled(entries)


def _group(one: StoredResult, worlds: Mapping[tuple[str, str], str]) -> _Group:
    result = one.result
    decathlon = result.benchmark == "decathlon"
    fingerprints = result.fingerprints
    data = fingerprints.data if fingerprints is not None else ""
    if decathlon:
        data = "official" if result.official_data else worlds[result.task, data]
    return _Group(
        benchmark=result.benchmark,
        task="" if decathlon else result.task,
        version=result.task_version,
        method=result.method,
        recipe=json.dumps(_given(result.recipe), sort_keys=True),
        split=result.split,
        official=result.official_data,
        trained_on=result.trained_on,
        backbone=None if fingerprints is None else fingerprints.backbone,
        data=data,
    )


def _given(recipe: Mapping[str, Any] | None) -> dict[str, Any]:
    """The recipe as it was given to the runs of all tasks and seeds."""
    return {key: value for key, value in (recipe or {}).items() if key not in _CHOSEN}


def _worlds(results: Iterable[StoredResult]) -> dict[tuple[str, str], str]:
    """Names for sets of tasks' data that are not official, by task and fingerprint.

    The most used data of all tasks are one set, the second most used another, and so on.
    """
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for one in results:
        if one.result.benchmark == "decathlon" and one.result.fingerprints is not None:
            counts[one.result.task][one.result.fingerprints.data] += 1
    variants = {task: sorted(found, key=lambda data: (-found[data], data)) for task, found in counts.items()}
    names: dict[tuple[str, str], str] = {}
    for place in range(max(map(len, variants.values()), default=0)):
        world = sorted((task, found[place]) for task, found in variants.items() if len(found) > place)
        name = hashlib.sha256(json.dumps(world).encode()).hexdigest()
        names |= dict.fromkeys(world, name)
    return names


_Own = Mapping[tuple[str, bool | None, str], StoredResult]


def _backbones(results: Iterable[StoredResult]) -> _Own:
    """The backbones' own results on imagenet12, by split, officialness and fingerprint; the first where several are."""
    own: dict[tuple[str, bool | None, str], StoredResult] = {}
    for one in results:
        result = one.result
        backbone = result.fingerprints and result.fingerprints.backbone
        if (result.method, result.task) == (BACKBONE, BACKBONE_TASK) and backbone:
            own.setdefault((result.split, result.official_data, backbone), one)
    return own


def _protocol(group: _Group) -> Protocol:
    # A segmentation's fingerprint may be two with a plus between: of the pictures trained on, and of those judged.
    data = "official" if group.official else "+".join(part[:_SHORT] for part in group.data.split("+")[:2])
    if group.version != 1:
        data = f"{data}, version {group.version}"
    return Protocol(
        split=group.split if group.task in ("", SEGMENTATION_TASK) else f"{group.task} {group.split}",
        official=group.official,
        trained_on=group.trained_on,
        backbone=f"backbone {group.backbone[:_SHORT]}" if group.backbone else "no backbone",
        data=data,
    )


_Runs = dict[int, StoredResult]


def _by_seed(members: Iterable[StoredResult]) -> _Runs:
    """One result per seed: the first by its place, which does not depend on the numbers."""
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


def _segmentation_entry(group: _Group, members: Sequence[StoredResult]) -> Entry:
    runs = _by_seed(members)
    values = {name: _metric(runs, name) for name in METRICS if all(name in one.result.metrics for one in runs.values())}
    return Entry(
        benchmark=group.benchmark,
        method=group.method,
        label=group.method,
        evidence="measured",
        protocol=_protocol(group),
        values=values,
        total=values["mean_iou"],
        parameter_ratio=_ratio(members),
        note=_repeats(members, len(runs)),
        stored=tuple(members),
    )


def _decathlon_entry(group: _Group, members: Sequence[StoredResult], own: _Own) -> Entry:
    tasks: defaultdict[str, list[StoredResult]] = defaultdict(list)
    for one in members:
        tasks[one.result.task].append(one)
    runs = {task: _by_seed(found) for task, found in sorted(tasks.items())}
    notes = [_repeats(members, sum(map(len, runs.values())))]
    borrowed = own.get((group.split, group.official, group.backbone or ""))
    if borrowed is not None and BACKBONE_TASK not in runs and group.method in KEEP_THE_BACKBONE:
        notes.append(f"{BACKBONE_TASK} is the backbone's own")
    else:
        borrowed = None
    values = {task: _metric(found, "accuracy") for task, found in runs.items()}
    if borrowed is not None:
        values[BACKBONE_TASK] = _metric({0: borrowed}, "accuracy")
    entry = Entry(
        benchmark=group.benchmark,
        method=group.method,
        label=group.method,
        evidence="measured",
        protocol=_protocol(group),
        values={task: values[task] for task in sorted(values)},
        parameter_ratio=_ratio(members),
        missing=tuple(task for task in BASELINE_ERRORS if task not in values),
        stored=(*members, *([] if borrowed is None else [borrowed])),
    )
    if group.official:
        entry = _with_points(entry, runs, borrowed, notes)
    return replace(entry, note="; ".join(filter(None, notes)))


def _with_points(entry: Entry, runs: Mapping[str, _Runs], borrowed: StoredResult | None, notes: list[str]) -> Entry:
    """Points per task, and totals where all ten tasks have the same seeds."""
    seeds = {task: tuple(found) for task, found in runs.items()}
    every = sorted({seed for found in seeds.values() for seed in found})
    errors: dict[int, dict[str, float]] = {
        seed: {task: _error(found[seed]) for task, found in runs.items() if seed in found}
        | ({} if borrowed is None else {BACKBONE_TASK: _error(borrowed)})
        for seed in every
    }
    scores = {seed: decathlon_score(found) for seed, found in errors.items()}
    points = {
        task: replace(
            value_of({seed: one.points[task] for seed, one in scores.items() if task in one.points}, ()),
            results=value.results,
        )
        for task, value in entry.values.items()
    }
    if borrowed is not None:
        points[BACKBONE_TASK] = replace(points[BACKBONE_TASK], spread=None, n=1)
    entry = replace(entry, points=points)
    if entry.missing:
        return entry
    if len(set(seeds.values())) > 1:
        notes.append("no total: its tasks do not all have the same seeds")
        return entry
    totals = {seed: one.score for seed, one in scores.items() if one.score is not None}
    means = {seed: one.mean_accuracy for seed, one in scores.items() if one.mean_accuracy is not None}
    return replace(entry, total=value_of(totals, entry.stored), mean=value_of(means, entry.stored))


def _error(one: StoredResult) -> float:
    return 1.0 - one.result.metrics["accuracy"]


def _ratio(members: Iterable[StoredResult]) -> float | None:
    """The largest that a member states, so that no entry looks smaller than one of its tasks."""
    return max((one.result.parameter_ratio for one in members if one.result.parameter_ratio is not None), default=None)


def _repeats(members: Sequence[StoredResult], used: int) -> str:
    spare = len(members) - used
    return f"{spare} repeated results not counted: the first of each task and seed by its name is" if spare else ""


def _labelled(entries: Sequence[Entry]) -> list[Entry]:
    """Entries of one method with different recipes get what differs into their labels."""
    siblings: defaultdict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in entries:
        siblings[entry.benchmark, entry.method].append(entry)
    return [
        replace(entry, label=entry.method + told)
        for family in siblings.values()
        for entry, told in zip(family, tell_apart([given_recipe(entry) for entry in family]), strict=True)
    ]


def given_recipe(entry: Entry) -> dict[str, str]:
    """The recipe of a measured entry without what runs chose by themselves: by setting, its JSON."""
    return {
        key: json.dumps(value, sort_keys=True, ensure_ascii=False)
        for key, value in _given(entry.stored[0].result.recipe).items()
    }


def tell_apart(recipes: Sequence[Mapping[str, str]], *, settings: int = 3, longest: int = 24) -> list[str]:
    """For each recipe, the settings in which the recipes differ, such as " (lr=0.1)"; empty for equal recipes.

    Args:
        recipes: JSON by setting.
        settings: how many are named; a digest of the whole recipe stands for the rest.
        longest: characters of a setting's text.
    """
    keys = sorted({key for recipe in recipes for key in recipe})
    differing = [key for key in keys if len({recipe.get(key) for recipe in recipes}) > 1]
    if not differing:
        return [""] * len(recipes)
    told = []
    for recipe in recipes:
        words = [(key, _without_brackets(recipe.get(key, "none"))) for key in differing[:settings]]
        parts = [f"{_cut(key, longest)}={_cut(text, longest)}" for key, text in words]
        cut = any(max(len(key), len(text)) > longest for key, text in words)
        if len(differing) > settings or cut:
            parts.append(hashlib.sha256(json.dumps(dict(recipe), sort_keys=True).encode()).hexdigest()[:6])
        told.append(f" ({', '.join(parts)})")
    return told


def _without_brackets(text: str) -> str:
    """Several names as options take them, with spaces between; all else as it is."""
    names = json.loads(text) if text.startswith('["') else []
    return " ".join(names) if names and all(isinstance(name, str) for name in names) else text


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}\N{HORIZONTAL ELLIPSIS}"
