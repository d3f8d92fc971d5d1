"""``piggyback leaderboard show``: a store's results and published ones as a table."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Final

from leaderboard.result import ResultError
from leaderboard.statistics.aggregation import is_shown, make_entries
from leaderboard.statistics.answers import with_intervals
from leaderboard.statistics.entries import Entry
from leaderboard.statistics.reproduction import HeldBackbone, reproduced_view
from leaderboard.store.store import Finding, StoredResult, read_store
from leaderboard.tables.formats import print_view
from leaderboard.tables.view_builders import decathlon_view, points_view, segmentation_view
from leaderboard.tables.views import View
from leaderboard.verbs.options import ShowOptions

_DEPTH: Final = 4  # folders from the store down to a result


def run_show(options: ShowOptions) -> int:
    """``piggyback leaderboard show``."""
    if options.store is None and not (options.published or options.unverified):
        raise ResultError("nothing to show: give a store, or leave out --no-published")
    held_backbones(options.same_backbone)  # before the long work
    results: Sequence[StoredResult] = ()
    findings: Sequence[Finding] = ()
    if options.store is not None:
        results, findings = read_store(options.store)
    published = options.published or options.view == "reproduced"  # which has nothing to say without
    entries = make_entries(results, published=published, unverified=options.unverified)
    left_out = count_left_out(results, findings)
    view = build(with_intervals(entries), options, left_out=left_out)
    print_view(view, format="json" if options.json else options.format)
    return 0


def build(entries: Sequence[Entry], options: ShowOptions, *, left_out: int) -> View:
    """The view that was asked for; ranks and places stay those among all entries."""

    def shown(entry: Entry) -> bool:
        return is_chosen(entry, options)

    match options.view:
        case "decathlon":
            return decathlon_view(entries, shown=shown, left_out=left_out)
        case "points":
            return points_view(entries, shown=shown, left_out=left_out)
        case "segmentation":
            return segmentation_view(entries, shown=shown, left_out=left_out)
        case "reproduced":
            return reproduced_view(entries, shown=shown, left_out=left_out, held=held_backbones(options.same_backbone))


def held_backbones(words: Sequence[str]) -> list[HeldBackbone]:
    """What ``--same-backbone`` says.

    Raises:
        ResultError: a word has not the form DIGITS=NETWORK.
    """
    parts = (word.partition("=") for word in words)
    return [HeldBackbone(digits=digits, network=network) for digits, _, network in parts]


def is_chosen(entry: Entry, options: ShowOptions) -> bool:
    """Whether an entry is of the protocol and the method that `options` asks for."""
    if options.protocol == "official" and entry.protocol.official is not True:
        return False
    return any(fnmatchcase(name, options.method) for name in (entry.method, entry.label)) or (
        options.method in (entry.method, entry.label)
    )


def count_left_out(results: Iterable[StoredResult], findings: Iterable[Finding]) -> int:
    """How many results of a store are in no table: those with findings, and those that no table has a place for."""
    places = {tuple(one.place.split("/")[:_DEPTH]) for one in findings if one.place.count("/") >= _DEPTH - 1}
    return len(places) + sum(not is_shown(one) for one in results)
