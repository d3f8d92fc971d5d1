"""``piggyback leaderboard show``: a store's results and published ones as a table."""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final

from leaderboard.boards.board import Board
from leaderboard.boards.installed import REPRODUCED
from leaderboard.boards.plain_boards import boards_for
from leaderboard.statistics.aggregation import is_shown, make_entries
from leaderboard.statistics.answers import with_intervals
from leaderboard.statistics.entries import Entry
from leaderboard.store.reading import Finding, StoredResult, read_store
from leaderboard.tables.formats import print_view
from leaderboard.tables.reproduction import HeldBackbone, reproduced_view
from leaderboard.tables.view_builders import board_view, points_view
from leaderboard.tables.views import View
from leaderboard.verbs.notices import warn_of_broken_boards
from leaderboard.verbs.options import ShowOptions
from piggyback.shell.errors import ResultError, UnknownName, shown

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
    boards = boards_for(one.result for one in results)
    name = find_view(options.view, boards)
    published = options.published or name == REPRODUCED  # which has nothing to say without
    entries = with_intervals(make_entries(results, published=published, unverified=options.unverified))
    view = build(name, entries, boards=boards, options=options, left_out=count_left_out(results, findings, boards))
    warn_of_broken_boards()
    print_view(view, format="json" if options.json else options.format)
    return 0


def find_view(name: str | None, boards: Mapping[str, Board]) -> str:
    """Name of the requested table; the first board's if none was requested.

    Raises:
        UnknownName: there is no such table.
    """
    known = [*(view for board in boards.values() for view in board.views), REPRODUCED]
    if name is None:
        return known[0]
    if name not in known:
        raise UnknownName(shown(name), known=known, kind="table")
    return name


def build(
    name: str, entries: Sequence[Entry], *, boards: Mapping[str, Board], options: ShowOptions, left_out: int
) -> View:
    """The view of that name; ranks and places stay those among all entries."""

    def chosen(entry: Entry) -> bool:
        return is_chosen(entry, options)

    if name == REPRODUCED:
        held = held_backbones(options.same_backbone)
        return reproduced_view(entries, shown=chosen, left_out=left_out, held=held)
    board = next(board for board in boards.values() if name in board.views)
    make = board_view if name == board.views[0] else points_view
    return make(board, entries, shown=chosen, left_out=left_out)


def held_backbones(words: Sequence[str]) -> list[HeldBackbone]:
    """Parse the words of ``--same-backbone``.

    Raises:
        ResultError: a word is not of the form DIGITS=NETWORK.
    """
    parts = (word.partition("=") for word in words)
    return [HeldBackbone(digits=digits, network=network) for digits, _, network in parts]


def is_chosen(entry: Entry, options: ShowOptions) -> bool:
    """Whether an entry has the protocol and the method that `options` ask for."""
    if options.protocol == "official" and entry.protocol.official is not True:
        return False
    return any(fnmatchcase(name, options.method) for name in (entry.method, entry.label)) or (
        options.method in (entry.method, entry.label)
    )


def count_left_out(results: Iterable[StoredResult], findings: Iterable[Finding], boards: Mapping[str, Board]) -> int:
    """Number of results in no table: those with findings, and those that no table has a place for."""
    places = {tuple(one.place.split("/")[:_DEPTH]) for one in findings if one.place.count("/") >= _DEPTH - 1}
    return len(places) + sum(not is_shown(one, boards) for one in results)
