"""Ranks: among complete entries of one benchmark and one protocol; equal totals share one."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from leaderboard.statistics.entries import Entry, Protocol


def ranked(entries: Iterable[Entry]) -> list[Entry]:
    """The entries with their ranks, in the order in which tables show them.

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
        for entry, (rank, tied) in zip(field, ranks([_total(entry) for entry in field]), strict=True)
    ]
    return sorted([*found, *others], key=_order)


def can_be_ranked(entry: Entry) -> bool:
    """Whether an entry is complete and its numbers are measured or were read in their source."""
    return entry.evidence != "unverified" and entry.total is not None and not entry.missing


def ranks(totals: Sequence[float]) -> list[tuple[int, bool]]:
    """Rank of each total, from 1 for the largest, and whether another has the same.

    Equal totals share the better rank, and the ranks they use up stay empty: 1, 2, 2, 4.
    """
    counts = Counter(totals)
    first, better = {}, 0
    for total in sorted(counts, reverse=True):
        first[total], better = 1 + better, better + counts[total]
    return [(first[total], counts[total] > 1) for total in totals]


def place_in_challenge(entries: Iterable[Entry]) -> dict[int, tuple[int, bool]]:
    """Place of complete decathlon entries on the official test part, as the challenge counts: any network, any parts.

    The rules (robots.ox.ac.uk/~vgg/decathlon) let everybody train on train and val, with any network; so this order
    is across protocols, where ranks are not.

    Returns:
        By `id` of the entry, its place and whether another has the same.
    """
    field = [
        entry
        for entry in entries
        if can_be_ranked(entry)
        and (entry.benchmark, entry.protocol.split, entry.protocol.official) == ("decathlon", "test", True)
    ]
    return {id(entry): place for entry, place in zip(field, ranks([_total(entry) for entry in field]), strict=True)}


def _total(entry: Entry) -> float:
    return float("-inf") if entry.total is None else entry.total.mean


def _order(entry: Entry) -> tuple[object, ...]:
    status = 2 if entry.evidence == "unverified" else int(not can_be_ranked(entry))
    protocol = entry.protocol
    return (
        entry.benchmark,
        status,
        protocol.official is not True,
        protocol.split != "test",
        protocol.split,
        -_total(entry),
        entry.label,
        protocol.label,
    )
