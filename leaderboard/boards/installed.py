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
    """What entry points gave.

    Attributes:
        boards: by benchmark, in the order of their tables.
        broken: sentences, one for each board that cannot be used.
    """

    boards: Mapping[str, Board]
    broken: tuple[str, ...]


@cache
def find_boards() -> Installed:
    """All boards that installed packages offer; a process loads them once."""
    loaded: list[Board] = []
    broken: list[str] = []
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        try:
            loaded.append(_load(point, taken={REPRODUCED, *(view for board in loaded for view in board.views)}))
        except Exception as fault:  # whatever another package's module raises, the other boards still count
            package = "" if point.dist is None else f" of the package {point.dist.name}"
            reason = str(fault).splitlines()[0] if str(fault) else type(fault).__name__
            broken.append(
                f"the board {point.name}{package} cannot be used ({type(fault).__name__}: {reason}); results of "
                f"{point.name} are shown in a plain table, and checked only as far as that needs no board"
            )
    ordered = sorted(loaded, key=lambda board: (board.position, board.name))
    return Installed(boards=MappingProxyType({board.name: board for board in ordered}), broken=tuple(broken))


def _load(point: EntryPoint, *, taken: set[str]) -> Board:
    board = point.load()
    if not isinstance(board, Board):
        raise _Unusable(f"{point.value} is a {type(board).__name__}, and must be a Board")
    if board.name != point.name:
        raise _Unusable(f"its entry point is called {point.name}, its benchmark {board.name}; they must be the same")
    both = sorted(taken.intersection(board.views))
    if both or len(set(board.views)) < len(board.views):
        raise _Unusable(f"its tables are called {', '.join(board.views)}, but {', '.join(both) or 'one'} is taken")
    read_rows(board)
    return board
