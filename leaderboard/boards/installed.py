"""The boards of installed packages, found by entry points; a broken one never stops the others."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Final

from leaderboard.boards.board import Board
from leaderboard.boards.published import read_rows

GROUP: Final = "piggyback.boards"
REPRODUCED: Final = "reproduced"
"""The name of the one table that belongs to no board."""


class _Unusable(ValueError):
    """A board that contradicts itself or another one."""


@dataclass(frozen=True, kw_only=True)
class Installed:
    """The boards that entry points offer.

    Attributes:
        boards: by benchmark, in the order of their tables.
        broken: sentences, one for each board that cannot be used.
    """

    boards: Mapping[str, Board]
    broken: tuple[str, ...]


@cache
def find_boards() -> Installed:
    """All boards that installed packages offer, loaded once per process."""
    points: dict[str, EntryPoint] = {}
    loaded: list[Board] = []
    faults: list[tuple[EntryPoint, Exception]] = []
    for point in sorted(set(entry_points(group=GROUP)), key=lambda point: (point.name, point.value)):
        try:
            if points.setdefault(point.name, point).value != point.value:
                raise _Unusable(f"{points[point.name].value} is there for the same benchmark")
            loaded.append(_load(point))
        except Exception as fault:  # whatever another package's module raises, the other boards still count
            faults.append((point, fault))
    boards: dict[str, Board] = {}
    taken = {REPRODUCED}
    for board in sorted(loaded, key=lambda board: (board.position, board.name)):
        clashing = [view for view in board.views if view in taken | points.keys() - {board.name}]
        if clashing:
            taken_name = _Unusable(f"the name of its table {clashing[0]} is taken; choose another")
            faults.append((points[board.name], taken_name))
            continue
        boards[board.name] = board
        taken.update(board.views)
    broken = tuple(_describe(*one, replaced=one[0].name in boards) for one in faults)
    return Installed(boards=MappingProxyType(boards), broken=broken)


def _load(point: EntryPoint) -> Board:
    board = point.load()
    if not isinstance(board, Board):
        raise _Unusable(f"{point.value} is a {type(board).__name__}, and must be a Board")
    if board.name != point.name:
        raise _Unusable(f"its entry point is called {point.name}, its benchmark {board.name}; they must be the same")
    read_rows(board)
    return board


def _describe(point: EntryPoint, fault: Exception, *, replaced: bool) -> str:
    package = "" if point.dist is None else f" of the package {point.dist.name}"
    said = str(fault).splitlines()
    reason = said[0] if said else type(fault).__name__
    if said and not isinstance(fault, _Unusable):
        reason = f"{type(fault).__name__}: {reason}"
    outcome = "are shown in a plain table, and checked only as far as that needs no board"
    if replaced:
        outcome = "follow the other one"
    return f"the board {point.name}{package} cannot be used ({reason}); results of {point.name} {outcome}"
