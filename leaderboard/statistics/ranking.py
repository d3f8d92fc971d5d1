"""Ranks among complete entries of one benchmark and one protocol; equal totals share one."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from leaderboard.statistics.entries import Entry, Protocol


def ranked(entries: Iterable[Entry]) -> list[Entry]:
    """The entries with their ranks, in the order of the tables.

    Complete entries come first: official before other data, test before other splits, then by total.  Incomplete ones
    follow, then unverified ones; neither has a rank.
    """
    fields: defaultdict[tuple[str, Protocol], list[Entry]] = defaultdict(list)
    others: list[Entry] = []
    for entry in entries:
        if can_be_ranked(entry):
            fields[entry.benchmark, entry.protocol].append(entry)
        else:
            others.append(replace(entry, rank=None, tied=False))
    found = [
        replace(entry, rank=rank, tied=tied)
        for field in fields.values()
        for entry, (rank, tied) in zip(field, ranks([goodness(entry) for entry in field]), strict=True)
    ]
    return sorted([*found, *others], key=_order)


def can_be_ranked(entry: Entry) -> bool:
    """Whether an entry is complete, and its numbers are measured or were read in their source."""
    return entry.evidence != "unverified" and goodness(entry) > -math.inf and not entry.missing


def goodness(entry: Entry) -> float:
    """The total, with the sign that makes more better; minus infinity without one, or if the direction is unknown."""
    better = "higher" if entry.board.total is not None else entry.board.main.better
    if entry.total is None or better is None:
        return -math.inf
    return entry.total.mean if better == "higher" else -entry.total.mean


def ranks(totals: Sequence[float]) -> list[tuple[int, bool]]:
    """Rank of each total, from 1 for the largest, and whether another has the same.

    Equal totals share the better rank, and the ranks they use up stay empty: 1, 2, 2, 4.
    """
    counts = Counter(totals)
    first, better = {}, 0
    for total in sorted(counts, reverse=True):
        first[total], better = 1 + better, better + counts[total]
    return [(first[total], counts[total] > 1) for total in totals]


def place_entries(entries: Iterable[Entry]) -> dict[int, tuple[int, bool]]:
    """Places of complete entries on official data, across protocols, if their board has such an order.

    Returns:
        By `id` of the entry, its place and whether another has the same.
    """
    fields: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        placing, protocol = entry.board.placing, entry.protocol
        if placing is not None and can_be_ranked(entry) and protocol.official and protocol.split == placing.split:
            fields[entry.benchmark].append(entry)
    return {
        id(entry): place
        for field in fields.values()
        for entry, place in zip(field, ranks([goodness(entry) for entry in field]), strict=True)
    }


def _order(entry: Entry) -> tuple[object, ...]:
    status = 2 if entry.evidence == "unverified" else int(not can_be_ranked(entry))
    protocol = entry.protocol
    return (
        entry.benchmark,
        status,
        protocol.official is not True,
        protocol.split != "test",
        protocol.split,
        -goodness(entry),
        entry.label,
        protocol.label,
    )
